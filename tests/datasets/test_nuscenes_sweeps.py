import json
import os
import sys
import types

import numpy as np
import pytest

from mmjepa.datasets import PointSweepDataset
from mmjepa.datasets.file_index import cache_dir
from mmjepa.datasets.nuscenes_sweeps import NuScenesSweeps
from mmjepa.engine.config import load_config
from mmjepa.registry import DATASETS

IDENTITY = {'translation': [0, 0, 0], 'rotation': [1, 0, 0, 0]}


@pytest.fixture
def root(tmp_path, make_sweep):
    """Scenes a and b, of two key frames each with one sweep between them."""
    root = tmp_path / 'nuscenes'
    rows = []
    for scene in 'ab':
        for k, folder in enumerate(('samples', 'sweeps', 'samples')):
            file = f'{folder}/LIDAR_TOP/{scene}{k}.pcd.bin'
            make_sweep(root / file, dim=5)
            rows.append(
                {'filename': file, 'sample_token': scene, 'ego_pose_token': 'e', 'timestamp': k,
                 'calibrated_sensor_token': 'c', 'is_key_frame': folder == 'samples'}
            )  # fmt: skip
    tables = {
        'sample_data': rows[::-1],
        'sample': [{'token': scene, 'scene_token': scene} for scene in 'ab'],
        'scene': [{'token': scene, 'name': f'scene-{scene}'} for scene in 'ab'],
        'ego_pose': [{'token': 'e', **IDENTITY}, {'token': 'unused', **IDENTITY}],
        'calibrated_sensor': [{'token': 'c', **IDENTITY}],
    }
    (root / 'v1.0-trainval').mkdir()
    for name, table in tables.items():
        (root / 'v1.0-trainval' / f'{name}.json').write_text(json.dumps(table))
    return root


@pytest.fixture
def devkit(monkeypatch):
    """A stand-in for nuscenes-devkit's list of scenes."""
    splits = types.ModuleType('nuscenes.utils.splits')
    splits.create_splits_scenes = lambda: {'train': ['scene-a'], 'val': ['scene-b']}
    for name in ('nuscenes', 'nuscenes.utils'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, 'nuscenes.utils.splits', splits)


def test_order_and_key_frames(root):
    tables = NuScenesSweeps.find(root)
    order = [os.path.basename(path)[:2] for path in tables.paths]
    assert order == ['a0', 'a1', 'a2', 'b0', 'b1', 'b2']
    keys = [f'samples/LIDAR_TOP/{name}.pcd.bin' for name in ('a0', 'a2', 'b0', 'b2')]
    assert tables.split_paths(None) == keys
    history = tables.history(root / keys[3], 9)
    assert [os.path.basename(path)[:2] for path, _, _ in history] == ['b1', 'b0']
    assert tables.history(keys[3], 1)[0][0] == str(root / 'sweeps/LIDAR_TOP/b1.pcd.bin')
    assert tables.history('elsewhere.pcd.bin', 9) == []
    np.testing.assert_allclose(history[0][1], np.eye(4))


def test_tables_are_read_once(root, monkeypatch):
    first = NuScenesSweeps.find(root)
    monkeypatch.setattr(NuScenesSweeps, '_read_tables', lambda self: pytest.fail('read again'))
    again = NuScenesSweeps.find(root)
    assert again.paths == first.paths
    np.testing.assert_array_equal(again.poses, first.poses)


def test_damaged_cache_is_read_anew(root):
    NuScenesSweeps.find(root)
    (file,) = cache_dir().glob('nuscenes_*.npz')
    file.write_bytes(b'PK\x03\x04 damaged')
    assert len(NuScenesSweeps.find(root).paths) == 6


def test_missing_and_damaged_tables(root):
    (root / 'v1.0-trainval/scene.json').write_text('[{]')
    with pytest.raises(ValueError, match='damaged nuScenes tables'):
        NuScenesSweeps.find(root)
    (root / 'v1.0-trainval/scene.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'no scene\.json'):
        NuScenesSweeps.find(root)
    assert NuScenesSweeps.find(root / 'samples') is None


def test_dataset_takes_key_frames_of_the_split(root, devkit):
    train = PointSweepDataset(root, split='train')
    assert [os.path.basename(train.get_path(i))[:2] for i in range(len(train))] == ['a0', 'a2']
    val = PointSweepDataset(root, split='val')
    assert [os.path.basename(val.get_path(i))[:2] for i in range(len(val))] == ['b0', 'b2']
    with pytest.raises(ValueError, match="no split 'trainval'"):
        PointSweepDataset(root, split='trainval')


def test_key_frames_that_were_not_downloaded(root, devkit):
    (root / 'samples/LIDAR_TOP/a0.pcd.bin').unlink()
    with pytest.raises(FileNotFoundError, match=r'2 frames.*, 1 of them are not.*a0'):
        PointSweepDataset(root)
    assert len(PointSweepDataset(root, on_error='skip')) == 1


def test_without_devkit_only_the_user_may_give_up_the_split(root, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nuscenes.utils.splits', None)
    with pytest.raises(ImportError, match=r'nuscenes-devkit.*pip install.*split=None'):
        PointSweepDataset(root)
    assert len(PointSweepDataset(root, split=None)) == 4


def test_without_tables_only_the_user_may_give_up_the_split(root):
    for file in (root / 'v1.0-trainval').iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"'train' cannot be told .*tables.*split=None"):
        PointSweepDataset(root)
    dataset = PointSweepDataset(root, split=None)
    assert dataset.metainfo['layout'] == 'nuscenes'
    assert len(dataset) == 4  # samples/LIDAR_TOP only


def test_the_config_reads_no_validation_scene(root, devkit, repo):
    cfg = load_config(repo / 'configs/adl_jepa/nuscenes.py', {'data_root': str(root)})
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert [os.path.basename(dataset.get_path(i))[:2] for i in range(len(dataset))] == ['a0', 'a2']
