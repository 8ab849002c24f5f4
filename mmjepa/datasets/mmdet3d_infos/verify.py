"""What all data sets' info files are checked for after a conversion, or on request."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..info_files import load_plain, read_infos
from ..kitti import points_in_boxes

Infos = list[dict[str, Any]]


@dataclass(frozen=True)
class ConversionReport:
    """What was written and read back.

    Attributes:
        out: the folder.
        counts: frames by set.
        sample: name of the frame that was read back.
        points: LiDAR points in it.
        instances: 3D boxes in it.
        holding: those of them that hold a point.
        objects: entries of the ground-truth database by class.
        notes: what else a user should know, one sentence each.
    """

    out: Path
    counts: dict[str, int]
    sample: str
    points: int
    instances: int
    holding: int
    objects: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """A few lines for the terminal."""
        return '\n'.join(
            [
                f'{self.out}: info files agree with the data ({_join(self.counts)} frames)',
                f'read back frame {self.sample}: {self.points} points, {self.instances} boxes, '
                f'{self.holding} of them hold points',
                f'ground-truth database: {_join(self.objects)}',
                *(f'note: {note}' for note in self.notes),
            ]
        )


def _join(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{name} {count}' for name, count in counts.items()) or 'empty'


def check_infos(folder: Path, name: str, split: str) -> Infos:
    """The frames of one info file, whose header must be that of data set ``name``.

    Args:
        folder: of the info files.
        name: of the data set, e.g. ``kitti``.
        split: e.g. ``train``.

    Raises:
        RuntimeError: the file is missing or of another data set.
        InfoFileError: it is damaged or of mmdet3d 0.x.
    """
    path = folder / f'{name}_infos_{split}.pkl'
    if not path.is_file():
        raise RuntimeError(
            f'{path} is missing: no conversion ended here. Run tools/create_data.py {name}'
        )
    content = read_infos(path)
    found = content['metainfo'].get('dataset')
    if found != name:
        raise RuntimeError(f'{path}: metainfo says dataset {found!r}, expected {name!r}')
    if name == 'kitti' and not content['metainfo'].get('categories'):  # KittiAPMetric reads them
        raise RuntimeError(
            f'{path}: metainfo names no categories: run tools/create_data.py {name} again'
        )
    return content['data_list']


def check_count(path: Path, infos: Infos, wanted: int, source: str) -> None:
    """Compares the number of frames.

    Raises:
        RuntimeError: they differ.
    """
    if len(infos) != wanted:
        raise RuntimeError(
            f'{path} holds {len(infos)} frames, {source} {wanted}: convert again into an empty '
            'folder'
        )


def check_not_empty(path: Path, infos: Infos) -> None:
    """Refuses an empty training or validation set.

    Raises:
        RuntimeError: there is no frame.
    """
    if not infos:
        raise RuntimeError(
            f'{path} holds no frame, so nothing can be trained or evaluated on it: put frames into '
            'this split and convert again'
        )


def check_sweeps(folder: Path, infos: Infos) -> None:
    """Looks for every frame's sweep.

    Args:
        folder: to which ``lidar_path`` is relative.
        infos: the frames.

    Raises:
        RuntimeError: sweeps are missing; names the first.
    """
    names = [str(info['lidar_points']['lidar_path']) for info in infos]
    listed: dict[str, set[str]] = {}
    for parent in {os.path.dirname(name) for name in names}:  # one listing beats many stats
        path = folder / parent
        listed[parent] = set(os.listdir(path)) if path.is_dir() else set()
    missing = [
        name for name in names if os.path.basename(name) not in listed[os.path.dirname(name)]
    ]
    if missing:
        raise RuntimeError(
            f'{len(missing)} of {len(names)} sweeps are missing, the first is {folder / missing[0]}'
        )


def check_database(folder: Path, name: str, frames: int, dim: int) -> dict[str, int]:
    """Reads the ground-truth database's list, looks for its files and at the first of each class.

    Args:
        folder: of the info files.
        name: of the data set.
        frames: in the training set.
        dim: floats per point.

    Returns:
        Objects by class.

    Raises:
        RuntimeError: list or files are missing or disagree.
    """
    path = folder / f'{name}_dbinfos_train.pkl'
    if not path.is_file():
        raise RuntimeError(f'{path} is missing: convert again into an empty folder')
    content = load_plain(path)
    if not isinstance(content, dict):
        raise RuntimeError(f'{path} holds a {type(content).__name__}, not objects by class')
    database = folder / f'{name}_gt_database'
    there = set(os.listdir(database)) if database.is_dir() else set()
    for kind, entries in content.items():
        for entry in entries:
            if os.path.basename(entry['path']) not in there:
                raise RuntimeError(f'{folder / entry["path"]} is missing, {path} names it')
            if not 0 <= entry['image_idx'] < frames:
                raise RuntimeError(
                    f'{path}: frame {entry["image_idx"]} of an object is none of the {frames} '
                    'training frames, so the list is of another conversion; convert again'
                )
        if entries:
            size = (folder / entries[0]['path']).stat().st_size
            wanted = int(entries[0]['num_points_in_gt']) * dim * 4
            if size != wanted:
                raise RuntimeError(
                    f'{folder / entries[0]["path"]} has {size} bytes, {path} says {wanted}'
                )
        if not isinstance(kind, str):
            raise RuntimeError(f'{path}: class {kind!r} is no name')
    if not any(content.values()):
        raise RuntimeError(f'{path} holds no object: no training frame has a labelled one')
    return {str(kind): len(entries) for kind, entries in content.items()}


def note_missing_classes(objects: Mapping[str, int], classes: Sequence[str]) -> list[str]:
    """What to say about classes that no training frame has."""
    missing = [name for name in classes if not objects.get(name)]
    if not missing:
        return []
    return [
        f'no {", ".join(missing)} among the training objects: a detector cannot learn them, and '
        "ObjectSample fails until they are out of its config's sample_groups and prepare"
    ]


def first_labelled(infos: Infos) -> int:
    """Number of the first frame with boxes, 0 where none has any."""
    for i, info in enumerate(infos):
        if any(instance['bbox_label_3d'] >= 0 for instance in info.get('instances', [])):
            return i
    return 0


def read_points_back(path: Path, dim: int) -> NDArray[np.float32]:
    """One sweep as (P, dim) float32.

    Raises:
        RuntimeError: it is empty or doesn't divide into points.
    """
    values = np.fromfile(path, dtype=np.float32)
    if not values.size or values.size % dim:
        raise RuntimeError(f'{path}: {values.size} floats are not {dim} per point')
    return values.reshape(-1, dim)


def count_holding(sweep: Path, points: NDArray[Any], boxes: NDArray[Any]) -> int:
    """How many boxes hold a point; at least one must, if there are any.

    Args:
        sweep: where the points come from, for the message.
        points: (P, >=3).
        boxes: (N, 7) gravity centre, in the points' frame.

    Raises:
        RuntimeError: none does: boxes and points are not in one frame.
    """
    holding = sum(bool((points_in_boxes(points, box[None]) == 0).any()) for box in boxes)
    if len(boxes) and not holding:
        raise RuntimeError(
            f'none of the {len(boxes)} boxes of {sweep} holds a point: boxes and sweep are not in '
            'the same frame, or the sweep is of another frame'
        )
    return holding


def instance_boxes(instances: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(N, 7) boxes of the instances with a class, as they stand in the info file."""
    boxes = [entry['bbox_3d'][:7] for entry in instances if entry['bbox_label_3d'] >= 0]
    return np.array(boxes, dtype=np.float64).reshape(-1, 7)
