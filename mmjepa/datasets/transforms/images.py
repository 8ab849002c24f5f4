"""Transforms that read images into ``results['image']``, (3, S, S) uint8, red first.

They take the bytes in ``results['image_bytes']`` where the data set gives them (shards), else
the file ``results['path']``, and draw from ``results['rng']`` only: a sample is a function of its
seed. Normalisation waits for the device (``ImagePreprocessor``): a quarter of the bytes to copy.

Resizing is PIL's antialiased bilinear filter, which torchvision's crops and the published results
rest on, as torch has it for uint8 on the CPU: within .03/255 of PIL on photos, in a third of the
time. OpenCV's INTER_LINEAR does not antialias (2.5/255 off) and INTER_AREA is another filter
(1.1/255 off, slower), so neither is offered.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mmjepa.registry import TRANSFORMS

from ..image_files import (
    REDUCE_FACTORS,
    Image,
    ImageHeader,
    check_complete,
    decode_image,
    read_bytes,
    read_header,
)

Interpolation = Literal['bilinear', 'bicubic']


class CropBox(NamedTuple):
    """Part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> CropBox:
    """A box whose area is a uniform share of the image, its aspect ratio log-uniform.

    As torchvision's ``RandomResizedCrop``: ten tries, then the largest box in the centre whose
    aspect ratio (width / height) is allowed.

    Args:
        rng: what to draw from.
        height: of the image in pixels.
        width: of the image in pixels.
        scale: least and greatest share of the area.
        ratio: least and greatest width / height.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return CropBox(top, left, box_height, box_width)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width = min(width, max(1, round(height * aspect)))
    box_height = min(height, max(1, round(width / aspect)))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def reducible(box: CropBox, size: int) -> tuple[int, CropBox]:
    """How much smaller a JPEG may be decoded so that a resized box looks the same.

    The box keeps at least twice the output's side: .5/255 from decoding at full size on COCO's
    photos, 1.2 in the worst of them. At once the output's side the antialiasing filter would have
    nothing left to do, and the sharper pixels of the JPEG decoder would show (1.6/255, 4 at worst),
    for a tenth of the time.

    Args:
        box: a part of the image.
        size: side of the output in pixels.

    Returns:
        8, 4, 2 or 1, and the box moved and cut to multiples of it (by less than half a pixel of
        the output), where pixels of the reduced image end.
    """
    side = min(box.height, box.width)
    factor = next((factor for factor in REDUCE_FACTORS if side >= 2 * factor * size), 1)
    return factor, CropBox(*(value - value % factor for value in box))


def resize_image(image: Image, height: int, width: int, interpolation: Interpolation) -> Image:
    """Resizes with PIL's antialiasing filters.

    Args:
        image: (H, W, 3) uint8, blue first.
        height: of the result.
        width: of the result.
        interpolation: 'bilinear' or 'bicubic'.

    Returns:
        (3, height, width) uint8, red first.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)[None]).permute(0, 3, 1, 2)
    resized = F.interpolate(pixels, (height, width), mode=interpolation, antialias=True)
    return np.ascontiguousarray(resized[0].numpy()[::-1])


def _open(results: dict[str, Any]) -> tuple[bytes, ImageHeader]:
    path = results['path']
    data = results.pop('image_bytes', None)
    if data is None:
        data = read_bytes(path)
    header = read_header(data, path)
    check_complete(data, header, path)
    return data, header


@TRANSFORMS.register_module()
class LoadCroppedImage:
    """Reads a random crop of an image, resized to a square: I-JEPA's one augmentation.

    Sets ``image``, (3, size, size) uint8; ``crop``, the box (top, left, height, width) in pixels
    of the file; ``image_hw``, the file's (height, width).

    Where a crop has at least 4 (8, 16) times the output's side, a JPEG is decoded at half (a
    quarter, an eighth) of its size. Deviation from torchvision: such boxes are moved and cut to
    multiples of 2 (4, 8) pixels, less than half a pixel of the output, for all kinds of files and
    with ``reduced=False``, too.

    Args:
        size: side of the output in pixels.
        scale: least and greatest share of the image's area.
        ratio: least and greatest width / height of the crop.
        interpolation: 'bilinear' or 'bicubic', both antialiased.
        reduced: decode JPEGs at reduced size where that loses nothing.

    Raises:
        ValueError: an argument is out of its range.
        BadSampleError: when called, if the image cannot be used.
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.3, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = 'bilinear',
        reduced: bool = True,
    ) -> None:
        _check_size('size', size)
        _check_interpolation(interpolation)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'scale must be two shares 0 < low <= high <= 1, got {scale}')
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio must be two numbers 0 < low <= high, got {ratio}')
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.interpolation = interpolation
        self.reduced = reduced

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads the crop."""
        path = results['path']
        data, header = _open(results)
        whole = None
        if header.kind == 'jpeg' and header.size is not None:
            height, width = header.size
        else:  # decoded first: nothing of it can be left out
            whole = decode_image(data, header, path)
            height, width = whole.shape[:2]
        box = random_crop_box(results['rng'], height, width, self.scale, self.ratio)
        factor, box = reducible(box, self.size)
        if whole is not None or not self.reduced:
            factor = 1
        image = decode_image(data, header, path, factor) if whole is None else whole
        top, left, box_height, box_width = (value // factor for value in box)
        results['image'] = resize_image(
            image[top : top + box_height, left : left + box_width],
            self.size,
            self.size,
            self.interpolation,
        )
        results['crop'] = tuple(box)
        results['image_hw'] = (height, width)
        return results


@TRANSFORMS.register_module()
class ResizeCenterCrop:
    """Reads an image, resizes its shorter side and cuts the square in the centre: evaluation.

    As torchvision's ``Resize(resize)`` and ``CenterCrop(size)``; decodes at full size. Sets
    ``image``, (3, size, size) uint8, and ``image_hw``, the file's (height, width).

    Args:
        size: side of the output in pixels.
        resize: shorter side of the image before the cut.
        interpolation: 'bilinear' or 'bicubic', both antialiased.

    Raises:
        ValueError: an argument is out of its range.
        BadSampleError: when called, if the image cannot be used.
    """

    def __init__(
        self, size: int = 224, resize: int = 256, interpolation: Interpolation = 'bilinear'
    ) -> None:
        _check_size('size', size)
        _check_interpolation(interpolation)
        if resize < size:
            raise ValueError(f'resize={resize} is smaller than size={size}: nothing to cut from')
        self.size = size
        self.resize = resize
        self.interpolation = interpolation

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads the centre."""
        data, header = _open(results)
        image = decode_image(data, header, results['path'])
        results['image'] = self.cut(image)
        results['image_hw'] = image.shape[:2]
        return results

    def cut(self, image: Image) -> Image:
        """(H, W, 3) uint8, blue first -> (3, size, size), red first."""
        height, width = image.shape[:2]
        short = min(height, width)
        new_height = int(self.resize * height / short)
        new_width = int(self.resize * width / short)
        top = round((new_height - self.size) / 2)
        left = round((new_width - self.size) / 2)
        resized = resize_image(image, new_height, new_width, self.interpolation)
        return np.ascontiguousarray(resized[:, top : top + self.size, left : left + self.size])


@TRANSFORMS.register_module()
class RandomFlipImage:
    """Mirrors ``results['image']``, left for right. Fine-tuning does that, pre-training doesn't.

    Args:
        prob: probability.

    Raises:
        ValueError: ``prob`` outside [0, 1].
    """

    def __init__(self, prob: float) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.prob = prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Mirrors."""
        if results['rng'].random() < self.prob:
            image: NDArray[np.uint8] = results['image']
            results['image'] = np.ascontiguousarray(image[:, :, ::-1])
        return results


def _check_size(name: str, size: int) -> None:
    if not isinstance(size, int) or size < 1:
        raise ValueError(f'{name} must be a positive number of pixels, got {size!r}')


def _check_interpolation(interpolation: str) -> None:
    if interpolation not in ('bilinear', 'bicubic'):
        raise ValueError(f"interpolation must be 'bilinear' or 'bicubic', got {interpolation!r}")
