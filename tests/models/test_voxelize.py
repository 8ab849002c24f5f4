"""Voxelisation against a slow oracle and mmcv."""

import numpy as np
import pytest
import torch

from mmjepa.models.preprocessors.voxelize import grid_shape, hard_voxelize_mean

RANGE = (0.0, -4.0, -3.0, 8.0, 4.0, 1.0)
SIZE = (0.5, 0.25, 1.0)
INSIDE = torch.full((5, 4), 0.5)
KITTI = ((0, -40, -3, 70.4, 40, 1), (0.05, 0.05, 0.1))


def oracle(points, limits, size, max_points, max_voxels):
    """Voxels of one sample by a loop over the points, in mmcv's order and arithmetic."""
    points = np.asarray(points, np.float32)
    low, size = np.float32(limits[:3]), np.float32(size)
    cells = np.round((np.float32(limits[3:]) - low) / size)
    voxels = {}
    in_range = 0
    occupied = set()
    for point in points:
        place = np.floor((point[:3] - low) / size)
        if not np.isfinite(place).all() or (place < 0).any() or (place >= cells).any():
            continue
        in_range += 1
        key = tuple(int(v) for v in place[::-1])
        occupied.add(key)
        if key not in voxels:
            if len(voxels) == max_voxels:
                continue
            voxels[key] = []
        if len(voxels[key]) < max_points:
            voxels[key].append(point)
    means = {key: np.mean(held, 0) for key, held in voxels.items()}
    kept = sum(len(held) for held in voxels.values())
    return means, voxels, 1 - kept / in_range, len(occupied)


def cloud(count=600, features=4, seed=0):
    """Points inside and around the range, crowded in one corner."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 9, (count, features)).astype(np.float32)
    points[: count // 2, :3] = rng.uniform((0, -4, -3), (1.5, -2, -1), (count // 2, 3))
    return torch.from_numpy(rng.permutation(points))


def compare(batch, number, sample, max_points, max_voxels, limits=RANGE, size=SIZE):
    means, voxels, dropped, occupied = oracle(sample, limits, size, max_points, max_voxels)
    mine = batch.coors[:, 0] == number
    got = {
        tuple(cell): (feats, count)
        for cell, feats, count in zip(
            batch.coors[mine, 1:].tolist(),
            batch.feats[mine],
            batch.num_points[mine].tolist(),
            strict=True,
        )
    }
    assert got.keys() == means.keys()
    for key, (feats, count) in got.items():
        assert count == len(voxels[key])
        np.testing.assert_allclose(feats, means[key], rtol=1e-5, atol=1e-5)
    return dropped, occupied


@pytest.mark.parametrize('drop', ['random', 'first'])
def test_equals_oracle_where_no_cap_binds(drop):
    clouds = [cloud(seed=i, count=300 + 100 * i) for i in range(3)]
    batch = hard_voxelize_mean(clouds, torch.arange(3), RANGE, SIZE, 1000, 10**6, drop)
    for number, sample in enumerate(clouds):
        compare(batch, number, sample, 1000, 10**6)
    assert batch.dropped_points == 0
    assert batch.dropped_voxels == 0
    assert batch.coors.dtype == torch.int64
    assert batch.feats.dtype == torch.float32
    numbers = [tuple(row) for row in batch.coors.tolist()]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(('max_points', 'max_voxels'), [(2, 10**6), (1000, 40), (3, 25), (1, 1)])
def test_first_equals_oracle_where_caps_bind(max_points, max_voxels):
    clouds = [cloud(seed=i, features=5) for i in range(3)]
    batch = hard_voxelize_mean(
        clouds, torch.arange(3), RANGE, SIZE, max_points, max_voxels, 'first'
    )
    in_range, kept, occupied = 0, 0, 0
    for number, sample in enumerate(clouds):
        dropped, cells = compare(batch, number, sample, max_points, max_voxels)
        points = int(batch.num_points[batch.coors[:, 0] == number].sum())
        in_range, kept, occupied = (
            in_range + points / (1 - dropped),
            kept + points,
            occupied + cells,
        )
    assert batch.dropped_points.item() == pytest.approx(1 - kept / in_range, abs=1e-6)
    assert batch.dropped_voxels.item() == pytest.approx(1 - len(batch.feats) / occupied, abs=1e-6)


@pytest.mark.parametrize('drop', ['random', 'first'])
def test_borders_and_damaged_points(drop):
    below = np.nextafter(np.float32(8.0), np.float32(0))
    points = torch.tensor(
        [
            [0.0, -4.0, -3.0, 1.0],  # lower corner: inside
            [8.0, 0.0, 0.0, 1.0],  # upper edge: outside
            [4.0, 4.0, 0.0, 1.0],
            [4.0, 0.0, 1.0, 1.0],
            [float(below), 0.0, 0.0, 1.0],
            [-1e-6, 0.0, 0.0, 1.0],
            [float('nan'), 0.0, 0.0, 1.0],
            [float('inf'), 0.0, 0.0, 1.0],
            [1.0, 0.0, 0.0, float('nan')],  # would spoil a whole voxel
            [1e30, 0.0, 0.0, 1.0],
        ]
    )
    batch = hard_voxelize_mean([points], torch.zeros(1).long(), RANGE, SIZE, drop=drop)
    assert batch.coors.tolist() == [[0, 0, 0, 0], [0, 3, 16, 15]]
    assert torch.isfinite(batch.feats).all()


def test_random_drop_is_a_function_of_the_samples_seed():
    clouds, seeds = [cloud(seed=i) for i in range(3)], torch.tensor([5, 6, 2**61])
    run = dict(point_cloud_range=RANGE, voxel_size=SIZE, max_points=2, max_voxels=30)
    batch = hard_voxelize_mean(clouds, seeds, **run)
    for number in range(3):
        alone = hard_voxelize_mean(clouds[number : number + 1], seeds[number : number + 1], **run)
        mine = batch.coors[:, 0] == number
        assert len(alone.feats) == 30 == mine.sum()
        assert torch.equal(alone.coors[:, 1:], batch.coors[mine, 1:])
        assert torch.equal(alone.feats, batch.feats[mine])
        assert alone.num_points.max() == 2
    other = hard_voxelize_mean(clouds, seeds + 1, **run)
    assert not torch.equal(other.coors, batch.coors)


def test_random_drop_chooses_evenly():
    """Over many seeds each point of a voxel, and each voxel, is kept equally often."""
    points = torch.zeros(40, 4)
    points[:, 0] = 0.5 * torch.arange(40).div(5, rounding_mode='floor') + 0.25
    points[:, 3] = torch.arange(40)
    seeds = torch.arange(3000) * 7919
    batch = hard_voxelize_mean(
        [points] * 3000, seeds, RANGE, SIZE, max_points=1, max_voxels=4, drop='random'
    )
    assert len(batch.feats) == 3000 * 4
    share = torch.bincount(batch.feats[:, 3].long(), minlength=40) / len(batch.feats)
    assert (share - 1 / 40).abs().max() < 0.2 / 40
    assert batch.dropped_points.item() == pytest.approx(0.9)
    assert batch.dropped_voxels.item() == pytest.approx(0.5)


def kitti_sweep(shared_dir, name):
    path = shared_dir / 'data/kitti/training/velodyne' / f'{name}.bin'
    return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))


@pytest.mark.parametrize(('max_points', 'max_voxels'), [(5, 40000), (5, 16000), (35, 5000)])
@pytest.mark.parametrize('name', ['000001', '000003'])
def test_equals_mmcv_on_real_sweeps(shared_dir, name, max_points, max_voxels):
    ops = pytest.importorskip('mmcv.ops')
    sweep = kitti_sweep(shared_dir, name)
    limits, size = KITTI
    voxelize = ops.Voxelization(size, limits, max_points, max_voxels)
    held, coors, counts = voxelize(sweep)
    means = held.sum(1) / counts[:, None]
    z, y, x = coors.long().unbind(1)
    order = torch.argsort((z * 1600 + y) * 1408 + x)
    batch = hard_voxelize_mean(
        [sweep], torch.zeros(1).long(), limits, size, max_points, max_voxels, 'first'
    )
    assert torch.equal(batch.coors[:, 1:], coors.long()[order])
    assert torch.equal(batch.num_points, counts.long()[order])
    torch.testing.assert_close(batch.feats, means[order], rtol=1e-5, atol=1e-5)


def test_random_drop_spares_no_sector_of_a_real_sweep(shared_dir):
    """mmcv's rule keeps the first voxels of the file; ours thins all directions alike."""
    sweep = kitti_sweep(shared_dir, '000000')
    run = dict(seeds=torch.ones(1).long(), point_cloud_range=KITTI[0], voxel_size=KITTI[1])
    whole = hard_voxelize_mean([sweep], max_voxels=10**6, **run)
    kept = {
        drop: hard_voxelize_mean([sweep], max_voxels=8000, drop=drop, **run)
        for drop in ('random', 'first')
    }

    def ahead(batch):
        return torch.histc(batch.feats[:, 0], 7, 0, 70) / len(batch.feats)

    expected = ahead(whole)
    assert (ahead(kept['random']) - expected).abs().max() < 0.02
    assert (ahead(kept['first']) - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(points=[]), 'empty list'),
        (dict(points=[torch.ones(5, 4), torch.ones(5, 5)]), 'same F'),
        (dict(points=[torch.ones(5, 2)]), 'F >= 3'),
        (dict(points=[torch.ones(5)]), 'F >= 3'),
        (dict(points=[INSIDE, torch.full((9, 4), 99.0)]), 'sample 1 of the batch'),
        (dict(points=[INSIDE[:0], INSIDE]), 'sample 0 of the batch'),
        (dict(voxel_size=(0.3, 0.25, 1.0)), r'x from 0\.0 to 8\.0 m is no whole number'),
        (dict(voxel_size=(0.5, -0.25, 1.0)), 'no voxel of -0.25 m fits y'),
        (dict(point_cloud_range=RANGE[:5]), '6 numbers'),
        (dict(max_points=0), 'max_points=0'),
        (dict(max_voxels=0), 'max_voxels=0'),
        (dict(drop='last'), "'random' or 'first'"),
    ],
)
def test_errors(change, message):
    arguments = dict(
        points=[INSIDE] * 2,
        seeds=torch.zeros(2).long(),
        point_cloud_range=RANGE,
        voxel_size=SIZE,
    )
    with pytest.raises(ValueError, match=message):
        hard_voxelize_mean(**{**arguments, **change})


@pytest.mark.parametrize(
    ('limits', 'size', 'shape'),
    [
        (*KITTI, (40, 1600, 1408)),
        ((-75.2, -75.2, -2, 75.2, 75.2, 4), (0.1, 0.1, 0.15), (40, 1504, 1504)),
        ((-51.2, -51.2, -5, 51.2, 51.2, 3), (0.1, 0.1, 0.2), (40, 1024, 1024)),
        ((-75.2, -75.2, -5, 75.2, 75.2, 3), (0.1, 0.1, 0.2), (40, 1504, 1504)),
    ],
)
def test_grid_shape_of_the_known_data_sets(limits, size, shape):
    assert grid_shape(limits, size) == shape


@pytest.mark.cuda
@pytest.mark.parametrize('drop', ['random', 'first'])
def test_cuda_equals_cpu(drop):
    clouds, seeds = [cloud(seed=i) for i in range(3)], torch.arange(3)
    cpu = hard_voxelize_mean(clouds, seeds, RANGE, SIZE, 2, 30, drop)
    cuda = hard_voxelize_mean([c.cuda() for c in clouds], seeds, RANGE, SIZE, 2, 30, drop)
    for ours, other in zip(cuda, cpu, strict=True):
        torch.testing.assert_close(ours.cpu(), other)
