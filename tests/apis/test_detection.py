"""Detectors of mmdet3d from a config and a checkpoint, and what they find in a sweep."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmjepa.apis import detect, detection, init_detector
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.config import ConfigError, load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
SMALL = {'voxel_size': [0.2, 0.2, 0.1], 'point_cloud_range': [0, -25.6, -3, 51.2, 25.6, 1]}


def test_importing_the_apis_needs_no_mmdet3d():
    code = (
        'import sys, mmjepa.apis, mmjepa.apis.detection\n'
        "assert not {'mmcv', 'mmdet', 'mmdet3d', 'spconv', 'open3d'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_missing_package_is_named(monkeypatch):
    def fail(*args):
        raise ImportError('Failed to import mmjepa.downstream.lidar')

    monkeypatch.setattr(detection, 'resolve_config', fail)
    with pytest.raises(ImportError, match=r'^Failed'):  # mmdet3d is there, something else is wrong
        detection.load_detection_config('second.py')
    monkeypatch.setattr(detection.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"second.py needs mmcv and mmdet3d: pip install 'mmjepa"):
        detection.load_detection_config('second.py')


def test_a_config_without_detector_is_refused():
    with pytest.raises(ConfigError, match=r'kitti.py has no detector \(its model is ADLJEPA\)'):
        init_detector(CONFIGS / 'adl_jepa/kitti.py')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    from mm3d_scenes import write_kitti

    path = tmp_path_factory.mktemp('data') / 'kitti'
    write_kitti(path, frames=1)
    return path


@pytest.fixture(scope='module')
def config(root):
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    cfg = load_config(
        CONFIGS / 'downstream/mmdet3d/second_kitti.py', {**SMALL, 'data_root': str(root)}
    )
    cfg.model.test_cfg.score_thr = 0.0  # an untrained detector scores everything near 0.01
    return cfg


@pytest.fixture(scope='module')
def model(config):
    torch.manual_seed(0)
    return init_detector(config)


@pytest.fixture
def sweep(root):
    return root / 'training/velodyne/000000.bin'


def test_finds_what_mmdet3d_finds_in_the_reduced_sweep(model, root, sweep):
    from mmdet3d.apis import inference_detector

    found = detect(model, sweep)
    reduced = root / 'training/velodyne_reduced/000000.bin'
    # the same points, cut to the camera's view
    seen = np.fromfile(reduced, np.float32).reshape(-1, 4)
    low, high = np.array(SMALL['point_cloud_range']).reshape(2, 3)
    seen = seen[((seen[:, :3] > low) & (seen[:, :3] < high)).all(axis=1)]
    assert np.array_equal(found['points'], seen)
    assert len(seen) < sweep.stat().st_size / 16

    with DefaultScope.overwrite_default_scope('mmdet3d'):
        theirs = inference_detector(model, str(reduced))[0].pred_instances_3d
    order = torch.argsort(theirs.scores_3d, descending=True, stable=True)
    boxes = theirs.bboxes_3d[order]
    assert len(found['boxes']) == len(boxes) == 50
    assert np.allclose(found['boxes'][:, :3], boxes.gravity_center, atol=1e-5)
    assert np.allclose(found['boxes'][:, 3:], boxes.tensor[:, 3:], atol=1e-5)
    assert np.array_equal(found['labels'], theirs.labels_3d[order])
    assert np.all(np.diff(found['scores']) <= 0)
    assert found['names'] == ('Pedestrian', 'Cyclist', 'Car')


def test_points_in_memory_are_left_alone(model, sweep):
    from_file = detect(model, str(sweep))
    points = from_file['points'].copy()
    model.train()
    for given in (points, torch.from_numpy(points)):
        found = detect(model, given)
        assert np.array_equal(found['boxes'], from_file['boxes'])
    assert model.training
    assert np.array_equal(points, from_file['points'])
    model.eval()
    # an array is taken as it is: points that the camera doesn't see stay
    assert len(detect(model, np.fromfile(sweep, np.float32).reshape(-1, 4))['points']) > len(points)


def test_boxes_are_given_by_their_middle(model, sweep, monkeypatch):
    from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
    from mmengine.structures import InstanceData

    boxes = torch.tensor([[10.0, 1, -1.6, 4, 1.6, 1.5, 0.3], [20, 2, -1.8, 0.8, 0.6, 1.8, -2]])
    instances = InstanceData(
        bboxes_3d=LiDARInstance3DBoxes(boxes),
        scores_3d=torch.tensor([0.2, 0.9]),
        labels_3d=torch.tensor([2, 0]),
    )
    sample = Det3DDataSample()
    sample.pred_instances_3d = instances
    monkeypatch.setattr(model, 'test_step', lambda data: [sample])
    found = detect(model, sweep)
    assert found['labels'].tolist() == [0, 2]  # by falling score
    assert np.allclose(found['boxes'][:, 2], [-1.8 + 0.9, -1.6 + 0.75])
    assert np.allclose(found['boxes'][1, [0, 1, 3, 4, 5, 6]], [10, 1, 4, 1.6, 1.5, 0.3])
    instances.labels_3d[0] = 3
    with pytest.raises(ValueError, match=r'000000.bin: label 3, but .* 3 classes Pedestrian'):
        detect(model, sweep)


def save(path, model, classes=('Pedestrian', 'Cyclist', 'Car'), drop=None, cfg=''):
    state = {key: value for key, value in model.state_dict().items() if key != drop}
    torch.save(
        {'meta': {'dataset_meta': {'classes': classes}, 'cfg': cfg}, 'state_dict': state}, path
    )
    return path


def test_a_checkpoint_loads_completely(model, config, sweep, tmp_path):
    path = save(tmp_path / 'all.pth', model)
    torch.manual_seed(1)
    other = init_detector(config, path)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
    assert np.array_equal(detect(other, sweep)['boxes'], detect(model, sweep)['boxes'])
    assert not other.training


def test_untrained_weights_follow_the_seed(model, config):
    torch.manual_seed(0)
    same = init_detector(config)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in same.state_dict().items())


def test_checkpoints_that_do_not_fit_are_refused(model, config, tmp_path):
    key = 'bbox_head.conv_cls.weight'
    with pytest.raises(CheckpointError, match=rf'161/162 tensors match; 1 missing: {key}'):
        init_detector(config, save(tmp_path / 'part.pth', model, drop=key))
    with pytest.raises(
        CheckpointError, match=r'classes Car, .* the config has Pedestrian, .*work d'
    ):
        init_detector(config, save(tmp_path / 'a.pth', model, ('Car', 'Pedestrian', 'Cyclist')))
    encoder = {f'encoder.{k}': v for k, v in model.middle_encoder.state_dict().items()}
    torch.save({'state_dict': encoder}, tmp_path / 'jepa.pth')
    with pytest.raises(CheckpointError, match=r'jepa_checkpoint=.*jepa\.pth'):
        init_detector(config, tmp_path / 'jepa.pth')
    with pytest.raises(FileNotFoundError, match=r'none\.pth'):
        init_detector(config, tmp_path / 'none.pth')


def test_another_grid_than_the_checkpoints_is_told(model, config, tmp_path, monkeypatch):
    from mmjepa.apis import inference

    told = []
    monkeypatch.setattr(inference, 'print_log', lambda text, *a, **k: told.append(text))
    init_detector(config, save(tmp_path / 'same.pth', model, cfg='voxel_size = [0.2, 0.2, 0.1]'))
    assert told == []
    init_detector(config, save(tmp_path / 'other.pth', model, cfg='voxel_size = [0.1, 0.1, 0.1]'))
    assert len(told) == 1 and 'voxel_size' in told[0]


def test_unusable_sweeps(model, sweep, tmp_path):
    with pytest.raises(ValueError, match=r'absent\.bin: no such file'):
        detect(model, tmp_path / 'absent.bin')
    (tmp_path / 'cut.bin').write_bytes(b'123')
    with pytest.raises(ValueError, match=r'cut\.bin: 3 bytes'):
        detect(model, tmp_path / 'cut.bin')
    points = np.fromfile(sweep, np.float32).reshape(-1, 4)
    behind = (points * (-1, 1, 1, 1)).astype(np.float32)
    behind.tofile(tmp_path / 'behind.bin')
    with pytest.raises(ValueError, match=r'behind\.bin: none of its .* point_cloud_range=\[0\.0, '):
        detect(model, tmp_path / 'behind.bin')
    for wrong in (points[:, :2], points[:0], points[0]):
        with pytest.raises(ValueError, match=r'must be \(P, F\)'):
            detect(model, wrong)
    with pytest.raises(ValueError, match='use_dim=4'):
        detect(model, points[:, :3])
    assert len(detect(model, points[:1])['points']) == 1  # a single point is enough


def test_models_of_others_are_refused(sweep):
    with pytest.raises(AttributeError, match='init_detector'):
        detect(torch.nn.Linear(1, 1), sweep)


def test_detectors_that_cannot_run_here_are_refused(config):
    cfg = copy.deepcopy(config)
    cfg.model.type = 'PointVoxelRCNN'
    with pytest.raises(ConfigError, match='PointVoxelRCNN .* cuda'):
        init_detector(cfg)
    cfg = copy.deepcopy(config)
    cfg.test_dataloader.dataset.pipeline[0].type = 'LoadImageFromFileMono3D'
    with pytest.raises(ConfigError, match='does not begin with LoadPointsFromFile'):
        init_detector(cfg)
    cfg = copy.deepcopy(config)
    del cfg.test_dataloader.dataset['metainfo']
    cfg.class_names = None
    with pytest.raises(ConfigError, match=r'no test_dataloader\.dataset\.metainfo\.classes'):
        init_detector(cfg)


def test_the_camera_view_follows_the_training(config, root, sweep):
    assert detection.DetectorInput(config).camera_view
    cfg = copy.deepcopy(config)
    cfg.test_dataloader.dataset.data_prefix.pts = 'training/velodyne'
    whole = detection.DetectorInput(cfg)
    assert not whole.camera_view
    assert len(whole.read(sweep)) > len(detection.DetectorInput(config).read(sweep))
    # no calibration beside it: nothing to crop by
    own = root / 'elsewhere' / 'own.bin'
    own.parent.mkdir()
    own.write_bytes(sweep.read_bytes())
    assert len(detection.DetectorInput(config).read(own)) == len(whole.read(sweep))


@pytest.mark.cuda
def test_cuda_finds_what_the_cpu_finds(model, config, sweep, tmp_path):
    other = init_detector(config, save(tmp_path / 'all.pth', model), 'cuda')
    there, here = detect(other, sweep), detect(model, sweep)
    assert np.array_equal(there['points'], here['points'])
    assert np.allclose(there['scores'][:10], here['scores'][:10], atol=1e-4)
