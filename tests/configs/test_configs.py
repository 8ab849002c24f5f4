"""Every config below configs/ and projects/*/configs: builds, and follows from its variables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmjepa.engine.config import ConfigError, check_config, load_config
from mmjepa.engine.runner import JEPARunner
from mmjepa.registry import DATASETS, HOOKS, METRICS, MODELS

REPO = Path(__file__).resolve().parents[2]
FILES = [
    path
    for folder in (REPO / 'configs', *(REPO / 'projects').glob('*/configs'))
    for path in sorted(folder.rglob('*.py'))
    if '_base_' not in path.parts
]
PRETRAINING = [p for p in FILES if 'downstream' not in p.parts]
LIDAR = [p for p in PRETRAINING if 'point_cloud_range' in p.read_text()]


def _name(path):
    return str(path.relative_to(REPO).with_suffix(''))


def each(paths):
    return pytest.mark.parametrize('path', paths, ids=_name)


def _leaves(node, place=''):
    yield place, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f'{place}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _leaves(value, f'{place}.{i}')


def test_there_are_configs():
    assert {
        'configs/adl_jepa/kitti',
        'configs/adl_jepa/waymo',
        'configs/adl_jepa/nuscenes',
        'configs/adl_jepa/once',
    } <= {_name(p) for p in LIDAR}
    there = [*(REPO / 'configs').rglob('*.py'), *(REPO / 'projects').glob('*/configs/**/*.py')]
    assert set(FILES) == {p for p in there if '_base_' not in p.parts}


@each(PRETRAINING)
def test_pretraining_config_builds(path):
    cfg = load_config(path)
    check_config(cfg)
    init_default_scope('mmjepa')
    with torch.device('meta'):  # a billion random numbers would take minutes
        model = MODELS.build(cfg.model)
    assert model.mask_generator is not None
    everything = load_config(path, dict(probe_interval=1)) if 'probe_interval' in cfg else cfg
    check_config(everything)
    for hook in [*everything.default_hooks.values(), *everything.custom_hooks]:
        if hook is not None:
            HOOKS.build(hook)
    for metric in cfg.get('val_evaluator') or ():
        METRICS.build(metric)
    for name in ('data_root', 'batch_size', 'num_workers', 'seed'):
        assert name in cfg, f'{path} declares no {name}'
    assert cfg.get('max_epochs') or cfg.get('max_iters')
    assert path.read_text().startswith('"""'), 'the command, the hardware, the expected result'
    assert len(path.read_text().splitlines()) <= 140


@each(PRETRAINING)
def test_variables_reach_everything(path):
    options = dict(data_root='/elsewhere', batch_size=37, num_workers=0, seed=12345)
    cfg = load_config(path, dict(options, max_iters=913))
    loader = cfg.train_dataloader
    assert loader.batch_size == 37 and loader.num_workers == 0
    assert not loader.get('persistent_workers')
    assert cfg.train_cfg.max_iters == 913
    assert cfg.randomness.seed == 12345
    assert cfg.log_processor.by_epoch is False
    assert cfg.default_hooks.checkpoint.by_epoch is False
    old = load_config(path)
    # nothing still says what the variables said before
    for name in ('data_root', 'batch_size'):
        stale = [
            place
            for place, value in _leaves(cfg._cfg_dict)
            if type(value) is type(old[name])
            and value == old[name]
            and place.split('.')[-1] == name
        ]
        assert not stale, stale
    stale = [
        place
        for place, value in _leaves(cfg._cfg_dict)
        if isinstance(value, str) and value.startswith(str(old.data_root))
    ]
    assert not stale, stale
    epochs = load_config(path, dict(max_epochs=3, max_iters=None))
    assert epochs.train_cfg.max_epochs == 3 and epochs.train_cfg.max_iters is None
    assert epochs.log_processor.by_epoch and epochs.default_hooks.checkpoint.by_epoch


@each(LIDAR)
def test_the_grid_follows_from_range_and_voxel_size(path):
    old = load_config(path)
    area, size = [0, -6.4, -3, 12.8, 6.4, 1], [0.4, 0.2, 0.1]
    cfg = load_config(path, dict(point_cloud_range=area, voxel_size=size))
    stale = [
        place
        for place, value in _leaves(cfg._cfg_dict)
        if value in (old.point_cloud_range, old.voxel_size)
    ]
    assert not stale, stale
    assert cfg.model.encoder.sparse_shape == [41, 64, 32]
    assert cfg.model.data_preprocessor.point_cloud_range == area
    assert cfg.model.data_preprocessor.voxel_size == size
    in_range = [
        v
        for _, v in _leaves(cfg._cfg_dict['train_dataloader'])
        if isinstance(v, dict) and v.get('type') == 'PointsRangeFilter'
    ]
    assert in_range and all(step['point_cloud_range'] == area for step in in_range)


@each(PRETRAINING)
def test_absent_data_says_what_to_do(path, tmp_path):
    cfg = load_config(path, dict(data_root=str(tmp_path / 'absent')))
    init_default_scope('mmjepa')
    with pytest.raises(FileNotFoundError) as error:
        DATASETS.build(cfg.train_dataloader.dataset)
    text = str(error.value)
    assert str(tmp_path / 'absent') in text
    assert 'create_data.py' in text or 'download' in text.lower(), text


@each(FILES)
def test_the_resolved_text_is_the_config(path, tmp_path):
    """What checkpoints and work dirs hold gives the same config again."""
    cfg = load_config(path, dict(batch_size=3) if path in PRETRAINING else None)
    copy = tmp_path / path.name
    copy.write_text(cfg.pretty_text)
    assert load_config(copy)._cfg_dict == cfg._cfg_dict
    assert Config.fromstring(cfg.pretty_text, '.py')._cfg_dict == cfg._cfg_dict


USER = """
_base_ = ['mmjepa::adl_jepa/kitti.py']
variance_weight = 2.0
model = dict(loss=dict(variance_weight=variance_weight))
"""


@pytest.fixture
def user_config(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(USER)
    return path


def test_inheriting_from_the_package(user_config):
    cfg = load_config(user_config, dict(data_root='/d', max_iters=5, batch_size=3))
    ours = load_config(
        REPO / 'configs/adl_jepa/kitti.py', dict(data_root='/d', max_iters=5, batch_size=3)
    )
    assert cfg.model.loss.variance_weight == 2.0 and cfg.variance_weight == 2.0
    cfg.model.loss.variance_weight = cfg.variance_weight = 1.0
    assert cfg._cfg_dict == ours._cfg_dict
    check_config(cfg)
    with pytest.raises(ConfigError, match='variance_weight'):
        load_config(user_config, dict(varianceweight=1))


def test_inheriting_from_outside_the_checkout(user_config, tmp_path):
    """In a process that has never seen the checkout's folder; mmengine's own reader does it too."""
    code = (
        'import sys; from mmengine.config import Config; import mmjepa; '
        'print(Config.fromfile(sys.argv[1]).model.loss.variance_weight)'
    )
    env = dict(os.environ, PYTHONPATH=str(REPO))
    out = subprocess.run(
        [sys.executable, '-c', code, str(user_config)],
        cwd=tmp_path,
        env=env,
        text=True,
        capture_output=True,
    )
    assert out.stdout.strip() == '2.0', out.stderr


def test_loader_of_a_real_config(tmp_path):
    """Pinned memory where there is a device to copy to, and only there."""
    import torch
    from toy_lidar import write_toy_sweeps

    root = write_toy_sweeps(tmp_path / 'toy', 3)
    cfg = load_config(
        REPO / 'configs/adl_jepa/kitti.py', dict(data_root=str(root), batch_size=2, num_workers=0)
    )
    assert cfg.train_dataloader.pin_memory
    init_default_scope('mmjepa')
    loader = JEPARunner.build_dataloader(cfg.train_dataloader, seed=0)
    assert loader.pin_memory == torch.cuda.is_available()
    assert cfg.train_dataloader.pin_memory, 'the config itself is left alone'
