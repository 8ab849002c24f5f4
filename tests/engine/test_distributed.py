"""Two gloo processes on CPU equal one process with the double batch."""

import multiprocessing
import os
import socket
import subprocess
import sys
import traceback

import numpy as np
import pytest
import torch
from cases import CASES
from torch import nn
from toy_engine import StopAt, toy_runner

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.runner import build_runner
from mmjepa.models.jepa import ADLJEPA
from mmjepa.registry import MODELS

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='a rule on CPU; hide the GPUs with CUDA_VISIBLE_DEVICES='
)

STEPS = 4
# without BatchNorm the scale of the features decays; SGD shows a gradient's size, Adam hides it
OPTIONS = {
    'model.type': 'ADLJEPAWithoutNorm',
    'model.encoder.backend': 'rulebook',
    'model.encoder.base_channels': 4,
    'model.encoder.output_channels': 8,
    'model.encoder.encoder_channels': [[4], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
    'model.mask_generator.mask_per': 'sample',
    'max_iters': STEPS,
    'log_interval': 1,
    'default_hooks.checkpoint.interval': 2,
    'param_scheduler': [],
    'custom_hooks.0.momentum': (0.5, 0.6),
}


def _without_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            _without_norm(child)


class ADLJEPAWithoutNorm(ADLJEPA):
    """Known to the registry in the child processes only: the contract asks every method there."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        _without_norm(self)


def _train(rank, world, out, root, options):
    MODELS.register_module(module=ADLJEPAWithoutNorm)
    cfg = CASES['ADLJEPA'].load(root, **{**OPTIONS, **options})
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1)
    cfg.work_dir, cfg.launcher = str(out / 'run'), 'pytorch' if world > 1 else 'none'
    cfg.visualizer = None
    cfg.log_level = 'WARNING'
    runner = build_runner(cfg)
    runner.train()
    if rank == 0:
        scalars = {
            k: torch.tensor(v.data[0])
            for k, v in runner.message_hub.log_scalars.items()
            if 'loss' in k or 'distance' in k or 'grad_norm' in k
        }
        torch.save(dict(scalars=scalars, state=runner.bare_model.state_dict()), out / 'result.pth')


def _child(target, port, rank, world, out, *args):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
    try:
        target(rank, world, out, *args)
        if world > 1:
            torch.distributed.barrier()
    except BaseException:
        (out / f'error_{rank}.txt').write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # nothing of the test session's is torn down here


def _free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def _processes(target, world, out, *args):
    """Exit codes of ``world`` processes that each call ``target(rank, world, out, *args)``."""
    out.mkdir(exist_ok=True)
    port = _free_port()
    context = multiprocessing.get_context('fork')  # an import of torch each would take longer
    children = [
        context.Process(target=_child, args=(target, port, rank, world, out, *args))
        for rank in range(world)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    errors = {path.stem: path.read_text() for path in out.glob('error_*.txt')}
    return [child.exitcode for child in children], errors


def _run(world, root, out, **options):
    codes, errors = _processes(_train, world, out, root, options)
    assert codes == [0] * world, errors
    return torch.load(out / 'result.pth')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    root = CASES['ADLJEPA'].make_data(folder / 'toy')
    for path in sorted(root.rglob('*.bin'))[::2]:  # some with a third of the cells
        points = np.fromfile(path, np.float32).reshape(-1, 4)
        points[points[:, 0] < 4].tofile(path)
    reduce = 'model.loss.reduce_denominators'
    return dict(
        one=_run(1, root, folder / 'one', batch_size=2, **{reduce: True}),
        two=_run(2, root, folder / 'two', batch_size=1, **{reduce: True}),
        own=_run(2, root, folder / 'own', batch_size=1, max_iters=2, **{reduce: False}),
        folder=folder,
    )


def test_two_processes_equal_one_with_the_double_batch(runs):
    one, two = runs['one'], runs['two']
    assert (
        {
            'train/loss',
            'train/loss_occupied',
            'train/loss_empty',
            'train/loss_variance',
            'train/grad_norm',
        }
        <= one['scalars'].keys()
        == two['scalars'].keys()
    )
    for name, values in one['scalars'].items():
        if 'collapse' not in name:  # measured on each rank's own rows
            assert len(values) == STEPS
            tolerance = 1e-5 if name == 'train/grad_norm' else 1e-6
            torch.testing.assert_close(two['scalars'][name], values, rtol=tolerance, atol=tolerance)
    assert not any('running_mean' in key for key in one['state'])
    for key, value in one['state'].items():
        torch.testing.assert_close(two['state'][key], value, rtol=0, atol=1e-6, msg=key)


def test_weights_and_target_moved(runs, tmp_path):
    """Otherwise the comparison above would say nothing."""
    start = load_file(runs['folder'] / 'one' / 'run' / 'iter_2.pth')['state_dict']
    end = runs['one']['state']
    for prefix in ('encoder.', 'target.encoder.', 'predictor.'):
        moves = [(end[k] - start[k]).abs().max() for k in end if k.startswith(prefix)]
        assert max(moves) > 1e-3, prefix
    assert (end['mask_token'] - start['mask_token']).abs().max() > 1e-4


def test_each_rank_its_own_denominators_differ(runs):
    """The documented option of the released code is no rounding matter."""
    one, own = runs['one']['scalars']['train/loss'], runs['own']['scalars']['train/loss']
    assert len(own) == 2
    assert (one[:2] - own).abs().max() > 1e-4  # a hundred times the tolerance above


def test_checkpoint_of_two_ranks(runs):
    checkpoint = load_file(runs['folder'] / 'two' / 'run' / f'iter_{STEPS}.pth')
    assert len(checkpoint['meta']['rng']) == 2
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    assert checkpoint['meta']['iter'] == STEPS


# ---- the engine's rules with two ranks


def _train_toy(rank, world, out, repo, name, stop, options):
    runner = toy_runner(repo, out / name, resume=stop is None, launcher='pytorch', **options)
    if stop:
        runner.register_hook(StopAt(stop))
    runner.train()
    torch.save(runner.bare_model.state_dict(), out / f'{name}_{rank}.pth')


def test_resume_between_two_steps(repo, tmp_path):
    """Ranks hold different gradients in the middle of an accumulation."""
    # a large eps: Adam makes rounding of vanishing gradients into whole steps
    options = {
        'accumulate': 2,
        'max_iters': 8,
        'optim_wrapper.optimizer.eps': 1.0,
        'default_hooks.checkpoint.max_keep_ckpts': -1,
    }
    for name, stop in (('whole', 8), ('w', 3), ('w', None)):
        codes, errors = _processes(_train_toy, 2, tmp_path, repo, name, stop, options)
        assert codes == [0, 0], errors
    whole, resumed = (torch.load(tmp_path / f'{name}_0.pth') for name in ('whole', 'w'))
    other = torch.load(tmp_path / 'w_1.pth')
    for key, value in whole.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-5, atol=1e-6)
        if 'running' not in key:
            assert torch.equal(resumed[key], other[key]), 'the ranks went apart'
    lost = load_file(tmp_path / 'w' / 'iter_3.pth')['optimizer']['accumulated']
    assert any(g is not None and g.abs().max() > 1e-3 for g in lost['gradients'])


def test_a_bad_loss_on_another_rank_leaves_no_checkpoint(repo, tmp_path):
    """In the middle of an accumulation, where no gradient carries it to rank 0."""
    options = {'model.bad_index': 7, 'max_iters': 12, 'seed': 3, 'accumulate': 12}
    codes, errors = _processes(_train_toy, 2, tmp_path, repo, 'w', 12, options)
    assert codes == [1, 1]
    assert 'NonFiniteLossError' in errors['error_1'], 'choose another seed: rank 0 had the sample'
    assert 'NonFiniteLossError' not in errors['error_0']
    saved = [int(p.stem[5:]) for p in (tmp_path / 'w').glob('iter_*.pth')]
    bad = int(next((tmp_path / 'w').glob('nonfinite_rank1_*')).stem.split('iter')[1])
    assert max(saved) == bad, 'iterations count from 0: the step before'


@pytest.mark.slow
def test_dist_train_script(repo, tmp_path):
    """tools/dist_train.sh with two CPU processes: trains, saves, resumes."""
    root = CASES['ADLJEPA'].make_data(tmp_path / 'toy')
    case = CASES['ADLJEPA']
    options = dict(case.options, data_root=root, max_iters=2, batch_size=1)
    words = [f'{k}={v}'.replace(' ', '') for k, v in options.items()]
    words += ['model.encoder.base_channels=4', 'model.encoder.output_channels=8']
    command = [
        'bash',
        str(repo / 'tools/dist_train.sh'),
        str(repo / 'configs/adl_jepa/kitti.py'),
        '2',
        '--work-dir',
        str(tmp_path / 'w'),
        '--cfg-options',
        *words,
    ]
    env = dict(
        os.environ,
        PORT=str(_free_port()),
        PATH=os.path.dirname(sys.executable) + ':' + os.environ['PATH'],
        PYTHON=sys.executable,
    )
    first = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True)
    assert first.returncode == 0, first.stderr[-2000:]
    assert 'effective batch 2 = 1 a process x 2 processes' in first.stdout + first.stderr
    assert len(load_file(tmp_path / 'w' / 'iter_2.pth')['meta']['rng']) == 2
    command[command.index('max_iters=2')] = 'max_iters=4'
    command.insert(4, '--resume')
    again = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True)
    assert again.returncode == 0, again.stderr[-2000:]
    assert load_file(tmp_path / 'w' / 'iter_4.pth')['meta']['iter'] == 4
    text = again.stdout + again.stderr
    assert 'resumed epoch' in text and 'not repeat' not in text
