"""Info files for ONCE in the layout of mmdet3d 1.x, which has no converter for it.

Frame: boxes and points stay in the sweeps' own LiDAR frame, untouched, as in OpenPCDet. ONCE
publishes it with x to the left of the car, y backwards and z up, right-handed; yaw is measured from
+x to +y and the length lies along it. Nothing here depends on where the car looks: boxes,
flips and rotations only need z up. What does depend on it (a range ahead of the car, a camera's
view) must not be taken over from KITTI, whose x points ahead.

Source: Mao et al., "One Million Scenes for Autonomous Driving: ONCE Dataset", NeurIPS 2021 data
sets and benchmarks; layout as its development kit reads it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .info_files import write_plain
from .kitti import points_in_boxes
from .mmdet3d_infos.gt_database import LabelledFrame, write_gt_database
from .mmdet3d_infos.verify import (
    ConversionReport,
    check_count,
    check_database,
    check_infos,
    check_not_empty,
    check_sweeps,
    count_holding,
    first_labelled,
    instance_boxes,
    note_missing_classes,
    read_points_back,
)
from .mmdet3d_infos.workspace import Workspace

CLASSES = ('Car', 'Bus', 'Truck', 'Pedestrian', 'Cyclist')
_SETS = ('train', 'val')
_MADE = ('once_gt_database', 'once_dbinfos_train.pkl', 'once_infos_train.pkl', 'once_infos_val.pkl')
_DIM = 4  # x, y, z, intensity


def convert_once(root: str | Path, out: str | Path | None = None) -> ConversionReport:
    """Makes ``once_infos_{train,val}.pkl`` and the object database, and verifies them.

    The result appears whole or not at all. Frames without ``annos``, and those with an empty list
    of boxes, are left out, as in OpenPCDet, with which the published figures were made.

    Args:
        root: ONCE folder: ``ImageSets/{train,val}.txt`` and ``data/<sequence>/``.
        out: where the result goes, with links to ``root``'s files; ``root`` itself when None.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: lists, sequences or sweeps are missing.
        FileExistsError: ``out`` isn't empty.
        ValueError: an annotation cannot be used; names file and frame.
        RuntimeError: the result doesn't agree with the data.
    """
    root = Path(root)
    sequences = {name: _sequences(root, name) for name in _SETS}
    with Workspace(root, out, 'once') as space:
        space.link(['data', 'ImageSets'])
        infos: dict[str, list[dict[str, Any]]] = {}
        left_out = 0
        for name in _SETS:
            infos[name] = []
            for sequence in sequences[name]:
                frames, empty = _read_sequence(root, sequence)
                infos[name] += frames
                left_out += empty
            if not infos[name]:
                raise ValueError(
                    f'{root}/ImageSets/{name}.txt: none of its {len(sequences[name])} sequences '
                    'has a frame with annos; unpack the labels, or name labelled sequences there'
                )
        # counts the points in the boxes of all frames, so the lists are written after it
        write_gt_database(space.result, 'once', _frames(root, infos['train']), CLASSES)
        for _ in _frames(root, infos['val']):
            pass
        for name in _SETS:
            write_plain(
                {'metainfo': _metainfo(), 'data_list': infos[name]},
                space.result / f'once_infos_{name}.pkl',
            )
        report = verify_once(space.result)
        space.publish(_MADE)
    notes = [f'{left_out} frames without labelled boxes in these sequences are left out']
    return replace(report, out=space.target, notes=notes + report.notes)


def verify_once(folder: str | Path) -> ConversionReport:
    """Checks ONCE's info files against its annotations, and one frame against its sweep.

    Args:
        folder: ONCE folder with :func:`convert_once`'s files.

    Raises:
        RuntimeError: something disagrees; says what.
        InfoFileError: an info file is damaged or of mmdet3d 0.x.
    """
    folder = Path(folder)
    infos = {name: check_infos(folder, 'once', name) for name in _SETS}
    for name, frames in infos.items():
        path = folder / f'once_infos_{name}.pkl'
        check_not_empty(path, frames)
        check_sweeps(folder / 'data', frames)
        wanted = sum(
            len(_labelled(_load_sequence(folder, sequence)))
            for sequence in _sequences(folder, name)
        )
        check_count(path, frames, wanted, f'the annotations of ImageSets/{name}.txt')
    objects = check_database(folder, 'once', len(infos['train']), _DIM)
    info = infos['train'][first_labelled(infos['train'])]
    sweep = folder / 'data' / info['lidar_points']['lidar_path']
    points = read_points_back(sweep, _DIM)
    boxes = instance_boxes(info['instances'])
    holding = count_holding(sweep, points, boxes)
    counts = {name: len(frames) for name, frames in infos.items()}
    notes = note_missing_classes(objects, CLASSES)
    sample = f'{info["sequence_id"]}/{info["frame_id"]}'
    return ConversionReport(
        folder, counts, sample, len(points), len(boxes), holding, objects, notes
    )


def _metainfo() -> dict[str, Any]:
    categories = {name: i for i, name in enumerate(CLASSES)}
    return {'categories': categories, 'dataset': 'once', 'info_version': '1.1'}


def _sequences(root: Path, name: str) -> list[str]:
    path = root / 'ImageSets' / f'{name}.txt'
    if not path.is_file():
        raise FileNotFoundError(
            f'{path} is missing; ONCE is laid out as ImageSets/{{train,val}}.txt with names of '
            'sequences and data/SEQUENCE/{SEQUENCE.json,lidar_roof/}'
        )
    names = path.read_text().split()
    if not names:
        raise ValueError(f'{path} is empty: name labelled sequences there, one per line')
    return names


def _load_sequence(root: Path, sequence: str) -> list[dict[str, Any]]:
    """The frames of a sequence's JSON file."""
    path = root / 'data' / sequence / f'{sequence}.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path} is missing: unpack the annotations of sequence {sequence}')
    try:
        frames = json.loads(path.read_text())['frames']
        if not all(isinstance(frame['frame_id'], str) for frame in frames):
            raise TypeError('a frame_id is no string')
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} is damaged or not of ONCE ({type(error).__name__}: {error}); fetch it again'
        ) from None
    return frames


def _labelled(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame for frame in frames if len((frame.get('annos') or {}).get('boxes_3d', []))]


def _read_sequence(root: Path, sequence: str) -> tuple[list[dict[str, Any]], int]:
    """mmdet3d's frames of a sequence, points in boxes not counted yet, and how many have none."""
    frames = _load_sequence(root, sequence)
    labelled = _labelled(frames)
    infos = []
    for frame in labelled:
        where = f'{root}/data/{sequence}/{sequence}.json, frame {frame["frame_id"]}'
        names, boxes = _annotations(frame['annos'], where)
        instances = [
            {'bbox_3d': box.tolist(), 'bbox_label': label, 'bbox_label_3d': label}
            for label, box in zip(map(CLASSES.index, names), boxes, strict=True)
        ]
        infos.append(
            {
                'sample_idx': frame['frame_id'],
                'sequence_id': sequence,
                'frame_id': frame['frame_id'],
                'pose': frame.get('pose'),
                'lidar_points': {
                    'num_pts_feats': _DIM,
                    'lidar_path': f'{sequence}/lidar_roof/{frame["frame_id"]}.bin',
                },
                'instances': instances,
            }
        )
    return infos, len(frames) - len(labelled)


def _annotations(annos: Mapping[str, Any], where: str) -> tuple[list[str], NDArray[np.float64]]:
    names = list(annos.get('names', []))
    try:
        boxes = np.array(annos['boxes_3d'], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f'{where}: boxes_3d cannot be read ({error})') from None
    if boxes.shape != (len(names), 7) or not np.isfinite(boxes).all():
        raise ValueError(
            f'{where}: boxes_3d must be finite and ({len(names)}, 7) as there are {len(names)} '
            f'names, got {boxes.shape}'
        )
    if unknown := [name for name in names if name not in CLASSES]:
        raise ValueError(
            f'{where}: class {unknown[0]!r} is none of {", ".join(CLASSES)}; rename it or take the '
            'object out'
        )
    if (boxes[:, 3:6] <= 0).any():
        raise ValueError(f'{where}: a box has a length, width or height that is not positive')
    return names, boxes


def _frames(root: Path, infos: list[dict[str, Any]]) -> Iterator[LabelledFrame]:
    """Reads the sweeps one by one, and writes the number of points into the instances."""
    for number, info in enumerate(infos, 1):
        sweep = root / 'data' / info['lidar_points']['lidar_path']
        if not sweep.is_file():
            raise FileNotFoundError(
                f'{sweep} is missing: unpack lidar_roof of sequence {info["sequence_id"]}'
            )
        points = read_points_back(sweep, _DIM)
        boxes = instance_boxes(info['instances'])
        for entry, box in zip(info['instances'], boxes, strict=True):
            entry['num_lidar_pts'] = int((points_in_boxes(points, box[None]) == 0).sum())
        names = [CLASSES[entry['bbox_label_3d']] for entry in info['instances']]
        if number % 500 == 0 or number == len(infos):
            print(f'{number}/{len(infos)} sweeps read', flush=True)
        yield LabelledFrame(points, names, boxes)
