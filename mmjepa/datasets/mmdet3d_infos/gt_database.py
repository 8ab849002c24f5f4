"""The ground-truth database that mmdet3d's ``ObjectSample`` pastes objects from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..info_files import write_plain
from ..kitti import points_in_boxes


@dataclass(frozen=True)
class LabelledFrame:
    """One training frame of a database.

    Attributes:
        points: (P, F) float32, x, y, z in metres first.
        names: class of each object.
        boxes: (N, 7) gravity centre, dx, dy, dz, yaw (or (N, 9) with velocity), frame of points.
        difficulty: (N,) int; zeros when None.
    """

    points: NDArray[np.float32]
    names: Sequence[str]
    boxes: NDArray[Any]
    difficulty: NDArray[Any] | None = None


def bottom_centre(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """(N, >=7) boxes with gravity centre -> the same with mmdet3d's bottom centre, float32."""
    moved = np.array(boxes, dtype=np.float32)
    moved[:, 2] -= moved[:, 5] / 2
    return moved


def write_gt_database(
    folder: Path, prefix: str, frames: Iterable[LabelledFrame], classes: Sequence[str]
) -> dict[str, int]:
    """Writes ``<prefix>_gt_database/`` and ``<prefix>_dbinfos_train.pkl`` as mmdet3d does.

    ``image_idx`` is the frame's place in the training list, as mmdet3d writes it, and points are
    relative to the box's bottom centre.

    Args:
        folder: the data set's folder.
        prefix: e.g. ``once``.
        frames: the training frames, in the order of the info file.
        classes: all classes; those without an object get an empty list.

    Returns:
        Objects by class.
    """
    database = folder / f'{prefix}_gt_database'
    database.mkdir(parents=True, exist_ok=True)
    infos: dict[str, list[dict[str, Any]]] = {name: [] for name in classes}
    group = 0
    for index, frame in enumerate(frames):
        boxes = bottom_centre(frame.boxes)
        for i, name in enumerate(frame.names):
            # one box at a time: where boxes overlap, each keeps its points
            inside = points_in_boxes(frame.points, frame.boxes[i : i + 1, :7]) == 0
            points = frame.points[inside].copy()
            points[:, :3] -= boxes[i, :3]
            file = f'{index}_{name}_{i}.bin'
            points.tofile(database / file)
            infos[name].append(
                {
                    'name': name,
                    'path': f'{database.name}/{file}',
                    'image_idx': index,
                    'gt_idx': i,
                    'box3d_lidar': boxes[i],
                    'num_points_in_gt': len(points),
                    'difficulty': 0 if frame.difficulty is None else int(frame.difficulty[i]),
                    'group_id': group,
                }
            )
            group += 1
    write_plain(infos, folder / f'{prefix}_dbinfos_train.pkl')
    return {name: len(entries) for name, entries in infos.items()}
