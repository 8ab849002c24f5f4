"""Toy LiDAR scenes for tests: ground and boxes, a function of the seed."""

from pathlib import Path

import numpy as np

# 128 x 128 x 40 voxels, 16 x 16 BEV cells: the toy setting of the AD-L-JEPA tests
TOY_RANGE = [0, -12.8, -3, 25.6, 12.8, 1]
TOY_VOXEL = [0.2, 0.2, 0.1]
# 64 x 64 x 40 voxels, 8 x 8 cells: for tests that only need something to run
TINY_RANGE = [0, -6.4, -3, 12.8, 6.4, 1]


def toy_scene(seed: int, extent: float = 25.6, ground: int = 900, boxes: int = 6) -> np.ndarray:
    """(N, 4) float32 points x, y, z, intensity: a ground plane and car-sized boxes on it."""
    rng = np.random.default_rng(seed)
    half = extent / 2
    flat = np.stack(
        [
            rng.uniform(0, extent, ground),
            rng.uniform(-half, half, ground),
            rng.normal(-1.7, 0.03, ground),
            rng.uniform(0.1, 0.3, ground),
        ],
        1,
    )
    parts = [flat]
    for _ in range(boxes):
        centre = np.array([rng.uniform(2, extent - 2), rng.uniform(-half + 2, half - 2), -0.95])
        size = np.array([3.9, 1.6, 1.5]) * rng.uniform(0.8, 1.2, 3)
        unit = rng.uniform(-0.5, 0.5, (60, 3))
        axis = rng.integers(0, 3, 60)
        unit[np.arange(60), axis] = np.sign(unit[np.arange(60), axis]) * 0.5  # onto the surface
        yaw = rng.uniform(-np.pi, np.pi)
        turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        surface = (unit * size) @ turn + centre
        parts.append(np.concatenate([surface, rng.uniform(0.4, 0.9, (60, 1))], 1))
    return np.concatenate(parts).astype(np.float32)


def write_toy_sweeps(root: Path, frames: int, labels: bool = False, **kwargs) -> Path:
    """A KITTI-format folder of toy scenes; with label files on request."""
    velodyne = root / 'training' / 'velodyne'
    velodyne.mkdir(parents=True)
    for i in range(frames):
        toy_scene(i, **kwargs).tofile(velodyne / f'{i:06d}.bin')
    if labels:
        folder = root / 'training' / 'label_2'
        folder.mkdir()
        for i in range(frames):
            (folder / f'{i:06d}.txt').write_text(
                'Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.7 -1.6\n'
            )
    return root
