"""What a mmdet3d detector predicts, as numpy arrays."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

FloatArray = NDArray[Any]


@dataclass(frozen=True)
class LiDARPredictions:
    """Detections of a frame.

    Attributes:
        boxes: (N, 7) float64 x, y, z of the bottom centre, dx, dy, dz, yaw; LiDAR frame.
        scores: (N,) float64.
        labels: (N,) int64, index into the data set's classes.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: NDArray[np.int64]


def read_predictions(sample: Mapping[str, Any], where: str) -> LiDARPredictions:
    """Takes the 3D detections out of a data sample.

    Detections that aren't finite are left out, with a warning: the sizes of a young model may
    overflow, and that must not end its training at the first validation.

    Args:
        sample: with ``pred_instances_3d``, as an evaluator gets it.
        where: name of the frame, for messages.

    Raises:
        ValueError: no 3D detections, boxes that aren't LiDAR boxes, arrays that don't fit.
    """
    instances = sample.get('pred_instances_3d')
    if instances is None or 'bboxes_3d' not in instances:
        raise ValueError(
            f'{where}: the model gave no pred_instances_3d.bboxes_3d; this metric needs a detector '
            'of mmdet3d that predicts 3D boxes from LiDAR'
        )
    boxes = lidar_boxes(instances['bboxes_3d'], where)
    scores = as_array(instances['scores_3d']).astype(np.float64)
    labels = as_array(instances['labels_3d']).astype(np.int64)
    if scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        raise ValueError(
            f'{where}: {len(boxes)} boxes, scores {scores.shape}, labels {labels.shape}'
        )
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    if not finite.all():
        print_log(
            f'{where}: left out {(~finite).sum()} of {len(finite)} detections that are not finite; '
            'at the end of a training that means it has diverged',
            logger='current',
            level=logging.WARNING,
        )
    return LiDARPredictions(boxes[finite], scores[finite], labels[finite])


def lidar_boxes(boxes: Any, where: str) -> FloatArray:
    """(N, 7) float64 of mmdet3d's LiDAR boxes, bottom centre.

    Raises:
        ValueError: boxes of another frame or kind.
    """
    # boxes of mmdet3d don't exist without it
    from mmdet3d.structures import LiDARInstance3DBoxes

    if not isinstance(boxes, LiDARInstance3DBoxes):
        raise ValueError(
            f'{where}: boxes are {type(boxes).__name__}, this metric takes LiDARInstance3DBoxes '
            "(box_type_3d='LiDAR' in the data set)"
        )
    return as_array(boxes.tensor)[:, :7].astype(np.float64)


def as_array(values: Any) -> FloatArray:
    """A tensor on any device, or an array, as numpy array."""
    return np.asarray(values.detach().cpu() if hasattr(values, 'detach') else values)


def class_names(meta: Mapping[str, Any] | None, labels: NDArray[np.int64], where: str) -> list[str]:
    """Names of labels.

    Args:
        meta: of the data set; its ``classes``.
        labels: (N,).
        where: name of the frame, for messages.

    Raises:
        ValueError: the data set has no classes, or not so many.
    """
    classes = dataset_classes(meta)
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f'{where}: label {labels.max() if labels.min() >= 0 else labels.min()}, but the data '
            f'set has the {len(classes)} classes {", ".join(classes)}'
        )
    return [classes[label] for label in labels]


def dataset_classes(meta: Mapping[str, Any] | None) -> list[str]:
    """Classes of a data set.

    Raises:
        ValueError: it has none.
    """
    classes = list((meta or {}).get('classes') or ())
    if not classes:
        raise ValueError(
            "the data set of the evaluation has no metainfo['classes']: give its config "
            "metainfo=dict(classes=['Pedestrian', 'Cyclist', 'Car']), in the model's order"
        )
    return classes
