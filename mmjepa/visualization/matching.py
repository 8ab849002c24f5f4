"""Ground truth of one frame, and which detections are right: the rules behind the pictures.

They follow KITTI's evaluation at one score threshold. Differences: each detection, by falling
score, takes the free object that it overlaps most; a DontCare region excuses the detections whose
centre is seen in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmjepa.datasets.kitti import KittiCalib, KittiObjects
from mmjepa.evaluation.functional.kitti_annotations import NEIGHBOURS
from mmjepa.evaluation.functional.kitti_ap import IOU_SETS
from mmjepa.evaluation.functional.rotated_iou import overlaps_3d

if TYPE_CHECKING:
    from mmjepa.apis.detection import Detections

FloatArray = NDArray[Any]

FOUND, MISSED, NOT_COUNTED = 'found', 'missed', 'not counted'
RIGHT, FALSE, EXCUSED = 'right', 'false', 'excused'
# the benchmark's lowest 3D IoU
KITTI_MIN_IOU = {name: values[-1] for name, values in IOU_SETS['strict'].items()}
DEFAULT_MIN_IOU = 0.5  # of other classes


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of a frame.

    Attributes:
        boxes: (G, 7) x, y, z of the gravity centre, dx, dy, dz, yaw; LiDAR frame, metres, radians.
        names: (G,) str.
        counted: (G,) bool; False for objects that are smaller in the image, more hidden or more cut
            off than KITTI's 'hard' allows.
        dontcare: (K, 4) left, top, right, bottom of regions without labels, pixels.
        calib: the camera of these regions; None where there is none.
    """

    boxes: FloatArray
    names: NDArray[np.str_]
    counted: NDArray[np.bool_]
    dontcare: FloatArray
    calib: KittiCalib | None = None

    def __len__(self) -> int:
        return len(self.names)

    def select(self, keep: NDArray[Any]) -> GroundTruth:
        """The objects that ``keep`` (bool mask or indices) picks; all DontCare regions."""
        return GroundTruth(
            self.boxes[keep], self.names[keep], self.counted[keep], self.dontcare, self.calib
        )

    def in_dontcare(self, boxes: FloatArray) -> NDArray[np.bool_]:
        """Which boxes (N, 7) have their centre seen in a DontCare region."""
        if self.calib is None or not len(self.dontcare):
            return np.zeros(len(boxes), dtype=bool)
        uv, depth = self.calib.camera_to_image(self.calib.lidar_to_camera(boxes))
        inside = (uv[:, None] >= self.dontcare[:, :2]) & (uv[:, None] <= self.dontcare[:, 2:])
        return inside.all(axis=2).any(axis=1) & (depth > 0)


@dataclass(frozen=True)
class Matches:
    """Who found whom.

    Attributes:
        truth: (G,) str, ``FOUND``, ``MISSED`` or ``NOT_COUNTED``.
        detections: (N,) str, ``RIGHT``, ``FALSE`` or ``EXCUSED``.
    """

    truth: NDArray[np.str_]
    detections: NDArray[np.str_]


def read_ground_truth(
    sweep: str | Path | None, labels: str | Path | None = None
) -> GroundTruth | None:
    """The KITTI labels of a sweep.

    Args:
        sweep: ``<root>/velodyne/000123.bin`` has its labels in ``<root>/label_2/000123.txt`` and
            its calibration in ``<root>/calib/000123.txt``.
        labels: another label file; its calibration may also lie in ``../calib`` beside it.

    Returns:
        The objects; None where no ``labels`` are given and none lie beside the sweep.

    Raises:
        FileNotFoundError: ``labels`` isn't there, or the calibration isn't.
        ValueError: a file is damaged.
    """
    places = []
    if sweep is not None:
        folder, frame = Path(sweep).absolute().parent.parent, Path(sweep).name.split('.')[0]
        places.append(folder / 'calib' / f'{frame}.txt')
        if labels is None:
            labels = folder / 'label_2' / f'{frame}.txt'
            if not labels.is_file():
                return None
    if labels is None:
        return None
    labels = Path(labels).absolute()
    places.append(labels.parent.parent / 'calib' / labels.name)
    objects = KittiObjects.from_file(labels)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f'{labels} is in camera coordinates, and its calibration is not at '
            f'{" or ".join(dict.fromkeys(map(str, places)))}: fetch it, or draw without ground '
            'truth (--labels none)'
        )
    calib = KittiCalib.from_file(found)
    ignored = objects.names == 'DontCare'
    real = objects.select(~ignored)
    # own labels may come without image boxes: then there is no difficulty either
    rated = (real.bbox[:, 2:] > real.bbox[:, :2]).all(axis=1)
    return GroundTruth(
        boxes=real.boxes_lidar(calib),
        names=real.names,
        counted=~rated | (real.difficulty() >= 0),
        dontcare=objects.bbox[ignored],
        calib=calib,
    )


def min_ious(names: tuple[str, ...], min_iou: float | None = None) -> dict[str, float]:
    """Lowest 3D IoU of a right detection by class.

    Args:
        names: classes.
        min_iou: for all of them; None: KITTI's for its classes, 0.5 for others.

    Raises:
        ValueError: ``min_iou`` isn't in (0, 1].
    """
    if min_iou is not None and not 0 < min_iou <= 1:
        raise ValueError(f'min_iou must lie in (0, 1], got {min_iou}')
    return {
        name: KITTI_MIN_IOU.get(name.capitalize(), DEFAULT_MIN_IOU) if min_iou is None else min_iou
        for name in names
    }


def match(found: Detections, truth: GroundTruth, limits: Mapping[str, float]) -> Matches:
    """Compare detections with ground truth.

    Objects of classes that the detector doesn't know, or that aren't ``counted``, are neither found
    nor missed. A detection is excused where it hits such an object of its class or of the class
    that KITTI forgives (Van for Car, Person_sitting for Pedestrian), or lies in a DontCare region.

    Args:
        found: N detections.
        truth: G objects.
        limits: class -> lowest 3D IoU, for all of ``found['names']``.
    """
    first, second = (torch.from_numpy(np.asarray(b)) for b in (found['boxes'], truth.boxes))
    overlap = overlaps_3d(first, second).numpy()
    names = np.array([name.lower() for name in truth.names], dtype=np.str_)
    known = truth.counted & np.isin(names, [name.lower() for name in found['names']])
    states = np.where(known, MISSED, NOT_COUNTED).astype(object)
    excused = truth.in_dontcare(found['boxes'])
    result = np.full(len(first), FALSE, dtype=object)
    for row in np.argsort(-found['scores'], kind='stable'):
        name = found['names'][found['labels'][row]]
        enough = overlap[row] >= limits[name]
        same = names == name.lower()
        free = np.flatnonzero(enough & same & (states == MISSED))
        forgiven = (same & ~truth.counted) | (names == NEIGHBOURS.get(name.lower(), ''))
        if len(free):
            states[free[overlap[row, free].argmax()]] = FOUND
            result[row] = RIGHT
        elif excused[row] or (enough & forgiven).any():
            result[row] = EXCUSED
    return Matches(states.astype(np.str_), result.astype(np.str_))
