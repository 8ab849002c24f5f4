"""LiDAR detections as KITTI wants them: camera boxes with image boxes, in view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kitti_ground_truth import TruthFrame
from .lidar_predictions import LiDARPredictions

FloatArray = NDArray[Any]

# x along the length, y from the bottom (0) up (camera y points down), z along the width
_CORNERS = np.array(
    [[x, y, z] for x in (-0.5, 0.5) for y in (0.0, -1.0) for z in (-0.5, 0.5)], dtype=np.float64
)


def camera_detections(
    predictions: LiDARPredictions,
    names: Sequence[str],
    frame: TruthFrame,
    limit_range: Sequence[float],
) -> dict[str, Any]:
    """Detections in the form that :func:`mmjepa.evaluation.functional.kitti_ap` takes.

    As mmdet3d's ``KittiMetric`` does it: the image box spans the projected corners, cut to the
    image; boxes whose image box lies outside the image, or whose bottom centre lies outside
    ``limit_range``, are dropped. alpha is taken in the camera's frame, as KITTI defines it (mmdet3d
    takes it in the LiDAR's).

    Args:
        predictions: N detections.
        names: N class names.
        frame: calibration and image size.
        limit_range: x, y, z from and to, LiDAR frame.

    Returns:
        A dict of arrays of the M <= N detections in view.
    """
    boxes = predictions.boxes
    location = boxes[:, :3] @ frame.lidar_to_camera[:, :3].T + frame.lidar_to_camera[:, 3]
    dimensions = boxes[:, [3, 5, 4]]  # length, height, width
    rotation_y = _wrapped(-boxes[:, 6] - np.pi / 2)
    image_boxes = _image_boxes(location, dimensions, rotation_y, frame.projection)
    height, width = frame.image_hw
    # a corner in the camera's plane gives NaN, which compares as outside
    inside = (image_boxes[:, :2] < (width, height)).all(axis=1) & (image_boxes[:, 2:] > 0).all(1)
    inside &= (boxes[:, :3] > limit_range[:3]).all(axis=1)
    inside &= (boxes[:, :3] < limit_range[3:]).all(axis=1)
    image_boxes[:, :2] = np.maximum(image_boxes[:, :2], 0)
    image_boxes[:, 2:] = np.minimum(image_boxes[:, 2:], (width, height))
    return {
        'name': np.array(names, dtype=np.str_)[inside],
        'alpha': _wrapped(rotation_y - np.arctan2(location[:, 0], location[:, 2]))[inside],
        'bbox': image_boxes[inside],
        'dimensions': dimensions[inside],
        'location': location[inside],
        'rotation_y': rotation_y[inside],
        'score': predictions.scores[inside],
    }


def write_detections(detections: Mapping[str, Any], path: Path) -> None:
    """Writes a KITTI result file, four decimals; empty without detections."""
    lines = []
    for i, name in enumerate(detections['name']):
        length, height, width = detections['dimensions'][i]
        numbers = [detections['alpha'][i], *detections['bbox'][i], height, width, length]
        numbers += [*detections['location'][i], detections['rotation_y'][i], detections['score'][i]]
        lines.append(f'{name} -1 -1 ' + ' '.join(f'{value:.4f}' for value in numbers))
    path.write_text(''.join(f'{line}\n' for line in lines))


def _image_boxes(
    location: FloatArray, dimensions: FloatArray, rotation_y: FloatArray, projection: FloatArray
) -> FloatArray:
    """(N, 4) left, top, right, bottom of the projected corners; not cut to the image."""
    local = dimensions[:, None] * _CORNERS  # (N, 8, 3)
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    x = cos * local[..., 0] + sin * local[..., 2]
    z = cos * local[..., 2] - sin * local[..., 0]
    corners = np.stack([x, local[..., 1], z], axis=-1) + location[:, None]
    projected = corners @ projection[:, :3].T + projection[:, 3]
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = projected[..., :2] / projected[..., 2:]
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)


def _wrapped(angle: FloatArray) -> FloatArray:
    return (angle + np.pi) % (2 * np.pi) - np.pi
