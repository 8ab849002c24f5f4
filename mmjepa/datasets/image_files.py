"""Image files: what their header says, whether they are whole, and decoding by OpenCV.

The kind of a file is told by its first bytes, never by its suffix: ImageNet has a PNG that is
named ``.JPEG``.
"""

import os
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bad_sample import BadSampleError, PathLike, reading

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.webp')
REDUCE_FACTORS = (8, 4, 2)  # that JPEG decoders offer, the greatest first

_FETCH = "Fetch the file again, or set on_error='skip'"
_CONVERT = "Convert the file, or set on_error='skip'"
# start-of-frame markers, which carry the size; C4, C8 and CC are tables
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


class ImageHeader(NamedTuple):
    """What the first bytes of an image file say.

    Attributes:
        kind: 'jpeg', 'png', 'webp' or 'bmp'.
        size: (height, width) in pixels as stored, EXIF orientation ignored; None where it takes
            decoding to know it.
        body: offset behind the header.
    """

    kind: str
    size: tuple[int, int] | None
    body: int


def is_image(name: str) -> bool:
    """Whether a file's suffix is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def require_cv2() -> ModuleType:
    """OpenCV, imported at the first image.

    Raises:
        ImportError: it isn't installed; names the extra.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f'images are decoded by OpenCV, which does not import ({error}): '
            "pip install 'mmjepa[image]'"
        ) from None
    return cv2


def read_bytes(path: PathLike) -> bytes:
    """The whole file.

    Raises:
        BadSampleError: it is missing, unreadable or empty.
    """
    with reading(path), open(path, 'rb', buffering=0) as file:
        data = file.read()
    if not data:
        raise BadSampleError(path, 'the file is empty', _FETCH)
    return data


def read_header(data: bytes, path: PathLike = 'image') -> ImageHeader:
    """Kind and size of an image, without decoding it.

    Raises:
        BadSampleError: no image that can be read, or a damaged header.
    """
    if data[:2] == b'\xff\xd8':
        return _jpeg_header(data, path)
    if data[:8] == b'\x89PNG\r\n\x1a\n' and len(data) >= 24:
        height = int.from_bytes(data[20:24], 'big')
        return ImageHeader('png', (height, int.from_bytes(data[16:20], 'big')), 24)
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return ImageHeader('webp', None, 12)
    if data[:2] == b'BM':
        return ImageHeader('bmp', None, 14)
    raise BadSampleError(path, f'no JPEG, PNG, WebP or BMP: begins with {data[:12]!r}', _CONVERT)


def _jpeg_header(data: bytes, path: PathLike) -> ImageHeader:
    """Walks over the segments up to the first scan."""
    position, size = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise BadSampleError(path, f'JPEG header damaged at byte {position}', _FETCH)
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _ALONE:
            position += 2
            continue
        if marker in _SOF:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            size = int.from_bytes(height, 'big'), int.from_bytes(width, 'big')
        position += 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
        if marker == 0xDA:  # the pixels begin; a height of 0 is told behind them
            return ImageHeader('jpeg', size if size and min(size) else None, position)
    raise BadSampleError(path, 'truncated JPEG: no pixels in it', _FETCH)


def check_complete(data: bytes, header: ImageHeader, path: PathLike = 'image') -> None:
    """Refuses a file whose end is missing; decoders may fill the rest of it with grey.

    Bytes that were changed in the middle of a JPEG are not looked for: libjpeg decodes on, and at
    most warns on stderr.

    Raises:
        BadSampleError: the file is truncated.
    """
    if header.kind == 'jpeg':
        # behind the header: a thumbnail in it has an end of its own
        whole = data.rfind(b'\xff\xd9', header.body) >= 0
    elif header.kind == 'png':
        whole = data.rfind(b'IEND', header.body) >= 0
    elif header.kind == 'webp':
        whole = int.from_bytes(data[4:8], 'little') + 8 <= len(data)
    else:
        whole = int.from_bytes(data[2:6], 'little') <= len(data)
    if not whole:
        raise BadSampleError(
            path, f'truncated {header.kind.upper()}: no end after {len(data)} bytes', _FETCH
        )


def decode_image(
    data: bytes, header: ImageHeader, path: PathLike = 'image', reduce: int = 1
) -> Image:
    """Pixels of an image. Grey, CMYK, palette and 16-bit images become 8-bit colour.

    Transparency is left out and EXIF orientation ignored, as by PIL's ``convert('RGB')``.

    Args:
        data: the file.
        header: of it.
        path: named in errors.
        reduce: 2, 4 or 8 decodes a JPEG at a half, a quarter or an eighth of its size, in a part
            of the time; pixel k of the result covers pixels [k * reduce, (k + 1) * reduce).

    Returns:
        (ceil(height / reduce), ceil(width / reduce), 3) uint8, blue first as OpenCV has it.

    Raises:
        BadSampleError: the file is damaged or of an unknown variety.
        ImportError: OpenCV is missing.
    """
    cv2: Any = require_cv2()
    flags = {
        1: cv2.IMREAD_COLOR,
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    }
    try:
        image = cv2.imdecode(
            np.frombuffer(data, np.uint8), flags[reduce] | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error as error:
        reason = error.err or error  # the short form, where OpenCV gives one
        raise BadSampleError(path, f'OpenCV cannot decode it ({reason})', _CONVERT) from None
    if image is None:
        raise BadSampleError(
            path, f'damaged {header.kind.upper()}, or a variety OpenCV does not know', _CONVERT
        )
    if header.size is not None:
        expected = tuple(-(-side // reduce) for side in header.size)
        if image.shape[:2] != expected:
            raise BadSampleError(
                path, f'decoded as {image.shape[:2]} pixels, its header says {expected}', _FETCH
            )
    return image
