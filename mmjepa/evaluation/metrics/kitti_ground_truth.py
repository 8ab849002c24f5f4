"""Ground truth of KITTI frames, from mmdet3d's info file or from label files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.datasets.info_files import read_infos
from mmjepa.datasets.kitti import DEFAULT_IMAGE_HW, KittiCalib, KittiObjects, png_size

from ..functional.kitti_annotations import DONTCARE, kitti_annotation

FloatArray = NDArray[Any]


@dataclass(frozen=True)
class TruthFrame:
    """What the evaluation needs of a frame.

    Attributes:
        lidar_to_camera: (3, 4) float64, to the rectified camera frame.
        projection: (3, 4) float64, camera frame to image.
        image_hw: height and width in pixels.
        annotation: as :func:`mmjepa.evaluation.functional.kitti_ap` takes it; None where the frame
            has no labels.
    """

    lidar_to_camera: FloatArray
    projection: FloatArray
    image_hw: tuple[int, int]
    annotation: dict[str, Any] | None


def frames_of_infos(path: str | Path, camera: str) -> dict[str, TruthFrame]:
    """Frames of an info file of mmdet3d 1.x.

    Args:
        path: e.g. ``kitti_infos_val.pkl``.
        camera: name of the camera that the labels belong to.

    Returns:
        Frames by the name of their sweep without suffix, ``'000123'``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, of mmdet3d 0.x, empty, names a frame twice or lacks something.
    """
    infos = read_infos(path)
    if not infos['data_list']:
        raise ValueError(f'{path} holds no frame: is ImageSets/val.txt empty?')
    name_of = _namer(path, infos['metainfo'])
    frames: dict[str, TruthFrame] = {}
    for index, info in enumerate(infos['data_list']):
        try:
            name = Path(info['lidar_points']['lidar_path']).stem
            image = info['images'][camera]
            frame = TruthFrame(
                lidar_to_camera=np.asarray(image['lidar2cam'], dtype=np.float64)[:3],
                projection=np.asarray(image['cam2img'], dtype=np.float64)[:3],
                image_hw=(int(image['height']), int(image['width'])),
                annotation=_annotation(info['instances'], name_of) if 'instances' in info else None,
            )
        except KeyError as error:
            raise ValueError(
                f'{path}, frame {index}: no key {error}; a KITTI info file of mmdet3d 1.4 has it, '
                'make it anew with tools/create_data.py kitti'
            ) from None
        if name in frames:
            raise ValueError(f'{path} names frame {name} twice')
        frames[name] = frame
    return frames


def frames_of_labels(folder: str | Path, names: list[str]) -> dict[str, TruthFrame]:
    """Frames of a ``label_2`` folder with ``calib`` (and, if there, ``image_2``) beside it.

    Without an image the size of most KITTI images is taken, and said.

    Args:
        folder: the label files.
        names: of the frames, ``'000123'``.

    Returns:
        Frames by name.

    Raises:
        FileNotFoundError: a label or calibration file is missing.
        ValueError: a file is damaged.
    """
    folder = Path(folder)
    frames: dict[str, TruthFrame] = {}
    imageless = 0
    for name in names:
        objects = KittiObjects.from_file(folder / f'{name}.txt')
        calib = KittiCalib.from_file(folder.parent / 'calib' / f'{name}.txt')
        image = folder.parent / 'image_2' / f'{name}.png'
        imageless += not image.is_file()
        frames[name] = TruthFrame(
            lidar_to_camera=calib.r0 @ calib.velo_to_cam,
            projection=calib.p2,
            image_hw=png_size(image) if image.is_file() else DEFAULT_IMAGE_HW,
            annotation=kitti_annotation(objects),
        )
    if imageless:
        height, width = DEFAULT_IMAGE_HW
        print_log(
            f'{imageless} of {len(names)} frames have no image in {folder.parent / "image_2"}: '
            f'{width} x {height} pixels assumed',
            logger='current',
        )
    return frames


def _namer(path: str | Path, metainfo: Mapping[str, Any]) -> Callable[[int, list[float]], str]:
    """Function of (label, box) -> KITTI name.

    mmdet3d gives all names outside its eight classes, ``DontCare`` among them, label -1; only a
    ``DontCare`` has no size.
    """
    categories = metainfo.get('categories')
    if not categories:
        raise ValueError(
            f"{path}: no metainfo['categories'], so its labels have no names; make it anew with "
            'tools/create_data.py kitti'
        )
    names = {label: name for name, label in categories.items() if label >= 0}
    others = sorted(name for name, label in categories.items() if label < 0)
    # mmdet3d's own converter doesn't list them
    strangers = '/'.join(name for name in others if name.lower() != DONTCARE) or 'unknown'

    def name_of(label: int, box: list[float]) -> str:
        if label in names:
            return names[label]
        if label >= 0:
            raise ValueError(f"{path}: label {label} is not in metainfo['categories']")
        return 'DontCare' if max(box[3:6]) <= 0 else strangers

    return name_of


def _annotation(
    instances: list[dict[str, Any]], name_of: Callable[[int, list[float]], str]
) -> dict[str, Any]:
    boxes = np.array([i['bbox_3d'] for i in instances], dtype=np.float64).reshape(-1, 7)
    image_boxes = np.array([i['bbox'] for i in instances], dtype=np.float64).reshape(-1, 4)
    names = [name_of(i['bbox_label'], i['bbox_3d']) for i in instances]
    annotation: dict[str, Any] = {
        'name': np.array(names, dtype=np.str_),
        'bbox': image_boxes,
        'location': boxes[:, :3],
        'dimensions': boxes[:, 3:6],
        'rotation_y': boxes[:, 6],
    }
    for key in ('truncated', 'occluded', 'alpha'):
        annotation[key] = np.array([i[key] for i in instances], dtype=np.float64)
    return annotation
