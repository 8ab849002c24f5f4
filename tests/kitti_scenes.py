"""Tiny labelled KITTI folders for tests: a floor with objects of three classes on it."""

import numpy as np

from mmjepa.datasets.kitti import KittiCalib, KittiObjects

# camera = LiDAR turned: x right = -y, y down = -z, z ahead = x
CALIB = """P0: 700 0 621 0 0 700 187 0 0 0 1 0
P1: 700 0 621 0 0 700 187 0 0 0 1 0
P2: 700 0 621 0 0 700 187 0 0 0 1 0
P3: 700 0 621 0 0 700 187 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0
"""
FLOOR = -1.7
# length, width, height (m), mean intensity
SIZES = {
    'Car': (4.0, 1.6, 1.5, 0.6),
    'Pedestrian': (0.6, 0.6, 1.8, 0.3),
    'Cyclist': (1.8, 0.6, 1.7, 0.1),
}
# overrides of configs/adl_jepa/kitti.py: 16 x 16 BEV cells of 1.6 m
COARSE = {
    'point_cloud_range': [0, -12.8, -3, 25.6, 12.8, 1],
    'voxel_size': [0.2, 0.2, 0.1],
    'num_workers': 0,
}


def scene(rng, spots):
    """Points (N, 4) and KITTI objects of one frame; ``spots`` = [(type, x, y, yaw), ...]."""
    floor = rng.uniform((4, -10, FLOOR - 0.02, 0.2), (25, 10, FLOOR + 0.02, 0.4), (1500, 4))
    clouds, rows = [floor], []
    for name, x, y, yaw in spots:
        length, width, height, shade = SIZES[name]
        local = rng.uniform(-0.49, 0.49, (120, 3)) * (length, width, height)
        cos, sin = np.cos(yaw), np.sin(yaw)
        xy = local[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
        z = local[:, 2:] + FLOOR + height / 2
        clouds.append(np.hstack([xy, z, rng.normal(shade, 0.05, (120, 1)).clip(0, 1)]))
        rows.append([name, (height, width, length), (-y, -FLOOR, x), -yaw - np.pi / 2])
    count = len(rows)
    objects = KittiObjects(
        names=np.array([r[0] for r in rows], dtype=np.str_),
        truncated=np.zeros(count),
        occluded=np.zeros(count, dtype=np.int64),
        alpha=np.zeros(count),
        bbox=np.tile([100.0, 100, 200, 200], (count, 1)),
        dims=np.array([r[1] for r in rows], dtype=float).reshape(-1, 3),
        location=np.array([r[2] for r in rows], dtype=float).reshape(-1, 3),
        rotation_y=np.array([r[3] for r in rows], dtype=float),
    )
    return np.concatenate(clouds).astype(np.float32), objects


def write_kitti(root, train=4, val=3, seed=0):
    """A KITTI object folder with ``train`` + ``val`` frames of six objects; returns ``root``."""
    rng = np.random.default_rng(seed)
    for name in ('velodyne', 'label_2', 'calib'):
        (root / 'training' / name).mkdir(parents=True)
    (root / 'ImageSets').mkdir()
    ids = [f'{i:06d}' for i in range(train + val)]
    # spots far enough from each other that no two objects share a cell
    grid = [(x, y) for x in (9.0, 15.0, 21.0) for y in (-6.0, 0.0, 6.0)]
    for frame in ids:
        chosen = rng.permutation(len(grid))[:6]
        spots = [
            (list(SIZES)[i % 3], *(grid[c] + rng.uniform(-1, 1, 2)), rng.uniform(-np.pi, np.pi))
            for i, c in enumerate(chosen)
        ]
        points, objects = scene(rng, spots)
        points.tofile(root / f'training/velodyne/{frame}.bin')
        objects.write(root / f'training/label_2/{frame}.txt')
        (root / f'training/calib/{frame}.txt').write_text(CALIB)
    KittiCalib.from_file(root / f'training/calib/{ids[0]}.txt')
    (root / 'ImageSets/train.txt').write_text('\n'.join(ids[:train]) + '\n')
    (root / 'ImageSets/val.txt').write_text('\n'.join(ids[train:]) + '\n')
    return root
