"""Image files for tests."""

import io

import cv2
import numpy as np
from PIL import Image


def photo(height=60, width=80, seed=0):
    """(H, W, 3) uint8 RGB: soft blobs, as photos have them, rather than noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def ramp(height, width):
    """(H, W, 3) uint8 RGB whose red tells the column and whose green the row, dithered."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    out = np.full((height, width, 3), 128, np.float32)
    out[..., 0] = (columns + 0.5) / width * 255
    out[..., 1] = (rows + 0.5) / height * 255
    noise = np.random.default_rng(0).random(out.shape)
    return np.clip(np.floor(out + noise), 0, 255).astype(np.uint8)


def encode(pixels, kind='JPEG', **options):
    """The bytes of a file; ``pixels`` is RGB, or a PIL image of any mode."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_image(path, seed=0, height=60, width=80, kind='JPEG', **options):
    """Writes a photo; returns its bytes."""
    data = encode(photo(height, width, seed), kind, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return data


def write_folder(root, classes=('ants', 'bees'), each=3, **options):
    """``<root>/<class>/<n>.JPEG``, all different."""
    for c, name in enumerate(classes):
        for i in range(each):
            write_image(root / name / f'{c}{i}.JPEG', seed=10 * c + i, **options)
    return root


DAMAGES = {
    'empty': 'the file is empty',
    'truncated': 'truncated JPEG',
    'header only': 'truncated JPEG',
    'html': 'no JPEG, PNG, WebP or BMP',
    'missing': 'no such file',
}


def damage(path, kind):
    """Spoils an image file in one of the ways of ``DAMAGES``."""
    data = path.read_bytes()
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'truncated':
        path.write_bytes(data[: len(data) * 3 // 4])
    elif kind == 'header only':
        path.write_bytes(data[:100])
    elif kind == 'html':
        path.write_bytes(b'<html><body>404 Not Found</body></html>')
    elif kind == 'missing':
        path.unlink()
