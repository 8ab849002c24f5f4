"""Crops of the clips that ``SampleClips`` read: ``results['video']``, (n, T, S, S, 3) uint8.

They draw from ``results['rng']`` only: a sample is a function of its seed. Pixels stay uint8, and
crops come before resizing; flips and normalisation wait for the device (``VideoPreprocessor``).
Resizing is bilinear without antialiasing, as the published results have it (images, see
:mod:`.images`, have the antialiased filter of theirs).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmjepa.registry import TRANSFORMS

from ..image_files import require_cv2
from ..video_backends import Frames
from .images import CropBox, _check_size, random_crop_box


def _resized(frames: Iterable[Frames], out: Frames, box: CropBox) -> None:
    """Writes the part of each frame into ``out`` (T, H, W, 3)."""
    cv2 = require_cv2()
    height, width = out.shape[1:3]
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    for frame, place in zip(frames, out, strict=True):
        cv2.resize(frame[rows, columns], (width, height), dst=place)


@TRANSFORMS.register_module()
class RandomResizedCropVideo:
    """Cuts one random box from all frames of a clip and resizes it to a square.

    Sets ``video``, (n, T, size, size, 3) uint8; ``crops``, the box (top, left, height, width) of
    each clip in pixels of the file; drops ``frames``.

    Args:
        size: side of the output in pixels.
        scale: least and greatest share of the frame's area.
        ratio: least and greatest width / height of the box, drawn log-uniformly.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        size: int = 224,
        scale: Sequence[float] = (0.3, 1.0),
        ratio: Sequence[float] = (0.75, 1.35),
    ) -> None:
        _check_size('size', size)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f'scale must be two shares 0 < low <= high <= 1, got {scale}')
        if len(ratio) != 2 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f'ratio must be two numbers 0 < low <= high, got {ratio}')
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crops and resizes."""
        clips: Frames = results.pop('frames')
        height, width = clips.shape[2:4]
        out = np.empty((*clips.shape[:2], self.size, self.size, 3), np.uint8)
        results['crops'] = []
        for clip, place in zip(clips, out, strict=True):
            box = random_crop_box(results['rng'], height, width, self.scale, self.ratio)
            _resized(clip, place, box)
            results['crops'].append(tuple(box))
        results['video'] = out
        return results


@TRANSFORMS.register_module()
class ResizeCenterCropVideo:
    """Resizes the shorter side of the frames and cuts the square in the centre: evaluation.

    Sets ``video``, (n, T, size, size, 3) uint8; drops ``frames``.

    Args:
        size: side of the output in pixels.
        resize: shorter side before the cut; default 256/224 of ``size``, as in the papers.

    Raises:
        ValueError: an argument is out of its range.
    """

    views = 1

    def __init__(self, size: int = 224, resize: int | None = None) -> None:
        _check_size('size', size)
        resize = int(size * 256 / 224) if resize is None else resize
        if resize < size:
            raise ValueError(f'resize={resize} is smaller than size={size}: nothing to cut from')
        self.size = size
        self.resize = resize

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resizes and cuts."""
        clips: Frames = results.pop('frames')
        clip_count, num_frames, height, width, _ = clips.shape
        short = min(height, width)
        new = (int(self.resize * height / short), int(self.resize * width / short))
        resized = np.empty((clip_count * num_frames, *new, 3), np.uint8)
        _resized(clips.reshape(-1, height, width, 3), resized, CropBox(0, 0, height, width))
        side = self.size
        views = [resized[:, y : y + side, x : x + side] for y, x in self._corners(*new)]
        results['video'] = np.stack(views).reshape(-1, num_frames, side, side, 3)
        results['views'] = self.views
        return results

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        """(top, left) of each view."""
        return [((height - self.size) // 2, (width - self.size) // 2)]


@TRANSFORMS.register_module()
class ThreeCropVideo(ResizeCenterCropVideo):
    """Resizes the shorter side of the frames to ``size`` and cuts three squares along the longer.

    Sets ``video``, (3 * n, T, size, size, 3) uint8, all clips of the first view (left or top)
    first, then the centre, then right or bottom: ``video.reshape(3, n, ...)``; ``views``, 3.

    Args:
        size: side of the output in pixels.

    Raises:
        ValueError: ``size`` is no positive number.
    """

    views = 3

    def __init__(self, size: int = 224) -> None:
        super().__init__(size, size)

    def _corners(self, height: int, width: int) -> list[tuple[int, int]]:
        tall, wide = height - self.size, width - self.size
        return [(0, 0), (tall // 2, wide // 2), (tall, wide)]
