"""Probing while training: the best checkpoint by it, and a training that doesn't notice."""

import pytest
from kitti_scenes import COARSE, write_kitti
from mmengine.registry import init_default_scope
from toy_engine import assert_same, everything
from toy_images import write_toy_images
from toy_video import write_toy_videos

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import load_config
from mmjepa.engine.hooks.online_probe import OnlineBEVProbeHook, OnlineProbeHook
from mmjepa.engine.runner import build_runner
from mmjepa.evaluation.loss_accuracy import loss_accuracy_pairs
from mmjepa.evaluation.probes import SampleProbeSettings, SampleProtocolSettings, probe_samples

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


IMAGE_OPTIONS = {
    'arch': [16, 2, 2, 32],
    'predictor_depth': 1,
    'predictor_width': 16,
    'batch_size': 4,
    'num_workers': 0,
    'max_epochs': 2,
    'log_interval': 1,
    'log_level': 'ERROR',
    'default_hooks.checkpoint.interval': 1,
}


VIDEO_OPTIONS = {
    **{name: IMAGE_OPTIONS[name] for name in ('arch', 'predictor_depth', 'predictor_width')},
    'img_size': 32,
    'num_frames': 4,
    'batch_size': 2,
    'num_workers': 0,
    'log_level': 'ERROR',
}


def runs_of(config, options, tmp_path):
    init_default_scope('mmjepa')

    def run(name, hook=None, **more):
        cfg = load_config(config, {**options, **more})
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'{name}_{id(cfg)}'
        if hook is None:
            cfg.visualizer = None
        else:
            cfg.custom_hooks.append(hook)
        runner = build_runner(cfg)
        runner.train()
        return runner

    return run


@pytest.fixture
def train(repo, tmp_path):
    root = write_kitti(tmp_path / 'kitti', train=4, val=2)
    options = {**OPTIONS, 'data_root': str(root)}
    return runs_of(repo / 'configs/adl_jepa/kitti.py', options, tmp_path)


@pytest.fixture
def train_images(repo, tmp_path):
    root = write_toy_images(tmp_path / 'images', 12)
    write_toy_images(root, 9, 'test')
    options = {**IMAGE_OPTIONS, 'data_root': str(root)}
    return runs_of(repo / 'configs/ijepa/vit_tiny4_cifar10.py', options, tmp_path)


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


def test_images_by_epoch_keep_the_best_and_change_nothing(train_images, tmp_path):
    probed = train_images('probed', probe_interval=1)
    accuracy = probed.message_hub.get_scalar('val/probe/knn').data[0].tolist()
    assert len(accuracy) == 2 and all(0 <= a <= 1 for a in accuracy)
    best = 1 + accuracy.index(max(accuracy))
    names = sorted(p.name for p in (tmp_path / 'probed').glob('*.pth'))
    assert names == [f'best_probe_knn_epoch_{best}.pth', 'epoch_1.pth', 'epoch_2.pth']
    found, expected = everything(probed), everything(train_images('plain'))
    found['scalars'] = {k: v for k, v in found['scalars'].items() if not k.startswith('val/')}
    assert_same(expected, found)
    # the tool's own figure
    settings = SampleProbeSettings(arms=('checkpoint',), protocol=SampleProtocolSettings(ks=(20,)))
    tool = probe_samples(probed.cfg, tmp_path / 'probed' / 'epoch_2.pth', settings)
    assert tool['protocols']['knn']['checkpoint']['mean'] == pytest.approx(accuracy[1])


def test_images_by_iteration(train_images, tmp_path):
    probed = train_images('probed', max_iters=4, probe_interval=2)
    accuracy = probed.message_hub.get_scalar('val/probe/knn').data[0].tolist()
    assert len(accuracy) == 2
    hub = probed.message_hub
    losses, told = (hub.get_scalar(name).data[0] for name in ('train/loss', 'val/probe/train_loss'))
    assert told == pytest.approx([losses[:2].mean(), losses[2:].mean()]) and len(losses) == 4
    best = 2 * (1 + accuracy.index(max(accuracy)))
    assert (tmp_path / 'probed' / f'best_probe_knn_iter_{best}.pth').is_file()


def test_pairs_of_loss_and_accuracy_from_a_run_on_videos(repo, tmp_path):
    root = write_toy_videos(tmp_path / 'videos', 12)
    write_toy_videos(root, 8, 'test')
    options = {**VIDEO_OPTIONS, 'data_root': str(root), 'max_iters': 6, 'log_interval': 4}
    hook = dict(
        type='OnlineProbeHook',
        interval=3,
        by_epoch=False,
        settings=dict(
            protocols=('knn', 'attentive'),
            clips=2,
            protocol=dict(ks=(3,), attentive_depth=2, attentive=dict(epochs=1, batch_size=4)),
        ),
    )
    run = runs_of(repo / 'configs/vjepa/vit_tiny_sim.py', options, tmp_path)('probed', hook)
    pairs = loss_accuracy_pairs(tmp_path / 'probed')
    losses = run.message_hub.get_scalar('train/loss').data[0]
    assert [pair.step for pair in pairs] == [3, 6]
    means = [losses[:3].mean(), losses[3:].mean()]
    assert [pair.loss for pair in pairs] == pytest.approx(means, abs=1e-4)
    found = run.message_hub.get_scalar('val/probe/attentive').data[0]
    assert [pair.accuracy for pair in pairs] == pytest.approx(found, abs=1e-4)
    assert len(loss_accuracy_pairs(tmp_path / 'probed', 'knn')) == 2
    with pytest.raises(ValueError, match='no probe/linear beside probe/train_loss'):
        loss_accuracy_pairs(tmp_path / 'probed', 'linear')


def test_settings_of_the_hooks():
    images = OnlineProbeHook(settings=dict(max_train=7, protocol=dict(ks=(3,))))
    assert images.settings['max_train'] == 7 and images.settings['max_test'] == 1000
    lidar = OnlineBEVProbeHook(3, settings=dict(max_val_frames=5))
    assert lidar.settings == dict(arms=('checkpoint',), max_train_frames=400, max_val_frames=5)
    with pytest.raises(ValueError, match='OnlineBEVProbeHook: interval must be at least 1'):
        OnlineBEVProbeHook(0)
