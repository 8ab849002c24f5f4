"""Ground truth of one frame, and which detections are right: the rules behind the pictures.

They follow KITTI's evaluation at one score threshold. Differences: each detection, by falling
score, takes the free object that it overlaps most; a DontCare region excuses the detections whose
centre is seen in it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from numpy.typing import NDArray

from mmjepa.datasets.info_files import read_infos
from mmjepa.datasets.kitti import KittiCalib
from mmjepa.engine.finetune import innermost
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


def read_ground_truth(config: Config, sweep: str | Path) -> GroundTruth | None:
    """The labels of a sweep in the info files of a detection config.

    Args:
        config: its test, validation and train data sets are searched, in this order; those whose
            info file isn't there are passed over.
        sweep: one of their files; of KITTI also that in ``velodyne``, which wasn't cut to the
            camera's view.

    Returns:
        The objects; None where no info file lists the sweep with labels.

    Raises:
        InfoFileError: an info file is damaged, or of mmdet3d 0.x.
    """
    from mmdet3d.registry import DATASETS

    seen = set()
    for name in ('test', 'val', 'train'):
        dataset = innermost((config.get(f'{name}_dataloader') or {}).get('dataset') or {})
        if not dataset.get('ann_file'):
            continue
        # all classes that are labelled, and nothing read yet
        plain: dict[str, Any] = dict(pipeline=[], metainfo=None, test_mode=True, lazy_init=True)
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet3d')):
            reader = DATASETS.build({**dataset, **plain})
        if reader.ann_file in seen or not Path(reader.ann_file).is_file():
            continue
        seen.add(reader.ann_file)
        frame = _find_frame(reader, Path(sweep).resolve())
        if frame is not None:
            return _objects(reader, frame)
    return None


def _find_frame(reader: Any, sweep: Path) -> dict[str, Any] | None:
    """The labelled frame of the info file whose sweep is this one."""
    for frame in read_infos(reader.ann_file)['data_list']:
        listed = Path(reader.data_prefix.get('pts', ''), frame['lidar_points']['lidar_path'])
        if listed.name == sweep.name and 'instances' in frame:
            whole = listed.parent.with_name('velodyne') / listed.name
            if sweep in (listed.resolve(), whole.resolve()):
                return frame
    return None


def _objects(reader: Any, frame: dict[str, Any]) -> GroundTruth:
    instances, camera = frame['instances'], (frame.get('images') or {}).get('CAM2')
    found = reader.parse_data_info(copy.deepcopy(frame))['eval_ann_info']
    boxes, labels = found['gt_bboxes_3d'], found['gt_labels_3d']
    known = labels >= 0
    counted = np.ones(len(labels), dtype=bool)
    if 'difficulty' in found:  # KITTI's; own labels may come without image boxes, on which it rests
        seen = found['gt_bboxes']
        counted = (found['difficulty'] >= 0) | ~(seen[:, 2:] > seen[:, :2]).all(axis=1)
    # other objects without a class have a size
    regions = [
        each['bbox']
        for each in instances
        if each['bbox_label_3d'] < 0 and max(each['bbox_3d'][3:6]) <= 0
    ]
    return GroundTruth(
        boxes=np.hstack([boxes.gravity_center, boxes.tensor[:, 3:7]]).astype(np.float64)[known],
        names=np.array(reader.metainfo['classes'], dtype=np.str_)[labels[known]],
        counted=counted[known],
        dontcare=np.array(regions, dtype=np.float64).reshape(-1, 4),
        calib=None if camera is None else _calib(camera),
    )


def _calib(camera: Mapping[str, Any]) -> KittiCalib:
    projection, to_camera = (np.array(camera[key])[:3] for key in ('cam2img', 'lidar2cam'))
    return KittiCalib(p2=projection, r0=np.eye(3), velo_to_cam=to_camera)


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
