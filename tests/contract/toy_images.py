"""Toy pictures for tests: coloured shapes in class folders, a function of the seed."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ('disc', 'square', 'triangle')


def toy_image(seed: int, kind: str, size: int = 32) -> np.ndarray:
    """(size, size, 3) uint8: one filled shape of any colour at any place, on noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (size, size, 3), dtype=np.uint8)
    colour = [int(c) for c in rng.choice([20, 235], 3)]
    reach = int(rng.integers(size // 6, size // 3))
    x, y = (int(v) for v in rng.integers(reach, size - reach, 2))
    if kind == 'disc':
        cv2.circle(image, (x, y), reach, colour, -1)
    elif kind == 'square':
        cv2.rectangle(image, (x - reach, y - reach), (x + reach, y + reach), colour, -1)
    else:
        corners = np.array([[x, y - reach], [x - reach, y + reach], [x + reach, y + reach]])
        cv2.fillPoly(image, [corners], colour)
    return image


def write_toy_images(root: Path, count: int, split: str = 'train', size: int = 32) -> Path:
    """``root/<split>/<class>/<number>.png``, ``count`` in all, the classes in turn."""
    for i in range(count):
        kind = CLASSES[i % len(CLASSES)]
        folder = root / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:05d}.png'), toy_image(i, kind, size))
    return root


def anonymise(root: Path) -> None:
    """Class folders lose their names and keep their order."""
    for split in root.iterdir():
        for number, folder in enumerate(sorted(split.iterdir())):
            folder.rename(folder.with_name(f'{number}'))


def colour_scene(seed: int, size: int = 64) -> tuple[np.ndarray, int, int]:
    """A large bright shape on a gradient: (size, size, 3) uint8, its colour of 6, its class of 3.

    Unlike :func:`toy_image`, most of it follows from what is seen elsewhere.
    """
    rng = np.random.default_rng(seed)
    kind, colour, turn = int(rng.integers(3)), int(rng.integers(6)), rng.uniform(0, 2 * np.pi)
    first, second = rng.uniform(40, 200, (2, 3))
    y, x = np.mgrid[:size, :size] / size - 0.5
    share = (x * np.cos(turn) + y * np.sin(turn) + 0.7) / 1.4
    image = (first + (second - first) * share[..., None]).astype(np.float32)
    reach = int(rng.integers(size // 5, size * 3 // 8))
    x, y = (int(v) for v in rng.integers(reach, size - reach, 2))
    bright = [205.0 * ((colour + 1) >> channel & 1) + 30 for channel in range(3)]
    if kind == 0:
        cv2.circle(image, (x, y), reach, bright, -1)
    elif kind == 1:
        cv2.rectangle(image, (x - reach, y - reach), (x + reach, y + reach), bright, -1)
    else:
        corners = np.array([[x, y - reach], [x - reach, y + reach], [x + reach, y + reach]])
        cv2.fillPoly(image, [corners], bright)
    noisy = image + rng.normal(0, 6, image.shape)
    return noisy.clip(0, 255).astype(np.uint8), colour, kind
