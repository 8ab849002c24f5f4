"""2N steps = N + resume + N, bit for bit on CPU, without replaying the loader."""

import random

import numpy as np
import pytest
import torch
from cases import CASES
from toy_engine import Log, StopAt, assert_same, everything, toy_runner

from mmjepa.engine.checkpoint import CheckpointError, atomic_save, load_file
from mmjepa.engine.hooks import CollapseMonitorHook
from mmjepa.engine.runner import latest_checkpoint, rng_state, set_rng_state

# smaller than the contract's case: the rules are the same
SMALL = {
    'model.encoder.backend': 'rulebook',
    'model.encoder.base_channels': 4,
    'model.encoder.output_channels': 8,
    'model.encoder.encoder_channels': [[4], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
}


def test_toy_run_is_deterministic_and_sensitive(repo, tmp_path):
    """The comparison itself: equal runs are equal, and each part reacts to a change."""

    def run(name, **options):
        runner = toy_runner(repo, tmp_path / name, **options)
        runner.train()
        return everything(runner)

    first = run('a')
    assert_same(first, run('b'))
    for options in (dict(seed=1), dict(lr=0.2), dict(accumulate=2)):
        other = run(f'c{len(str(options))}', **options)
        with pytest.raises(AssertionError):
            assert_same(first['weights'], other['weights'])
    assert len(first['scalars']['train/loss']) == 6


@pytest.mark.parametrize(
    ('stop', 'options'),
    [
        (3, dict()),  # an epoch holds 6 iterations: in the middle of one
        (6, dict(max_iters=12)),  # at its end
        (3, dict(num_workers=2)),
        (3, dict(accumulate=2, max_iters=8)),  # a gradient is half accumulated
        (5, dict(accumulate=3, max_iters=7)),  # and the last step is a short one
    ],
)
def test_resume_is_exact(repo, tmp_path, stop, options):
    whole = toy_runner(repo, tmp_path / 'whole', **options)
    whole.train()
    expected = everything(whole)
    expected_python, expected_numpy = random.random(), np.random.rand()  # noqa: NPY002

    interrupted = toy_runner(repo, tmp_path / 'w', **options)
    interrupted.register_hook(StopAt(stop))
    interrupted.train()
    assert interrupted.iter == stop < whole.max_iters
    for path in (tmp_path / 'w').glob('iter_*.pth'):
        assert int(path.stem.split('_')[1]) <= stop

    torch.manual_seed(99)
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, **options)
    log = Log(resumed)
    resumed.train()
    assert_same(expected, everything(resumed))
    assert (expected_python, expected_numpy) == (random.random(), np.random.rand())  # noqa: NPY002
    assert not [t for t in log.texts if 'BatchNorm' not in t]

    # data order, and no batch read again
    seeds = whole.model.seen
    assert interrupted.model.seen == seeds[:stop]
    assert resumed.model.seen == seeds[stop:]
    if not options.get('num_workers'):
        assert len(resumed.train_dataloader.dataset.asked) == 2 * (whole.max_iters - stop)


def _interrupted(repo, work_dir, stop=3, **options):
    runner = toy_runner(repo, work_dir, **options)
    runner.register_hook(StopAt(stop))
    runner.train()
    return runner


def test_resume_follows_a_changed_length_and_learning_rate(repo, tmp_path):
    """Values after the resume are those of the new configuration, in closed form."""
    _interrupted(repo, tmp_path / 'w', max_iters=6)
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, max_iters=10, lr=0.3)
    resumed.train()
    assert resumed.iter == 10 and len(resumed.model.seen) == 7
    history = resumed.message_hub.get_scalar('train/lr').data[0]
    assert history[3] == pytest.approx(0.3 * (1 + (0.2 - 1) * 0.5 * (1 + np.cos(np.pi * 3 / 5))))
    assert history[5] == pytest.approx(0.3)  # half of 10: the peak
    assert history[9] == pytest.approx(0.3 * 0.5 * (1 + np.cos(np.pi * 4 / 5)))


def test_a_finished_run_resumes_to_nothing(repo, tmp_path):
    toy_runner(repo, tmp_path / 'w').train()
    again = toy_runner(repo, tmp_path / 'w', resume=True)
    again.train()
    assert again.iter == 6 and again.model.seen == []


def test_auto_resume_without_checkpoints_starts_anew(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', resume=True, max_iters=2)
    runner.train()
    assert runner.iter == 2 and len(runner.model.seen) == 2


def _damage(path, how):
    content = path.read_bytes()
    if how == 'truncated':
        path.write_bytes(content[: len(content) // 2])
    elif how == 'empty':
        path.write_bytes(b'')
    else:  # a block that never reached the disk
        middle = len(content) // 2
        path.write_bytes(content[:middle] + b'\0' * 512 + content[middle + 512 :])


@pytest.mark.parametrize('how', ['truncated', 'empty', 'zeroed'])
def test_damaged_newest_checkpoint_is_passed_over(repo, tmp_path, how):
    _interrupted(repo, tmp_path / 'w')
    _damage(tmp_path / 'w' / 'iter_3.pth', how)
    runner = toy_runner(repo, tmp_path / 'w', resume=True)
    log = Log(runner)
    runner.train()
    assert len(runner.model.seen) == 6 - 2
    assert [t for t in log.texts if 'iter_3.pth' in t and 'passing over' in t]


def test_all_checkpoints_damaged_stops(repo, tmp_path):
    _interrupted(repo, tmp_path / 'w')
    for path in (tmp_path / 'w').glob('*.pth'):
        _damage(path, 'truncated')
    runner = toy_runner(repo, tmp_path / 'w', resume=True)
    with pytest.raises(CheckpointError, match=r'none of the 3 checkpoints.*--resume FILE'):
        runner.train()


def test_latest_is_what_was_written_last(tmp_path):
    """Neither the number (an older, longer run) nor the time (a copied folder) decides alone."""
    import os

    for number, age in ((300, 30), (20, 20), (10, 10)):
        path = tmp_path / f'iter_{number}.pth'
        torch.save(dict(meta=dict(iter=number)), path)
        os.utime(path, (1e9 - age, 1e9 - age))
    assert latest_checkpoint(str(tmp_path)).name == 'iter_10.pth'
    (tmp_path / 'last_checkpoint').write_text('/somewhere/else/iter_20.pth')
    assert latest_checkpoint(str(tmp_path)).name == 'iter_20.pth'
    work_dir = tmp_path / 'w'
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text(str(tmp_path / 'iter_20.pth'))
    assert latest_checkpoint(str(work_dir)) == tmp_path / 'iter_20.pth'
    (work_dir / 'last_checkpoint').unlink()
    assert latest_checkpoint(str(work_dir)) is None


def _rewrite(path, change):
    checkpoint = load_file(path)
    change(checkpoint)
    atomic_save(checkpoint, path)


def test_another_world_size_warns(repo, tmp_path):
    _interrupted(repo, tmp_path / 'w')
    path = tmp_path / 'w' / 'iter_3.pth'
    _rewrite(path, lambda c: c['meta'].update(rng=c['meta']['rng'] * 2))
    runner = toy_runner(repo, tmp_path / 'w', resume=path)
    log = Log(runner)
    runner.train()
    assert runner.iter == 6
    assert [t for t in log.texts if 'RNG states of 2 processes' in t and 'this run has 1' in t]


def test_lost_gradients_are_reported(repo, tmp_path):
    options = dict(accumulate=2)
    _interrupted(repo, tmp_path / 'w', **options)
    path = tmp_path / 'w' / 'iter_3.pth'
    _rewrite(path, lambda c: c['optimizer'].pop('accumulated'))
    runner = toy_runner(repo, tmp_path / 'w', resume=path, **options)
    log = Log(runner)
    runner.train()
    assert [t for t in log.texts if '1 iterations into an accumulation over 2' in t]


def test_weights_alone_do_not_resume(repo, tmp_path):
    runner = _interrupted(repo, tmp_path / 'w')
    atomic_save(dict(state_dict=runner.model.state_dict()), tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='load_from'):
        toy_runner(repo, tmp_path / 'v', resume=tmp_path / 'weights.pth').train()


def test_the_data_order_follows_the_checkpoint(repo, tmp_path):
    """A run without a fixed seed goes on with the order that it drew."""
    first = _interrupted(repo, tmp_path / 'w', **{'randomness.seed': None})
    drawn = first.train_dataloader.batch_sampler
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, **{'randomness.seed': None})
    resumed.train()
    assert resumed.train_dataloader.batch_sampler.seed == drawn.seed
    drawn.start_iteration = 3
    expected = [[seed for _, seed in batch] for _, batch in zip(range(3), drawn, strict=False)]
    assert resumed.model.seen == expected


def test_validation_leaves_the_training_alone(repo, tmp_path):
    """Random numbers drawn between epochs, and a checkpoint written meanwhile, don't shift it."""
    from mmengine.hooks import Hook

    class Probe(Hook):
        def after_train_epoch(self, runner):
            with runner.outside_training():
                torch.rand(3), random.random()
                runner.save_checkpoint(runner.work_dir, 'probe.pth', by_epoch=False)

    options = dict(length=6)  # an epoch holds 3 iterations
    plain = toy_runner(repo, tmp_path / 'plain', **options)
    plain.train()
    probed = toy_runner(repo, tmp_path / 'probed', **options)
    probed.register_hook(Probe())
    probed.train()
    assert_same(everything(plain), everything(probed))
    states = load_file(tmp_path / 'probed' / 'probe.pth')['meta']['rng']
    set_rng_state(states[0])
    drawn = torch.rand(3)
    set_rng_state(load_file(tmp_path / 'plain' / 'iter_6.pth')['meta']['rng'][0])
    assert torch.equal(drawn, torch.rand(3))


def test_a_validation_loop_leaves_the_training_alone(repo, tmp_path):
    """Loading shuffled validation data draws from the global generator."""
    options = dict(length=6)
    plain = toy_runner(repo, tmp_path / 'plain', **options)
    plain.train()
    validated = toy_runner(repo, tmp_path / 'val', val=True, **options)
    validated.train()
    assert validated.message_hub.get_scalar('val/rows').data[0].tolist() == [4, 4]
    expected, found = everything(plain), everything(validated)
    found['scalars'] = {k: v for k, v in found['scalars'].items() if not k.startswith('val/')}
    assert_same(expected, found)
    # SIGTERM ends the run without another validation
    stopped = toy_runner(repo, tmp_path / 'stopped', val=True, **options)
    stopped.register_hook(StopAt(3))
    stopped.train()
    assert 'val/rows' not in stopped.message_hub.log_scalars


def test_rng_states_survive_a_file(tmp_path):
    atomic_save(dict(rng=rng_state()), tmp_path / 'rng.pth')
    drawn = torch.rand(2), random.random(), np.random.randn(3)  # noqa: NPY002
    set_rng_state(load_file(tmp_path / 'rng.pth')['rng'])
    again = torch.rand(2), random.random(), np.random.randn(3)  # noqa: NPY002
    assert torch.equal(drawn[0], again[0]) and drawn[1] == again[1]
    assert np.array_equal(drawn[2], again[2])


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ad_l_jepa_resumes_exactly(tmp_path, workers):
    """The real model: encoder, target with its own BatchNorm, tokens, monitors."""
    case = CASES['ADLJEPA']
    root = case.make_data(tmp_path / 'toy')
    options = dict(SMALL, max_iters=4, num_workers=workers, accumulate=2)
    whole = case.runner(root, tmp_path / 'whole', **options)
    whole.train()
    expected = everything(whole)
    first = case.runner(root, tmp_path / 'w', **options, **{'default_hooks.checkpoint.interval': 1})
    first.register_hook(StopAt(3))
    first.train()
    resumed = case.runner(
        root, tmp_path / 'w', load_from=str(tmp_path / 'w' / 'iter_3.pth'), **options
    )
    resumed.train()
    assert_same(expected, everything(resumed))
    moved = [
        k
        for k in expected['weights']
        if k.startswith('target.encoder.')
        and 'weight' in k
        and not torch.equal(expected['weights'][k], expected['weights'][k[7:]])
    ]
    assert moved, 'the target never left the context encoder'
    starts = [
        next(h.start for h in r.hooks if isinstance(h, CollapseMonitorHook))
        for r in (whole, resumed)
    ]
    assert starts[0] == starts[1] is not None


def test_workers_end_with_the_training(tmp_path):
    """The process would wait for them at its exit."""
    import multiprocessing

    case = CASES['ADLJEPA']
    root = case.make_data(tmp_path / 'toy')
    before = set(multiprocessing.active_children())
    case.runner(root, tmp_path / 'w', num_workers=2, max_iters=2, **SMALL).train()
    assert set(multiprocessing.active_children()) <= before
