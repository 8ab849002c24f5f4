"""Hooks: nothing bad is saved, nothing good is lost, and the log says what a person needs."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from toy_engine import Log, StopAt, assert_same, everything, toy_runner

from mmjepa.engine.checkpoint import atomic_write, load_file
from mmjepa.engine.hooks import SaveOnSignalHook
from mmjepa.engine.hooks.loss_guard import LossGuardHook, NonFiniteLossError


def checkpoints(folder):
    return sorted(p.name for p in Path(folder).glob('*.pth'))


# ---- a loss that isn't finite


@pytest.mark.parametrize('gradient', [False, True])
@pytest.mark.parametrize('accumulate', [1, 3])
def test_non_finite_stops_and_saves_the_batch(repo, tmp_path, gradient, accumulate):
    """The loss, or a gradient behind a finite loss; no checkpoint of that step."""
    options = {'model.bad_index': 7, 'model.bad_gradient': gradient}
    runner = toy_runner(repo, tmp_path / 'w', accumulate=accumulate, max_iters=12, **options)
    with pytest.raises(NonFiniteLossError, match=r'nonfinite_rank0_iter\d+\.pth'):
        runner.train()
    bad = runner.iter  # from 0
    found = [p for p in checkpoints(tmp_path / 'w') if p.startswith('nonfinite')]
    assert len(found) == 1
    saved = load_file(tmp_path / 'w' / found[0])
    # a gradient is seen at the step that takes it
    assert bad == saved['iteration']
    if not (gradient and accumulate > 1):
        assert 7 in [int(i) for i in saved['batch']['index']]
    assert len(saved['batch']['x']) == 2 and saved['batch']['x'][0].shape == (4,)
    assert 'loss_size' in saved['losses']
    steps = [int(p[5:-4]) for p in checkpoints(tmp_path / 'w') if p.startswith('iter')]
    assert max(steps, default=0) <= bad
    for step in steps:
        state = load_file(tmp_path / 'w' / f'iter_{step}.pth')['state_dict']
        assert all(torch.isfinite(v).all() for v in state.values())


def test_a_late_flag_is_read_before_saving(repo, tmp_path):
    """As on CUDA, where nothing is read in the iteration itself: the checkpoint asks first."""
    runner = toy_runner(repo, tmp_path / 'w', max_iters=12, **{'model.bad_index': 7})
    guard = next(h for h in runner.hooks if isinstance(h, LossGuardHook))
    guard.before_save_on_all_ranks = guard.check
    guard.check = lambda runner: None
    with pytest.raises(NonFiniteLossError):
        runner.train()
    assert f'iter_{runner.iter + 1}.pth' not in checkpoints(tmp_path / 'w')


# ---- signals


class KillAt(Hook):
    """Sends this process a signal while an iteration runs."""

    def __init__(self, iteration, number=signal.SIGTERM):
        self.iteration, self.number = iteration, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ('number', 'workers'), [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGTERM, 1)]
)
def test_signal_saves_and_resume_is_exact(repo, tmp_path, number, workers):
    options = dict(max_iters=9, num_workers=workers, **{'default_hooks.checkpoint.interval': 4})
    whole = toy_runner(repo, tmp_path / 'whole', **options)
    whole.train()
    expected = everything(whole)
    before = signal.getsignal(number)
    runner = toy_runner(repo, tmp_path / 'w', **options)
    runner.register_hook(KillAt(5, number))
    log = Log(runner)
    runner.train()
    assert runner.iter == 6, 'the running iteration is finished, no other begun'
    assert checkpoints(tmp_path / 'w') == ['iter_4.pth', 'iter_6.pth']
    assert (tmp_path / 'w' / 'last_checkpoint').read_text().endswith('iter_6.pth')
    assert [t for t in log.texts if 'iter_6.pth' in t and '--resume auto' in t]
    assert signal.getsignal(number) is before
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, **options)
    resumed.train()
    assert len(resumed.model.seen) == 3
    assert_same(expected, everything(resumed))
    # the next regular checkpoint takes the place of the one saved on the signal
    assert checkpoints(tmp_path / 'w') == ['iter_4.pth', 'iter_8.pth', 'iter_9.pth']


KILL_WORKERS = """
import multiprocessing, os, signal, subprocess, sys, time
from pathlib import Path
from mmengine.hooks import Hook
from toy_engine import toy_runner

class KillWorkers(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            children = multiprocessing.active_children()
            assert len(children) == 2, children
            pids = ' '.join(str(child.pid) for child in children)
            subprocess.run(['sh', '-c', f'kill -TERM {pids}'], check=True)  # another sender
            time.sleep(0.3)
            assert all(child.is_alive() for child in children)

runner = toy_runner(Path(sys.argv[1]), Path('w'), num_workers=2, max_iters=20,
                    **{'train_dataloader.persistent_workers': True})
runner.register_hook(KillWorkers())
runner.train()
print('done at', runner.iter)
"""


def test_workers_leave_sigterm_to_the_main_process(repo, tmp_path):
    """Schedulers signal every process of a job, and torch ends the run when a worker dies.

    The workers must still go when the main process does: in a process of its own, to its end.
    """
    env = dict(os.environ, PYTHONPATH=f'{repo}:{Path(__file__).parent}')
    out = subprocess.run(
        [sys.executable, '-c', KILL_WORKERS, str(repo)],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
        timeout=100,
    )
    assert out.stdout.endswith('done at 20\n'), out.stderr


# ---- checkpoints


def test_retention_and_last_checkpoint(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', **{'default_hooks.checkpoint.max_keep_ckpts': 2})
    runner.train()
    assert checkpoints(tmp_path / 'w') == ['iter_5.pth', 'iter_6.pth']
    assert (tmp_path / 'w' / 'last_checkpoint').read_text() == str(tmp_path / 'w' / 'iter_6.pth')
    assert not list((tmp_path / 'w').glob('.tmp*'))


def test_retention_goes_on_after_a_resume(repo, tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 2}
    first = toy_runner(repo, tmp_path / 'w', **options)
    first.register_hook(StopAt(3))
    first.train()
    toy_runner(repo, tmp_path / 'w', resume=True, **options).train()
    assert checkpoints(tmp_path / 'w') == ['iter_5.pth', 'iter_6.pth']


def test_by_epoch_names_and_position(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', length=4, max_iters=None, max_epochs=3)
    runner.train()
    assert checkpoints(tmp_path / 'w') == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']
    for epoch in (1, 3):
        meta = load_file(tmp_path / 'w' / f'epoch_{epoch}.pth')['meta']
        assert (meta['epoch'], meta['iter']) == (epoch, 2 * epoch)
    resumed = toy_runner(
        repo,
        tmp_path / 'w',
        resume=tmp_path / 'w' / 'epoch_2.pth',
        length=4,
        max_iters=None,
        max_epochs=3,
    )
    resumed.train()
    assert len(resumed.model.seen) == 2


def test_the_new_file_stands_before_the_old_one_goes(repo, tmp_path, monkeypatch):
    """A crash while writing, at any checkpoint, leaves a whole older one and no half one."""
    import mmjepa.engine.runner as runner_module

    runner = toy_runner(repo, tmp_path / 'w', **{'default_hooks.checkpoint.max_keep_ckpts': 1})
    real = runner_module.atomic_save

    def crash_at_third(obj, path):
        if str(path).endswith('iter_3.pth'):

            def write(file):
                file.write(b'half')
                raise OSError('no space left on device')

            atomic_write(path, write)
        real(obj, path)

    monkeypatch.setattr(runner_module, 'atomic_save', crash_at_third)
    with pytest.raises(OSError, match='no space'):
        runner.train()
    assert checkpoints(tmp_path / 'w') == ['iter_2.pth']
    assert not list((tmp_path / 'w').glob('.tmp*'))
    monkeypatch.undo()
    resumed = toy_runner(repo, tmp_path / 'w', resume=True)
    resumed.train()
    assert len(resumed.model.seen) == 4


def test_out_dir(repo, tmp_path):
    """Checkpoints on another disk are found again, from the work dir alone."""
    options = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'disk')}
    first = toy_runner(repo, tmp_path / 'w', **options)
    first.register_hook(StopAt(3))
    first.train()
    assert checkpoints(tmp_path / 'w') == []
    assert checkpoints(tmp_path / 'disk' / 'w') == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, **options)
    resumed.train()
    assert len(resumed.model.seen) == 3


class Probe(Hook):
    """Reports a metric without a validation loop, as a probe does."""

    priority = 'LOWEST'

    def __init__(self, values, name='probe/accuracy'):
        self.values, self.name = values, name

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.call_hook('after_val_epoch', metrics={self.name: self.values[runner.iter]})


@pytest.mark.parametrize('stop', [2, 4])
def test_save_best_by_a_probe(repo, tmp_path, stop):
    values = [0.2, 0.5, float('nan'), 0.4, 0.7, 0.6]
    options = {
        'default_hooks.checkpoint.save_best': 'probe/accuracy',
        'default_hooks.checkpoint.rule': 'greater',
        'default_hooks.checkpoint.max_keep_ckpts': 1,
    }
    states = {}

    class Watch(Hook):
        priority = 'NORMAL'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            states[runner.iter + 1] = {k: v.clone() for k, v in runner.model.state_dict().items()}

    first = toy_runner(repo, tmp_path / 'w', **options)
    first.register_hook(Probe(values))
    first.register_hook(Watch())
    first.register_hook(StopAt(stop))
    log = Log(first, level=20)
    first.train()
    best = 'best_probe_accuracy_iter_2.pth'
    assert checkpoints(tmp_path / 'w') == [best, f'iter_{stop}.pth']
    saved = load_file(tmp_path / 'w' / best)
    assert_same(saved['state_dict'], states[2])
    assert saved['meta']['iter'] == 2 and 'optimizer' not in saved
    assert [t for t in log.texts if 'probe/accuracy: 0.5000' in t]
    # the resumed run knows the best score and which file to replace
    second = toy_runner(repo, tmp_path / 'w', resume=True, **options)
    second.register_hook(Probe(values))
    second.train()
    assert checkpoints(tmp_path / 'w') == ['best_probe_accuracy_iter_5.pth', 'iter_6.pth']
    # a regular checkpoint written again while probing is the one of its iteration
    assert load_file(tmp_path / 'w' / 'iter_6.pth')['meta']['iter'] == 6


def test_best_of_an_unknown_metric_is_said(repo, tmp_path):
    runner = toy_runner(
        repo, tmp_path / 'w', max_iters=1, **{'default_hooks.checkpoint.save_best': 'accuracy'}
    )
    runner.register_hook(Probe([0.1], 'knn'))
    log = Log(runner)
    runner.train()
    assert [t for t in log.texts if "save_best='accuracy'" in t and 'knn' in t]


# ---- scalars and log lines


class _Recorded(RuntimeInfoHook):
    """MMEngine's own hook, writing under another prefix of the same hub."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for key, value in outputs.items():
            runner.message_hub.update_scalar(f'peer/{key}', value)
        norm = runner.optim_wrapper.last_grad_norm
        if norm is not None:
            runner.message_hub.update_scalar('peer/grad_norm', float(norm))

    before_train = before_train_iter = after_train = before_train_epoch = before_run = (
        lambda *args, **kwargs: None
    )


@pytest.mark.parametrize('accumulate', [1, 2])
def test_deferred_scalars_equal_mmengines(repo, tmp_path, accumulate):
    """Also where an iteration has no gradient norm, and for an interval that never divides."""
    runner = toy_runner(
        repo,
        tmp_path / 'w',
        max_iters=9,
        accumulate=accumulate,
        log_interval=4,
        **{'default_hooks.checkpoint.interval': 5},
    )
    runner.register_hook(_Recorded())
    runner.train()
    scalars = runner.message_hub.log_scalars
    peers = [k for k in scalars if k.startswith('peer/')]
    assert {'peer/loss', 'peer/loss_size', 'peer/loss_shift', 'peer/mean', 'peer/grad_norm'} == set(
        peers
    )
    for name in peers:
        ours = scalars[name.replace('peer', 'train')].data
        assert ours[0].tolist() == pytest.approx(scalars[name].data[0].tolist(), rel=1e-6)
        assert len(ours[0]) == {1: 9, 2: 5}[accumulate] if 'grad_norm' in name else 9


def test_scalars_are_there_when_a_line_is_logged(repo, tmp_path):
    """Lines count within an epoch: an epoch of 5 and an interval of 3 must not show old values."""
    runner = toy_runner(
        repo,
        tmp_path / 'w',
        length=10,
        max_iters=10,
        log_interval=3,
        **{'log_processor.window_size': 1},
    )
    counts = []

    class Watch(Hook):
        priority = 'LOW'  # just before the logger

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if (batch_idx + 1) % 3 == 0:
                counts.append(
                    (runner.iter + 1, len(runner.message_hub.get_scalar('train/loss').data[0]))
                )

    runner.register_hook(Watch())
    runner.train()
    assert counts == [(3, 3), (8, 8)]


def test_losses_are_not_read_at_every_step(repo, tmp_path):
    runner = toy_runner(
        repo,
        tmp_path / 'w',
        max_iters=6,
        log_interval=6,
        **{'default_hooks.checkpoint.interval': 6},
    )
    lengths = []

    class Watch(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            lengths.append('train/loss' in runner.message_hub.log_scalars)

    runner.register_hook(Watch())
    runner.train()
    assert lengths == [False] * 5 + [True]


def test_log_line(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', max_iters=4, log_level='INFO')
    log = Log(runner, level=20)
    runner.train()
    line = next(t for t in log.texts if t.startswith('Iter(train) [2/4]'))
    for word in (
        'lr: ',
        'eta: ',
        'time: ',
        'data_time: ',
        'loss: ',
        'loss_size: ',
        'loss_shift: ',
        'mean: ',
        'grad_norm: ',
        'samples_per_s: ',
        'data_wait: ',
    ):
        assert word in line, (word, line)
    assert re.search(r'(peak_rss_mb|memory): \d', line)
    assert re.search(r'eta: \d:\d\d:\d\d', line)
    share = float(re.search(r'data_wait: ([\d.]+)', line)[1])
    assert 0 <= share <= 1
    lines = [
        json.loads(text)
        for text in next((tmp_path / 'w').glob('*/vis_data/scalars.json')).read_text().splitlines()
    ]
    assert [entry['step'] for entry in lines] == [2, 4]
    assert {'loss', 'grad_norm', 'data_wait', 'samples_per_s'} <= lines[0].keys()


def test_a_quiet_start(repo, tmp_path, recwarn):
    """No warning that a user can do nothing about."""
    runner = toy_runner(repo, tmp_path / 'w', num_workers=1, max_iters=2)
    log = Log(runner)
    runner.train()
    assert log.texts == []
    assert [str(w.message) for w in recwarn if 'pin_memory' in str(w.message)] == []


def test_environment_and_config_in_the_work_dir(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', max_iters=1)
    environment = json.loads((tmp_path / 'w' / 'environment.json').read_text())
    assert environment['packages']['torch'].split('+')[0] == torch.__version__.split('+')[0]
    assert {'mmengine', 'numpy'} <= environment['packages'].keys()
    assert environment['mmjepa'] and environment['python'] and environment['command']
    if (repo / '.git').exists():
        assert re.fullmatch(r'.*[0-9a-f]{7,}(-dirty)?', environment['git'])
    assert (tmp_path / 'w' / Path(runner.cfg.filename).name).is_file()


def test_second_interrupt_leaves_at_once(capfd):
    import signal

    hook = SaveOnSignalHook()
    hook._handle(signal.SIGINT, None)
    assert hook.received == signal.SIGINT
    assert 'stopping after this iteration' in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        hook._handle(signal.SIGINT, None)
