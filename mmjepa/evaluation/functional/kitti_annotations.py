"""KITTI annotations of many frames as columns, and the benchmark's rules on who counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmjepa.datasets.kitti import (
    DIFFICULTY_MAX_OCCLUSION,
    DIFFICULTY_MAX_TRUNCATION,
    DIFFICULTY_MIN_HEIGHT,
    KittiObjects,
)

from .greedy_matching import COUNTED, IGNORED, OTHER, IntArray
from .rotated_iou import camera_boxes_upright

Annotation = Mapping[str, Any]

# look so much like the class that finding them is no mistake
NEIGHBOURS = {'car': 'van', 'pedestrian': 'person_sitting'}
KITTI_NAMES = ('car', 'van', 'truck', 'pedestrian', 'person_sitting', 'cyclist', 'tram', 'misc')
DONTCARE = 'dontcare'
NO_ALPHA = -10.0

_WIDTHS = {'bbox': 4, 'dimensions': 3, 'location': 3}
_BOTH = ('alpha', 'bbox', 'dimensions', 'location', 'rotation_y')
_TRUTH = (*_BOTH, 'truncated', 'occluded')
_DETECTION = (*_BOTH, 'score')


@dataclass(frozen=True)
class KittiColumns:
    """The objects of all frames, frame after frame.

    Attributes:
        counts: (F,) int64, objects of each frame.
        frame: (N,) int64.
        name: (N,) str, lower case.
        values: float64 columns by KITTI's names, (N,) or (N, 3 or 4).
        upright: (N, 7) float64, boxes as :func:`camera_boxes_upright` makes them.
    """

    counts: IntArray
    frame: IntArray
    name: NDArray[np.str_]
    values: dict[str, NDArray[Any]]
    upright: torch.Tensor

    @property
    def height(self) -> NDArray[Any]:
        """(N,) of the image boxes, pixels."""
        return self.values['bbox'][:, 3] - self.values['bbox'][:, 1]


def kitti_annotation(objects: KittiObjects) -> dict[str, Any]:
    """What a label or result file holds, in the form that :func:`kitti_ap` takes."""
    annotation: dict[str, Any] = {
        'name': objects.names,
        'truncated': objects.truncated,
        'occluded': objects.occluded,
        'alpha': objects.alpha,
        'bbox': objects.bbox,
        'dimensions': objects.dims[:, [2, 0, 1]],  # height, width, length -> length, height, width
        'location': objects.location,
        'rotation_y': objects.rotation_y,
    }
    if objects.score is not None:
        annotation['score'] = objects.score
    return annotation


def ground_truth_columns(frames: Sequence[Annotation]) -> KittiColumns:
    """Ground truth of all frames; see :func:`kitti_ap` for the keys and errors."""
    return _columns(frames, _TRUTH, 'ground truth')


def detection_columns(frames: Sequence[Annotation]) -> KittiColumns:
    """Detections of all frames; see :func:`kitti_ap` for the keys and errors."""
    return _columns(frames, _DETECTION, 'detections')


def truth_flags(truth: KittiColumns, name: str, difficulty: int) -> IntArray:
    """Which ground truths count for a class.

    Args:
        truth: of all frames.
        name: class, lower case.
        difficulty: 0 easy, 1 moderate, 2 hard.

    Returns:
        (G,) ``COUNTED``; ``IGNORED``: too small, hidden or cut off, or of the neighbouring class;
        ``OTHER``.
    """
    same = truth.name == name
    hard = truth.height <= DIFFICULTY_MIN_HEIGHT[difficulty]
    hard |= truth.values['occluded'] > DIFFICULTY_MAX_OCCLUSION[difficulty]
    hard |= truth.values['truncated'] > DIFFICULTY_MAX_TRUNCATION[difficulty]
    neighbour = truth.name == NEIGHBOURS.get(name, '')
    flags = np.full(len(same), OTHER, dtype=np.int64)
    flags[neighbour | (same & hard)] = IGNORED
    flags[same & ~hard] = COUNTED
    return flags


def detection_flags(detections: KittiColumns, name: str, difficulty: int) -> IntArray:
    """Which detections count for a class.

    Args:
        detections: of all frames.
        name: class, lower case.
        difficulty: 0 easy, 1 moderate, 2 hard.

    Returns:
        (D,) ``IGNORED`` where the image box is lower than the difficulty asks (of any class, as in
        the development kit), else ``COUNTED`` for the class, else ``OTHER``.
    """
    flags = np.where(detections.name == name, COUNTED, OTHER)
    flags[np.abs(detections.height) < DIFFICULTY_MIN_HEIGHT[difficulty]] = IGNORED
    return flags


def _columns(frames: Sequence[Annotation], keys: tuple[str, ...], what: str) -> KittiColumns:
    for index, frame in enumerate(frames):
        missing = [key for key in ('name', *keys) if key not in frame]
        if missing:
            raise ValueError(f'{what} of frame {index} lacks {", ".join(missing)}')
    counts = np.array([len(frame['name']) for frame in frames], dtype=np.int64)
    names = [str(name).lower() for frame in frames for name in frame['name']]
    values = {key: _column(frames, key, counts, what) for key in keys}
    upright = camera_boxes_upright(
        *(torch.from_numpy(values[key]) for key in ('location', 'dimensions', 'rotation_y'))
    )
    frame_of = np.repeat(np.arange(len(frames)), counts)
    return KittiColumns(counts, frame_of, np.array(names, dtype=np.str_), values, upright)


def _column(frames: Sequence[Annotation], key: str, counts: IntArray, what: str) -> NDArray[Any]:
    width = _WIDTHS.get(key)
    parts = []
    for index, frame in enumerate(frames):
        part = np.asarray(frame[key], dtype=np.float64)
        count = int(counts[index])
        wanted = (count,) if width is None else (count, width)
        if part.shape != wanted and (part.size or count):
            raise ValueError(
                f'{what} of frame {index}: {key} has shape {part.shape}, expected {wanted}'
            )
        if not np.isfinite(part).all():
            raise ValueError(f'{what} of frame {index}: {key} has values that are not finite')
        parts.append(part.reshape(wanted))
    return np.concatenate(parts) if parts else np.zeros((0,) if width is None else (0, width))
