"""Labelled KITTI frames for probes: which frames a split has, and what is annotated in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmjepa.datasets.kitti import DEFAULT_IMAGE_HW, KittiCalib, KittiObjects, png_size


@dataclass(frozen=True)
class KittiFrame:
    """Files of one frame of a KITTI object folder; ``image`` may be absent."""

    frame_id: str
    points: Path
    label: Path
    calib: Path
    image: Path


@dataclass
class Annotation:
    """What is known about the objects of a frame.

    Attributes:
        boxes: (M, 7) float64, LiDAR frame, gravity centre; metres, radians.
        types: M object types, without ``DontCare``.
        unlabelled: (N,) bool, points outside the annotated view or in a ``DontCare`` region.
    """

    boxes: NDArray[Any]
    types: list[str]
    unlabelled: NDArray[np.bool_]


def kitti_frames(
    data_root: str | Path, split: str, max_frames: int | None = None
) -> list[KittiFrame]:
    """Frames of ``ImageSets/<split>.txt`` in file order.

    Args:
        data_root: KITTI object folder with ``training`` and ``ImageSets``.
        split: Name of the split.
        max_frames: Take that many, evenly spread over the split.

    Returns:
        The frames; all files but the image were seen to exist.

    Raises:
        FileNotFoundError: If the split or a file of a frame is missing.
        ValueError: If the split is empty or names a frame twice.
    """
    root = Path(data_root)
    listing = root / 'ImageSets' / f'{split}.txt'
    if not listing.is_file():
        raise FileNotFoundError(
            f'{listing} is missing: the probe needs labelled frames and their split. Point '
            'data_root at a KITTI object folder, or make one with '
            "'python tools/create_data.py sim-kitti --out data/kitti_sim'"
        )
    ids = listing.read_text().split()
    if not ids:
        raise ValueError(f'{listing} names no frame')
    if len(set(ids)) < len(ids):
        raise ValueError(f'{listing} names a frame twice')
    if max_frames is not None and max_frames < len(ids):
        picks = np.linspace(0, len(ids) - 1, max(max_frames, 1)).round().astype(int)
        ids = [ids[i] for i in picks]
    base = root / 'training'
    sweeps = next((base / n for n in ('velodyne', 'velodyne_reduced') if (base / n).is_dir()), base)
    frames = [
        KittiFrame(
            i,
            sweeps / f'{i}.bin',
            base / 'label_2' / f'{i}.txt',
            base / 'calib' / f'{i}.txt',
            base / 'image_2' / f'{i}.png',
        )
        for i in ids
    ]
    for frame in frames:
        for path in (frame.points, frame.label, frame.calib):
            if not path.is_file():
                raise FileNotFoundError(f'{path} is missing, but {listing} names the frame')
    return frames


def assert_disjoint(first: Sequence[str], second: Sequence[str], what: str) -> None:
    """Refuse two sets of frames that share one.

    Raises:
        ValueError: Naming some of the shared frames.
    """
    shared = sorted(set(first) & set(second))
    if shared:
        raise ValueError(
            f'{what} share {len(shared)} frames, such as {", ".join(shared[:3])}; a probe on them '
            'would measure memory. Use disjoint splits'
        )


def read_annotation(frame: KittiFrame, points: NDArray[Any]) -> Annotation:
    """Objects of a frame, and which of its points nobody annotated.

    KITTI labels exist for objects in the left colour camera's image only.

    Args:
        frame: The frame.
        points: (N, >=3) in the LiDAR frame.

    Returns:
        :class:`Annotation`.

    Raises:
        ValueError: If a label or calibration file is malformed.
    """
    calib = KittiCalib.from_file(frame.calib)
    objects = KittiObjects.from_file(frame.label)
    image_hw = png_size(frame.image) if frame.image.is_file() else DEFAULT_IMAGE_HW
    unlabelled = ~calib.fov_mask(points, image_hw)
    regions = objects.bbox[objects.names == 'DontCare']
    if len(regions):
        uv, depth = calib.camera_to_image(calib.lidar_to_camera(points))
        for left, top, right, bottom in regions:
            inside = (uv >= (left, top)).all(1) & (uv <= (right, bottom)).all(1)
            unlabelled |= inside & (depth > 0)
    real = objects.without_dontcare()
    return Annotation(real.boxes_lidar(calib), [str(n) for n in real.names], unlabelled)
