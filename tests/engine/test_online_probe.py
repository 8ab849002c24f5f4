"""Probing while training: the best checkpoint by it, and a training that doesn't notice."""

import pytest
from kitti_scenes import COARSE, write_kitti
from mmengine.registry import init_default_scope
from toy_engine import assert_same, everything

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import load_config
from mmjepa.engine.runner import build_runner

OPTIONS = {
    **COARSE,
    'batch_size': 2,
    'max_epochs': 2,
    'log_interval': 1,
    'log_level': 'ERROR',
    'model.encoder.backend': 'rulebook',
    'model.encoder.base_channels': 4,
    'model.encoder.output_channels': 8,
    'model.encoder.encoder_channels': [[4], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
}


@pytest.fixture
def train(repo, tmp_path):
    init_default_scope('mmjepa')
    root = write_kitti(tmp_path / 'kitti', train=4, val=2)

    def run(name, **options):
        cfg = load_config(
            repo / 'configs/adl_jepa/kitti.py', {**OPTIONS, 'data_root': str(root), **options}
        )
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'{name}_{id(cfg)}'
        cfg.visualizer = None
        runner = build_runner(cfg)
        runner.train()
        return runner

    return run


def test_keeps_the_best_and_changes_nothing(train, tmp_path):
    probed = train('probed', probe_interval=1)
    accuracy = probed.message_hub.get_scalar('val/probe/knn').data[0].tolist()
    assert len(accuracy) == 2 and all(0 <= a <= 1 for a in accuracy)
    best = 1 + accuracy.index(max(accuracy))
    names = sorted(p.name for p in (tmp_path / 'probed').glob('*.pth'))
    assert names == [f'best_probe_knn_epoch_{best}.pth', 'epoch_1.pth', 'epoch_2.pth']
    assert_same(
        load_file(tmp_path / 'probed' / names[0])['state_dict'],
        load_file(tmp_path / 'probed' / f'epoch_{best}.pth')['state_dict'],
    )
    found, expected = everything(probed), everything(train('plain'))
    found['scalars'] = {k: v for k, v in found['scalars'].items() if not k.startswith('val/')}
    assert_same(expected, found)
