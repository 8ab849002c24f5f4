"""Info files of mmdet3d for nuScenes: its own converter, and a check of the result."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..info_files import load_plain, write_plain
from .verify import (
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
from .workspace import Workspace, run_mmdet3d

VERSIONS = ('v1.0-trainval', 'v1.0-mini')
CLASSES = (
    *('car', 'truck', 'trailer', 'bus', 'construction_vehicle', 'bicycle', 'motorcycle'),
    *('pedestrian', 'traffic_cone', 'barrier'),
)
_SETS = ('train', 'val')
_MADE = ('nuscenes_gt_database', 'nuscenes_dbinfos_train.pkl')
_TABLES = (
    *('attribute', 'calibrated_sensor', 'category', 'ego_pose', 'instance', 'log', 'map', 'sample'),
    *('sample_annotation', 'sample_data', 'scene', 'sensor', 'visibility'),
)


def convert_nuscenes(
    root: str | Path,
    out: str | Path | None = None,
    version: str | None = None,
    max_sweeps: int = 10,
) -> ConversionReport:
    """Runs mmdet3d 1.4's nuScenes converter and verifies what it wrote.

    The result appears whole or not at all. The converter's database names objects outside the ten
    detection classes 'barrier'; they are taken out.

    Args:
        root: nuScenes folder (``samples/``, ``sweeps/``, ``maps/``, tables).
        out: where the info files and the object database go, with links to ``root``'s files;
            ``root`` itself when None.
        version: folder of the tables; what is found of ``VERSIONS`` when None.
        max_sweeps: earlier sweeps listed per frame.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: ``root`` misses folders or tables.
        FileExistsError: ``out`` isn't empty.
        ImportError: mmdet3d or nuscenes-devkit isn't installed.
        RuntimeError: the converter failed, or its result doesn't agree with the data.
    """
    root = Path(root)
    version = _check_root(root, version)
    if find_spec('nuscenes') is None:
        raise ImportError(
            "mmdet3d's nuScenes converter needs nuscenes-devkit (numpy < 2): pip install "
            "'nuscenes-devkit==1.2.0' in an environment of its own if yours has numpy 2, and check "
            'the result here with --verify-only'
        )
    with Workspace(root, out, 'nuscenes') as space:
        # hidden entries, info files and an earlier database stay behind
        skip = {*_MADE, space.base.name}
        names = [entry.name for entry in sorted(root.iterdir())]
        space.link(n for n in names if n not in skip and n[0] != '.' and not n.endswith('.pkl'))
        run_mmdet3d(space, '--version', version, '--max-sweeps', str(max_sweeps))
        notes = _drop_foreign_objects(space.result)
        report = verify_nuscenes(space.result)
        space.publish([*_MADE, *(f'nuscenes_infos_{name}.pkl' for name in _SETS)])
    return replace(report, out=space.target, notes=notes + report.notes)


def verify_nuscenes(folder: str | Path) -> ConversionReport:
    """Checks info files against the tables (where they are) and one frame against its sweep.

    Args:
        folder: nuScenes folder with mmdet3d's info files.

    Raises:
        RuntimeError: something disagrees; says what.
        InfoFileError: an info file is damaged or of mmdet3d 0.x.
    """
    folder = Path(folder)
    infos = {name: check_infos(folder, 'nuscenes', name) for name in _SETS}
    for name, frames in infos.items():
        check_not_empty(folder / f'nuscenes_infos_{name}.pkl', frames)
        check_sweeps(folder / 'samples' / 'LIDAR_TOP', frames)
    found = [v for v in VERSIONS if (folder / v / 'sample.json').is_file()]
    if len(found) == 1:
        samples = len(json.loads((folder / found[0] / 'sample.json').read_text()))
        both = infos['train'] + infos['val']
        check_count(folder / 'nuscenes_infos_*.pkl', both, samples, f'{found[0]}/sample.json')
    objects = check_database(folder, 'nuscenes', len(infos['train']), dim=5)
    if strangers := set(objects) - set(CLASSES):
        raise RuntimeError(f'{folder}/nuscenes_dbinfos_train.pkl has classes {sorted(strangers)}')
    info = infos['train'][first_labelled(infos['train'])]
    sweep = folder / 'samples' / 'LIDAR_TOP' / info['lidar_points']['lidar_path']
    points = read_points_back(sweep, 5)
    boxes = instance_boxes([entry for entry in info['instances'] if entry['num_lidar_pts'] > 0])
    holding = count_holding(sweep, points, boxes)
    counts = {name: len(frames) for name, frames in infos.items()}
    notes = note_missing_classes(objects, CLASSES)
    notes += [] if found else ['no tables here, so the number of frames was not compared with them']
    return ConversionReport(
        folder, counts, sweep.name, len(points), len(boxes), holding, objects, notes
    )


def _check_root(root: Path, version: str | None) -> str:
    found = [name for name in VERSIONS if (root / name).is_dir()]
    if version is None:
        if len(found) != 1:
            what = 'no tables' if not found else f'tables {" and ".join(found)}'
            raise FileNotFoundError(
                f'{root}: {what} found; unpack one of {", ".join(VERSIONS)} there, or say which '
                'with --version'
            )
        version = found[0]
    missing = [name for name in ('samples/LIDAR_TOP', 'maps') if not (root / name).is_dir()]
    missing += [
        f'{version}/{name}.json'
        for name in _TABLES
        if not (root / version / f'{name}.json').is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f'{root} is no complete nuScenes folder, missing: {", ".join(missing[:6])}; unpack the '
            'metadata, map and sweep archives there'
        )
    return version


def _drop_foreign_objects(folder: Path) -> list[str]:
    """Takes objects of no detection class out of the database; says how many there were.

    Their label is -1, and mmdet3d looks that up in its list of classes: the last one, 'barrier'.
    """
    frames = check_infos(folder, 'nuscenes', 'train')
    path = folder / 'nuscenes_dbinfos_train.pkl'
    content = load_plain(path)
    kept: dict[str, list[Any]] = {name: [] for name in CLASSES}
    dropped = 0
    for name, entries in content.items():
        for entry in entries:
            if _label(frames[entry['image_idx']], entry['gt_idx']) >= 0:
                kept[name].append(entry)
            else:
                dropped += 1
                (folder / entry['path']).unlink()
    write_plain(kept, path)
    if not dropped:
        return []
    return [
        f"{dropped} objects outside the ten classes, which mmdet3d's converter calls 'barrier', "
        'are taken out of the database'
    ]


def _label(info: Mapping[str, Any], index: int) -> int:
    valid = [entry for entry in info['instances'] if entry['bbox_3d_isvalid']]
    return int(valid[index]['bbox_label_3d'])
