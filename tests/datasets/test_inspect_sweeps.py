import shlex

import numpy as np
import pytest

from mmjepa.datasets import BadSampleError, inspect_folder
from mmjepa.datasets.inspect_sweeps import count_rings, suggest_range
from mmjepa.engine.config import load_config


def grid_fits(report):
    low, high = np.array(report.point_cloud_range[:3]), np.array(report.point_cloud_range[3:])
    cells = (high - low) / report.voxel_size
    np.testing.assert_allclose(cells, report.grid[::-1], atol=1e-3)
    assert report.grid[1] % 8 == 0
    assert report.grid[2] % 8 == 0
    assert report.grid[0] == 40
    assert report.max_voxels >= report.voxels_per_sweep[1] >= report.voxels_per_sweep[0] > 0


def test_real_kitti_folder(shared_dir):
    report = inspect_folder(shared_dir / 'data/kitti/training', max_files=4)
    assert report.load_dim == 4
    assert report.fov_cropped
    grid_fits(report)
    assert report.voxel_size == [0.05, 0.05, 0.1]
    assert report.point_cloud_range[0] == 0  # the camera looks ahead
    assert report.in_range > 0.95
    assert -2.0 < report.ground_z < -1.5
    assert 10_000 < report.voxels_per_sweep[0] < 20_000


def test_real_nuscenes_folder(shared_dir):
    report = inspect_folder(shared_dir / 'data/nuscenes')
    assert (report.load_dim, report.rings) == (5, 32)
    grid_fits(report)
    assert report.point_cloud_range[0] == -report.point_cloud_range[3]  # all around
    assert -2.1 < report.ground_z < -1.6
    assert any('divisor=255' in note for note in report.notes)
    text = report.text()
    assert 'load_dim=5' in text
    assert '--cfg-options data_root=' in text


def test_rings_of_a_real_whole_sweep(shared_dir):
    for frame in ('000000', '000001', '000002'):
        file = shared_dir / f'data/kitti/training/velodyne/{frame}.bin'
        assert count_rings(np.fromfile(file, np.float32).reshape(-1, 4)) == 64
    noise = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    assert count_rings(noise) is None


def test_unknown_dimension_mixed_kinds_and_bad_files(tmp_path, make_sweep):
    for i in range(4):
        make_sweep(tmp_path / f'my sweeps/{i}.bin', seed=i, points=840, dim=6)
    make_sweep(tmp_path / 'my sweeps/x.npy')
    (tmp_path / 'my sweeps/empty.bin').write_bytes(b'')
    report = inspect_folder(tmp_path / 'my sweeps')
    assert report.load_dim == 6
    assert report.suffixes == {'.bin': 5, '.npy': 1}
    assert len(report.bad) == 1
    assert 'the file is empty' in report.text()
    assert f"data_root='{tmp_path}/my sweeps'" in report.command()  # quoted for the shell
    assert any('suffixes=[".bin"]' in note for note in report.notes)
    grid_fits(report)


def test_load_dim_given_wins(tmp_path, make_sweep):
    make_sweep(tmp_path / 'a.bin', points=840, dim=6)
    with pytest.raises(BadSampleError, match=r'none of 1 sweeps.*look like 6 values'):
        inspect_folder(tmp_path, load_dim=4)


def test_range_ahead_and_around():
    rng = np.random.default_rng(0)
    around = np.column_stack([rng.uniform(-40, 40, (5000, 2)), rng.normal(-1.5, 0.3, 5000)])
    bounds, voxel = suggest_range(around.astype(np.float32))
    assert voxel == [0.05, 0.05, 0.1]
    assert bounds[0] == bounds[1] == -bounds[3] == -bounds[4]
    assert 39 < bounds[3] <= 40
    ahead = around[around[:, 0] > 0]
    bounds, _ = suggest_range(ahead.astype(np.float32))
    assert bounds[0] == 0


def test_suggestions_are_variables_of_the_kitti_config(tmp_path, make_sweep, repo):
    make_sweep(tmp_path / 'data/a.bin', points=840)
    report = inspect_folder(tmp_path / 'data')
    config = load_config(repo / 'configs/adl_jepa/kitti.py', report.cfg_options())
    assert config.train_dataloader.dataset.data_root == report.folder
    assert config.model.data_preprocessor.point_cloud_range == report.point_cloud_range
    assert config.model.encoder.sparse_shape == [41, *report.grid[1:]]
    words = shlex.split(report.command())
    assert f'load_dim={report.load_dim}' in words
    assert words[: words.index('--cfg-options')] == [
        'python', 'tools/train.py', 'configs/adl_jepa/kitti.py',
    ]  # fmt: skip


def test_missing_and_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such folder'):
        inspect_folder(tmp_path / 'none')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no sweep'):
        inspect_folder(tmp_path / 'empty')
