"""Toy clips for tests: a square that drifts over a ground of two colours; a function of a seed."""

from pathlib import Path

import numpy as np

WAYS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def toy_clip(seed: int, way: int, frames: int = 12, size: int = 36) -> np.ndarray:
    """(T, S, S, 3) uint8; ``way`` numbers where the square goes."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 240, (2, 3))  # what is hidden follows from what is seen
    ground = np.linspace(first, second, size)[:, None] + rng.uniform(0, 15, (size, size, 3))
    clip = np.repeat(ground[None].astype(np.uint8), frames, 0)
    colour = rng.choice([20, 235], 3)
    place, side = rng.integers(size, size=2), size // 3
    for t in range(frames):
        rows, columns = (
            (p + 2 * t * w + np.arange(side)) % size for p, w in zip(place, WAYS[way], strict=True)
        )
        clip[t][np.ix_(rows, columns)] = colour
    return clip


def write_toy_videos(root: Path, count: int, split: str = 'train', **kwargs: int) -> Path:
    """``root/<split>.csv`` and the ``.npy`` files that it lists; ways are labels, in turn."""
    folder = root / 'clips'
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        name = f'clips/{split}_{i:03d}.npy'
        np.save(root / name, toy_clip(i, i % len(WAYS), **kwargs))
        lines.append(f'{name} {i % len(WAYS)}')
    (root / f'{split}.csv').write_text('\n'.join(lines) + '\n')
    return root


def forget_labels(root: Path) -> None:
    """All labels become 0, as the format wants one."""
    for path in root.glob('*.csv'):
        names = [line.rpartition(' ')[0] for line in path.read_text().splitlines()]
        path.write_text(''.join(f'{name} 0\n' for name in names))
