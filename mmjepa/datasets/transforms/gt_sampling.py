"""GT sampling, for parity with the released AD-L-JEPA pre-training only: it uses labels.

Source: Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018, section
3.2, as OpenPCDet's KITTI configs set it. Deviations: objects are drawn anew for every sample
(OpenPCDet walks through a shuffled list), heights aren't moved to the frame's road plane, and a
frame without boxes is kept (the released loader draws another).
"""

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.registry import TRANSFORMS

from ..file_index import atomic_write, cache_file
from ..kitti import KittiCalib, KittiObjects, points_in_boxes
from ..point_files import read_points
from ..sweep_index import read_split

COUNTS = {'Car': 20, 'Pedestrian': 15, 'Cyclist': 15}


@dataclass
class ObjectBank:
    """Labelled objects cut out of KITTI frames.

    Attributes:
        names: (M,) classes.
        boxes: (M, 7), LiDAR frame.
        points: (K, 4) float32, object after object.
        ends: (M + 1,) where each object's points begin and end.
    """

    names: NDArray[np.str_]
    boxes: NDArray[np.float64]
    points: NDArray[np.float32]
    ends: NDArray[np.int64]

    def points_of(self, index: int) -> NDArray[np.float32]:
        """(n, 4) points of an object."""
        return self.points[self.ends[index] : self.ends[index + 1]]

    @classmethod
    def from_kitti(cls, root: Path, split: str, min_points: int, cache: bool) -> 'ObjectBank':
        """Cuts the objects of a split; those without a difficulty or with few points are left out.

        Raises:
            FileNotFoundError: no split file or no labels.
        """
        labels, frames_file = root / 'training' / 'label_2', root / 'ImageSets' / f'{split}.txt'
        for path in (labels, frames_file):
            if not path.exists():
                raise FileNotFoundError(
                    f'{path}: no such file or folder; GTSampling cuts labelled objects out of a '
                    'KITTI object folder. Label-free pre-training does without this transform'
                )
        stamp = f'{labels.stat().st_mtime_ns}:{frames_file.stat().st_mtime_ns}:{min_points}'
        file = cache_file('objects', str(root.resolve()), split, stamp, suffix='.npz')
        if cache and file.is_file():
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    return cls(**{key: arrays[key] for key in arrays.files})
            except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
                pass  # damaged: cut again
        frames = read_split(frames_file)
        print_log(f'GTSampling: cutting objects out of {len(frames)} frames ...', logger='current')
        bank = cls._cut(root / 'training', frames, min_points)
        if cache:
            buffer = io.BytesIO()
            np.savez(buffer, **vars(bank))
            atomic_write(file, buffer.getvalue())
        return bank

    @classmethod
    def _cut(cls, folder: Path, frames: list[str], min_points: int) -> 'ObjectBank':
        names, boxes, pieces = [], [], []
        for frame in frames:
            objects, frame_boxes = read_labels(folder, frame)
            sweep = read_points(folder / 'velodyne' / f'{frame}.bin', 4)
            owner = points_in_boxes(sweep, frame_boxes)
            difficulty = objects.difficulty()
            for i, name in enumerate(objects.names):
                inside = np.flatnonzero(owner == i)
                if len(inside) >= min_points and difficulty[i] >= 0:
                    names.append(str(name))
                    boxes.append(frame_boxes[i])
                    pieces.append(sweep[inside])
        return cls(
            names=np.array(names, dtype=np.str_),
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 7),
            points=np.concatenate([np.zeros((0, 4), np.float32), *pieces]),
            ends=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        )


def read_labels(folder: Path, frame: str) -> tuple[KittiObjects, NDArray[np.float64]]:
    """Objects of a KITTI frame without DontCare, and their (N, 7) boxes."""
    objects = KittiObjects.from_file(folder / 'label_2' / f'{frame}.txt').without_dontcare()
    calib = KittiCalib.from_file(folder / 'calib' / f'{frame}.txt')
    return objects, objects.boxes_lidar(calib)


def boxes_overlap(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Which boxes overlap seen from above (separating axes).

    Args:
        first: (M, 7).
        second: (N, 7).

    Returns:
        (M, N) bool; boxes that only touch don't overlap.
    """
    overlap = np.ones((len(first), len(second)), dtype=bool)
    offset = second[None, :, :2] - first[:, None, :2]
    turn = second[None, :, 6] - first[:, None, 6]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    (dx1, dy1), (dx2, dy2) = first[:, 3:5].T, second[:, 3:5].T
    for yaws, own, other in (
        (first[:, 6][:, None], (dx1[:, None], dy1[:, None]), (dx2[None], dy2[None])),
        (second[:, 6][None], (dx2[None], dy2[None]), (dx1[:, None], dy1[:, None])),
    ):
        ahead = np.abs(offset[..., 0] * np.cos(yaws) + offset[..., 1] * np.sin(yaws))
        aside = np.abs(offset[..., 1] * np.cos(yaws) - offset[..., 0] * np.sin(yaws))
        overlap &= 2 * ahead < own[0] + cos * other[0] + sin * other[1]
        overlap &= 2 * aside < own[1] + sin * other[0] + cos * other[1]
    return overlap


@TRANSFORMS.register_module()
class GTSampling:
    """Pastes labelled objects of other frames into the sweep. USES LABELS; parity only.

    Objects that would overlap a labelled or another pasted box are left out; points of the sweep
    inside a pasted box make room. Belongs after ``CropToCameraView`` and before the flips.

    Args:
        db_root: KITTI object folder with labels.
        split: whose objects are pasted.
        counts: class -> number of its objects in the sweep, its own included.
        min_points: objects with fewer points aren't pasted.
        cache: keep the cut objects in the cache folder.

    Raises:
        FileNotFoundError: no labels or split file.
        ValueError: when called, if points haven't 4 values.
    """

    def __init__(
        self,
        db_root: str | Path,
        split: str = 'train',
        counts: Mapping[str, int] | None = None,
        min_points: int = 5,
        cache: bool = True,
    ) -> None:
        self.counts = dict(COUNTS if counts is None else counts)
        self.bank = ObjectBank.from_kitti(Path(db_root), split, min_points, cache)
        self.rows = {name: np.flatnonzero(self.bank.names == name) for name in self.counts}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pastes objects into ``points``."""
        points = results['points']
        if points.shape[1] != 4:
            raise ValueError(f'GTSampling pastes x y z intensity, points are {points.shape}')
        folder, name = os.path.split(results['path'])
        objects, boxes = read_labels(Path(folder).parent, name.split('.')[0])
        pasted: list[int] = []
        for category, count in self.counts.items():
            rows = self.rows[category]
            wanted = min(count - int((objects.names == category).sum()), len(rows))
            if wanted <= 0:
                continue
            rows = results['rng'].choice(rows, wanted, replace=False)
            sampled = self.bank.boxes[rows]
            among = boxes_overlap(sampled, sampled)
            np.fill_diagonal(among, False)
            free = ~among.any(axis=1) & ~boxes_overlap(sampled, boxes).any(axis=1)
            pasted += rows[free].tolist()
            boxes = np.concatenate([boxes, sampled[free]])
        if pasted:
            outside = points_in_boxes(points, self.bank.boxes[pasted]) < 0
            pieces = [self.bank.points_of(row) for row in pasted]
            results['points'] = np.concatenate([points[outside], *pieces])
        return results
