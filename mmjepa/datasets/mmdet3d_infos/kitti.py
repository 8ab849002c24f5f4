"""Info files of mmdet3d for a KITTI object folder: its own converter, and a check of the result."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..kitti import KittiCalib, KittiObjects
from .kitti_plan import CLASSES, plan_kitti
from .verify import (
    ConversionReport,
    check_count,
    check_database,
    check_infos,
    check_not_empty,
    check_sweeps,
    count_holding,
    first_labelled,
    note_missing_classes,
    read_points_back,
)
from .workspace import Workspace, run_mmdet3d

SETS = ('train', 'val', 'trainval', 'test')


def convert_kitti(
    root: str | Path, out: str | Path | None = None, val_fraction: float | None = None
) -> ConversionReport:
    """Runs mmdet3d 1.4's KITTI converter and verifies what it wrote.

    The result appears whole or not at all. With ``out``, image sets are made where there are none
    and frames may lack their image; nothing is written to ``root``.

    Args:
        root: KITTI object folder.
        out: where the info files, the reduced sweeps and the object database go, with links to
            ``root``'s files; ``root`` itself when None.
        val_fraction: with ``out``, make new image sets with this share for validation.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: ``root`` misses folders, lists or files.
        FileExistsError: ``out`` isn't empty.
        ValueError: a split is empty, or a label file cannot be used.
        ImportError: mmdet3d isn't installed.
        RuntimeError: the converter failed, or its result doesn't agree with the data.
    """
    root = Path(root)
    space = Workspace(root, out, 'kitti')
    plan = plan_kitti(root, space.in_place, val_fraction)
    with space:
        space.link(_raw_folders(root))
        plan.write_sets(space.result)
        run_mmdet3d(space)
        report = verify_kitti(space.result)
        made = [f'{split}/velodyne_reduced' for split in ('training', 'testing')]
        made = [path for path in made if (space.result / path).is_dir()]
        made += ['kitti_gt_database', 'kitti_dbinfos_train.pkl']
        space.publish([*made, *(f'kitti_infos_{name}.pkl' for name in SETS)])
    return replace(report, out=space.target, notes=plan.notes + report.notes)


def verify_kitti(folder: str | Path) -> ConversionReport:
    """Checks info files against the folder's image sets, and one frame against its files.

    Args:
        folder: KITTI object folder with mmdet3d's info files.

    Raises:
        RuntimeError: something disagrees; says what.
        InfoFileError: an info file is damaged or of mmdet3d 0.x.
    """
    folder = Path(folder)
    infos = {name: check_infos(folder, 'kitti', name) for name in SETS}
    for name, frames in infos.items():
        path = folder / f'kitti_infos_{name}.pkl'
        listed = _read_set(folder, 'train') + _read_set(folder, 'val')
        if name != 'trainval':  # the converter joins the two, whatever trainval.txt says
            listed = _read_set(folder, name)
        if name != 'test':
            check_not_empty(path, frames)
        check_count(path, frames, len(listed), f'ImageSets/{name}.txt')
        split = 'testing' if name == 'test' else 'training'
        check_sweeps(folder / split / 'velodyne_reduced', frames)
    objects = check_database(folder, 'kitti', len(infos['train']), dim=4)
    info = infos['trainval'][first_labelled(infos['trainval'])]
    sample = f'{int(info["sample_idx"]):06d}'
    sweep = folder / 'training/velodyne_reduced' / Path(info['lidar_points']['lidar_path']).name
    points = read_points_back(sweep, 4)
    boxes = _sample_boxes(folder, sample, info)
    holding = count_holding(sweep, points, boxes)
    counts = {name: len(frames) for name, frames in infos.items()}
    notes = note_missing_classes(objects, ('Car', 'Pedestrian', 'Cyclist'))
    return ConversionReport(
        folder, counts, sample, len(points), len(boxes), holding, objects, notes
    )


def _sample_boxes(folder: Path, sample: str, info: dict[str, Any]) -> np.ndarray:
    """(N, 7) boxes of one frame from its label file, which the info must agree with."""
    objects = KittiObjects.from_file(folder / 'training' / 'label_2' / f'{sample}.txt')
    objects = objects.select(np.isin(objects.names, CLASSES))
    calib = KittiCalib.from_file(folder / 'training' / 'calib' / f'{sample}.txt')
    wanted = np.column_stack([objects.location, objects.dims[:, [2, 0, 1]], objects.rotation_y])
    found = np.array(
        [entry['bbox_3d'] for entry in info['instances'] if entry['bbox_label_3d'] >= 0]
    ).reshape(-1, 7)
    if found.shape != wanted.shape or not np.allclose(found, wanted, atol=1e-4):
        raise RuntimeError(
            f'frame {sample}: {len(found)} boxes in the info file, {len(wanted)} in its label '
            'file, or at other places: convert again into an empty folder'
        )
    camera = info['images']['CAM2']
    lidar_to_camera = calib.r0 @ calib.velo_to_cam
    agrees = np.allclose(np.array(camera['lidar2cam'])[:3], lidar_to_camera, atol=1e-4)
    if not agrees or not np.allclose(np.array(camera['cam2img'])[:3], calib.p2, atol=1e-3):
        raise RuntimeError(
            f"frame {sample}: the info file's calibration is not that of calib/{sample}.txt; "
            'mmdet3d takes its lines by place: P0 P1 P2 P3 R0_rect Tr_velo_to_cam Tr_imu_to_velo'
        )
    return objects.boxes_lidar(calib)


def _read_set(folder: Path, name: str) -> list[str]:
    path = folder / 'ImageSets' / f'{name}.txt'
    if not path.is_file():
        if name == 'test':
            return []
        raise RuntimeError(f'{path} is missing, so the info files cannot be checked')
    return path.read_text().split()


def _raw_folders(root: Path) -> list[str]:
    """Raw folders below training/ and testing/; those that the converter makes are left out."""
    found = []
    for split in ('training', 'testing'):
        if (root / split).is_dir():
            names = sorted(entry.name for entry in os.scandir(root / split) if entry.is_dir())
            found += [f'{split}/{name}' for name in names if not name.startswith('velodyne_red')]
    return found
