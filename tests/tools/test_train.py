"""tools/train.py and tools/test.py from their command lines, and the scripts around them."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cases import CASES
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import ConfigError, load_config
from mmjepa.registry import METRICS, MODELS

REPO = Path(__file__).resolve().parents[2]
SMALL = {
    'model.encoder.backend': 'rulebook',
    'model.encoder.base_channels': 4,
    'model.encoder.output_channels': 8,
    'model.encoder.encoder_channels': [[4], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
}


def _tool(name):
    spec = importlib.util.spec_from_file_location(f'tools_{name}', REPO / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, evaluate = _tool('train'), _tool('test')


@pytest.fixture
def data(tmp_path):
    return CASES['ADLJEPA'].make_data(tmp_path / 'toy')


def words(data, **options):
    options = {**CASES['ADLJEPA'].options, **SMALL, 'data_root': data, **options}
    return ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in options.items())]


@pytest.fixture
def config(tmp_path):
    """A user's config: MMEngine keeps loggers by its name, which must differ between runs."""
    path = tmp_path / 'configs' / 'mine' / f'c{time.time_ns()}.py'
    path.parent.mkdir(parents=True)
    path.write_text("_base_ = ['mmjepa::adl_jepa/kitti.py']\nlog_level = 'WARNING'\n")
    return path


def test_trains_resumes_and_leaves_everything(config, data, tmp_path):
    """Default work dir; bfloat16 on CPU; TensorBoard; the resolved config; --resume."""
    train.main([str(config), '--amp', *words(data, max_iters=2)])
    work_dir = tmp_path / 'work_dirs' / 'mine' / config.stem  # tests run in tmp_path
    first = load_file(work_dir / 'iter_2.pth')
    assert first['meta']['iter'] == 2 and first['meta']['method'] == 'ADLJEPA'
    assert all(v.dtype != torch.bfloat16 for v in first['state_dict'].values())
    assert list(work_dir.glob('*/vis_data/events.out.tfevents.*'))
    assert (work_dir / 'environment.json').is_file()
    resolved = work_dir / config.name
    again = load_config(resolved)
    assert again.optim_wrapper.amp == 'bf16' and again.max_iters == 2
    assert (
        load_config(resolved)._cfg_dict
        == type(again).fromstring(first['meta']['cfg'], '.py')._cfg_dict
    )
    with pytest.raises(ConfigError, match='resolved copy'):
        load_config(resolved, dict(batch_size=8))
    assert (
        load_config(resolved, {'train_dataloader.batch_size': 8}).train_dataloader.batch_size == 8
    )

    other = config.with_name(f'{config.stem}_more.py')
    config.rename(other)
    train.main(
        [
            str(other),
            '--work-dir',
            str(work_dir),
            '--resume',
            '--amp',
            'bf16',
            *words(data, max_iters=4),
        ]
    )
    assert load_file(work_dir / 'iter_4.pth')['meta']['iter'] == 4


def test_amp_reaches_the_predictor_and_spares_the_encoder(data, tmp_path):
    runner = CASES['ADLJEPA'].runner(
        data, tmp_path / 'w', max_iters=1, **SMALL, **{'optim_wrapper.amp': 'bf16'}
    )
    seen = {}
    runner.model.predictor.register_forward_hook(
        lambda module, inputs, out: seen.update(predictor=out.dtype)
    )
    runner.model.encoder.conv_out.register_forward_hook(
        lambda module, inputs, out: seen.update(encoder=out.features.dtype)
    )
    runner.train()
    assert seen == dict(predictor=torch.bfloat16, encoder=torch.float32)


def fails(*argv):
    with pytest.raises(SystemExit) as error:
        train.main([str(a) for a in argv])
    text = str(error.value)
    assert text.startswith('error: '), text
    return text


KITTI = REPO / 'configs/adl_jepa/kitti.py'


def test_bad_arguments(data, tmp_path):
    assert 'no config file' in fails(REPO / 'configs/adl_jepa/kiti.py')
    assert 'kitti.py' in fails(REPO / 'configs/adl_jepa/kiti.py')
    text = fails(KITTI, '--resume', tmp_path / 'none.pth', *words(data))
    assert 'none.pth' in text and '--resume alone' in text
    text = fails(KITTI, *words(data, batchsize=2))
    assert "'batchsize'" in text and 'batch_size' in text
    assert not (tmp_path / 'work_dirs').exists(), 'nothing is left of a run that never was'
    with pytest.raises(SystemExit):
        train.main([str(KITTI), '--amp', 'fp8'])


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is CUDA')
def test_fp16_needs_cuda(data):
    assert '--amp bf16' in fails(KITTI, '--amp', 'fp16', *words(data))


def test_settings_of_amp():
    cfg = load_config(KITTI)
    train.set_amp(cfg, 'bf16')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.amp) == ('JEPAOptimWrapper', 'bf16')
    cfg.optim_wrapper.type = 'OptimWrapper'  # a downstream config
    train.set_amp(cfg, 'bf16')
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')
    cfg.default_scope = 'mmdet'
    with pytest.raises(ConfigError, match='RoIAlign .* --amp fp16'):
        train.set_amp(cfg, 'bf16')


def test_another_runs_checkpoints_are_not_trained_over(data, tmp_path):
    (tmp_path / 'w').mkdir()
    (tmp_path / 'w' / 'iter_3.pth').write_bytes(b'')
    text = fails(KITTI, '--work-dir', tmp_path / 'w', *words(data))
    assert 'holds the checkpoints of another run' in text and '--resume' in text
    for option in ('--overwrite', '--resume'):
        train.prepare(
            train.parse_args([str(KITTI), '--work-dir', str(tmp_path / 'w'), option, *words(data)])
        )


@pytest.mark.parametrize(('amp', 'kind'), [('bf16', 'JEPAOptimWrapper'), ('bf16', None)])
def test_amp_of_a_downstream_config(amp, kind, monkeypatch):
    cfg = Config(dict(optim_wrapper=dict(type=f'mmjepa.{kind}' if kind else 'OptimWrapper')))
    train.set_amp(cfg, amp)
    wrapper = cfg.optim_wrapper
    if kind:
        assert (wrapper.type, wrapper.amp) == ('mmjepa.JEPAOptimWrapper', 'bf16')
        monkeypatch.setattr(train.torch.cuda, 'is_available', lambda: True)
        train.set_amp(cfg, 'fp16')
        assert cfg.optim_wrapper.type == 'mmjepa.JEPAFp16OptimWrapper'
        assert 'amp' not in cfg.optim_wrapper
    else:
        assert (wrapper.type, wrapper.dtype) == ('AmpOptimWrapper', 'bfloat16')


def test_work_dir_that_cannot_be_written(data, tmp_path, tmp_path_factory):
    (tmp_path / 'file').write_text('')
    text = fails(KITTI, '--work-dir', tmp_path / 'file' / 'w', *words(data))
    assert str(tmp_path / 'file' / 'w') in text and '--work-dir' in text
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    root, base = os.geteuid() == 0, tmp_path_factory.getbasetemp().parent
    try:
        if root:
            tmp_path.chmod(0o755)
            for parent in tmp_path.parents:
                if parent.owner() == 'root' and base in (parent, *parent.parents):
                    parent.chmod(parent.stat().st_mode | 0o011)
            os.seteuid(65534)
        with pytest.raises(ConfigError, match='Permission denied'):
            train.check_work_dir(str(locked / 'w'))
        with pytest.raises(ConfigError, match='Permission denied'):
            train.check_work_dir(str(locked))
    finally:
        if root:
            os.seteuid(0)


def test_absent_data(config, tmp_path):
    text = fails(config, *words(tmp_path / 'absent'))
    assert str(tmp_path / 'absent') in text and 'create_data.py sim-kitti' in text
    assert 'cvlibs.net' in text


def test_auto_scale_lr(data, tmp_path):
    args = train.parse_args([str(KITTI), '--auto-scale-lr', *words(data)])
    assert train.prepare(args).auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert not train.prepare(train.parse_args([str(KITTI), *words(data)])).auto_scale_lr.enable
    bare = tmp_path / 'bare.py'
    bare.write_text("_base_ = ['mmjepa::adl_jepa/kitti.py']\nauto_scale_lr = None\n")
    assert 'base_batch_size' in fails(bare, '--auto-scale-lr', *words(data))


# ---- tools/test.py


def test_a_pretraining_config_is_probed(data, tmp_path):
    with pytest.raises(SystemExit, match=r'tools/probe\.py .*kitti\.py x\.pth'):
        evaluate.main([str(KITTI), 'x.pth', *words(data)])


@pytest.fixture
def toy_test_config(tmp_path):
    @METRICS.register_module(force=True)
    class MeanOfOutputs(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += [float(v) for v in data_samples]

        def compute_metrics(self, results):
            return {'mean': sum(results) / len(results), 'count': len(results)}

    @MODELS.register_module(force=True)
    class Doubler(BaseModel):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.zeros(()))

        def forward(self, inputs, mode='tensor'):
            return [v * self.factor for v in inputs]

    path = tmp_path / f't{time.time_ns()}.py'
    path.write_text("""
default_scope = 'mmjepa'
model = dict(type='Doubler')
test_cfg = dict(type='TestLoop')
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=[dict(inputs=float(i)) for i in range(5)])
test_evaluator = dict(type='MeanOfOutputs')
default_hooks = dict(logger=dict(type='LoggerHook'))
log_level = 'WARNING'
""")
    return path


def test_evaluates_a_test_set(toy_test_config, tmp_path):
    checkpoint = tmp_path / 'c.pth'
    torch.save(dict(meta={}, state_dict=dict(factor=torch.tensor(2.0))), checkpoint)
    metrics = evaluate.main(
        [str(toy_test_config), str(checkpoint), '--work-dir', str(tmp_path / 'w')]
    )
    assert metrics == dict(mean=4.0, count=5)
    torch.save(dict(meta={}, state_dict=dict(other=torch.tensor(2.0))), checkpoint)
    again = toy_test_config.rename(toy_test_config.with_name('again.py'))
    with pytest.raises(SystemExit, match='factor'):  # MMEngine would warn and evaluate zeros
        evaluate.main([str(again), str(checkpoint), '--work-dir', str(tmp_path / 'v')])
    again = again.rename(again.with_name('once_more.py'))
    with pytest.raises(SystemExit, match='no checkpoint file'):
        evaluate.main([str(again), str(tmp_path / 'd.pth')])


# ---- scripts


@pytest.mark.parametrize('name', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts(name, tmp_path):
    script = REPO / 'tools' / name
    assert os.access(script, os.X_OK)
    subprocess.run(['bash', '-n', str(script)], check=True)
    usage = subprocess.run(['bash', str(script)], text=True, capture_output=True)
    assert usage.returncode == 2 and f'tools/{name}' in usage.stderr
    # what they would run, seen by a stand-in for python and srun
    for fake in ('python', 'srun'):
        (tmp_path / fake).write_text('#!/bin/sh\necho "$0" "$@"\n')
        (tmp_path / fake).chmod(0o755)
    env = dict(
        os.environ,
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        PORT='1234',
        NNODES='2',
        NODE_RANK='1',
        MASTER_ADDR='host0',
        GPUS='4',
        SRUN_ARGS='--mem 10G',
    )
    env.pop('PYTHON', None)
    argv = {
        'dist_train.sh': ['c.py', '4'],
        'dist_test.sh': ['c.py', 'x.pth', '4'],
        'slurm_train.sh': ['part', 'job', 'c.py'],
    }[name]
    out = subprocess.run(
        ['bash', str(script), *argv, '--cfg-options', 'a=b c'],
        env=env,
        text=True,
        capture_output=True,
        check=True,
    ).stdout
    if name == 'slurm_train.sh':
        assert re.search(r'--ntasks=4 --ntasks-per-node=4 .*--mem 10G', out)
        assert re.search(
            r'tools/train\.py c\.py --launcher slurm --cfg-options a=b c$', out.strip()
        )
    else:
        assert re.search(
            r'--nnodes=2 --node_rank=1 --nproc_per_node=4 --master_addr=host0 '
            r'--master_port=1234',
            out,
        )
        tool = name[5:].replace('.sh', r'\.py')
        assert re.search(
            rf'tools/{tool} c\.py (x\.pth )?--launcher pytorch --cfg-options a=b c$', out.strip()
        )


@pytest.mark.slow
@pytest.mark.parametrize('group', [False, True])
def test_sigterm_from_outside(data, tmp_path, group):
    """A real process with workers; the signal to it alone, or to all of them as from slurm."""
    command = [
        sys.executable,
        str(REPO / 'tools/train.py'),
        str(KITTI),
        '--work-dir',
        str(tmp_path / 'w'),
    ]
    process = subprocess.Popen(
        [*command, *words(data, max_iters=2000, num_workers=2, log_interval=1)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if 'Iter(train)' in line:
            (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
            break
    lines += process.stdout.readlines()
    assert process.wait(60) == 0, ''.join(lines)[-2000:]
    saved = next(iter((tmp_path / 'w').glob('iter_*.pth')))
    number = int(saved.stem[5:])
    done = subprocess.run(
        [
            *command,
            '--resume',
            'auto',
            *words(data, max_iters=number + 1, num_workers=2, log_interval=1),
        ],
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f'resumed epoch: {number // 3}, iter: {number}' in done.stdout + done.stderr
    assert load_file(tmp_path / 'w' / f'iter_{number + 1}.pth')['meta']['iter'] == number + 1


def test_option_without_a_value(capsys):
    with pytest.raises(SystemExit):
        train.parse_args(['config.py', '--cfg-options', 'data_root=x', 'batch_size'])
    assert "'batch_size' has no value, give KEY=VALUE" in capsys.readouterr().err
