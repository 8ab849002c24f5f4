"""Tiny labelled data sets in the layouts that mmdet3d reads: KITTI, nuScenes, Waymo, ONCE.

Each ``write_*(root, frames, seed)`` makes a folder with ``frames`` training and as many validation
frames: sweeps of a few thousand points, info files and a ground-truth database, so that a config
takes training and evaluation steps on it. Every class stands in every frame and holds points.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kitti_scenes import CALIB
from nuscenes_tables import LIDAR_TO_EGO, ego_pose, write_tables

from mmjepa.datasets.info_files import write_plain
from mmjepa.datasets.kitti import KittiCalib, KittiObjects, points_in_boxes
from mmjepa.datasets.mmdet3d_infos.gt_database import (
    LabelledFrame,
    bottom_centre,
    write_gt_database,
)

# length, width, height in metres
KITTI = {'Car': (4.0, 1.6, 1.5), 'Pedestrian': (0.8, 0.7, 1.8), 'Cyclist': (1.8, 0.7, 1.7)}
WAYMO = {'Car': (4.6, 2.1, 1.7), 'Pedestrian': (0.9, 0.8, 1.8), 'Cyclist': (1.8, 0.8, 1.7)}
ONCE = {
    'Car': (4.4, 1.8, 1.6),
    'Bus': (10.5, 2.9, 3.2),
    'Truck': (7.5, 2.6, 2.9),
    'Pedestrian': (0.8, 0.8, 1.8),
    'Cyclist': (1.9, 0.8, 1.6),
}
NUSCENES = {
    'car': (4.6, 1.9, 1.7),
    'truck': (6.9, 2.5, 2.8),
    'trailer': (12.0, 2.9, 3.9),
    'bus': (11.0, 2.9, 3.5),
    'construction_vehicle': (6.4, 2.8, 3.2),
    'bicycle': (1.7, 0.6, 1.3),
    'motorcycle': (2.1, 0.8, 1.5),
    'pedestrian': (0.7, 0.7, 1.8),
    'traffic_cone': (0.4, 0.4, 1.1),
    'barrier': (0.5, 2.5, 1.0),
}
KITTI_CLASSES = (
    *('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck'),
    *('Person_sitting', 'Tram', 'Misc'),
)
IMAGE_HW = (375, 1242)


@dataclass
class Sweep:
    """points (P, 4) float32 x y z intensity; boxes (N, 7) float64, gravity centre; counts (N,)."""

    points: np.ndarray
    names: list[str]
    boxes: np.ndarray
    counts: np.ndarray


def make_sweep(rng, sizes, spots, floor, copies=1) -> Sweep:
    """Objects of ``sizes`` at random ``spots`` (K, 2) on a floor at height ``floor`` in metres."""
    names = list(sizes) * copies
    chosen = rng.permutation(len(spots))[: len(names)]
    low, high = spots.min(axis=0) - 4, spots.max(axis=0) + 4
    ground = rng.uniform((*low, floor - 0.02, 0.1), (*high, floor + 0.02, 0.3), (1500, 4))
    clouds, boxes = [ground], []
    for name, spot in zip(names, chosen, strict=True):
        size = np.array(sizes[name])
        yaw = rng.uniform(-np.pi, np.pi)
        centre = np.array([*(spots[spot] + rng.uniform(-0.5, 0.5, 2)), floor + size[2] / 2])
        local = rng.uniform(-0.48, 0.48, (100, 3)) * size
        cos, sin = np.cos(yaw), np.sin(yaw)
        xyz = local @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + centre
        shade = rng.normal(0.2 + 0.6 * list(sizes).index(name) / len(sizes), 0.03, (100, 1))
        clouds.append(np.hstack([xyz, shade.clip(0, 1)]))
        boxes.append([*centre, *size, yaw])
    points, boxes = np.concatenate(clouds).astype(np.float32), np.array(boxes)
    counts = np.bincount(points_in_boxes(points, boxes) + 1, minlength=len(boxes) + 1)[1:]
    return Sweep(points, names, boxes, counts)


def _spots(x, y):
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(float)


def _around():
    """Places around the sensor, none of them on it."""
    spots = _spots(np.arange(-28, 29, 14), np.arange(-28, 29, 14))
    return spots[np.abs(spots).max(axis=1) > 1]


def _write_points(path: Path, *columns) -> np.ndarray:
    points = np.hstack([column.reshape(len(columns[0]), -1) for column in columns])
    path.parent.mkdir(parents=True, exist_ok=True)
    points.astype(np.float32).tofile(path)
    return points.astype(np.float32)


# --------------------------------------------------------------------------------------- KITTI


def write_kitti(root: Path, frames: int = 2, seed: int = 0) -> None:
    """``training/`` (sweeps, labels, calibration; no images), ``ImageSets/`` and mmdet3d's files.

    The validation frames follow the training frames; ``velodyne_reduced`` is there, too.
    """
    write_kitti_raw(root, frames, seed)
    calib = KittiCalib.from_file(root / 'training/calib/000000.txt')
    database, infos = [], []
    for i in range(2 * frames):
        points = np.fromfile(root / f'training/velodyne/{i:06d}.bin', np.float32).reshape(-1, 4)
        points = points[calib.fov_mask(points, IMAGE_HW)]
        _write_points(root / f'training/velodyne_reduced/{i:06d}.bin', points)
        objects = KittiObjects.from_file(root / f'training/label_2/{i:06d}.txt')
        infos.append(_kitti_info(i, objects, calib, points))
        boxes = objects.boxes_lidar(calib)
        database.append(LabelledFrame(points, list(objects.names), boxes, objects.difficulty()))
    meta = {
        'categories': {name: i for i, name in enumerate(KITTI_CLASSES)},
        'dataset': 'kitti',
        'info_version': '1.1',
    }
    sets = {'train': infos[:frames], 'val': infos[frames:], 'trainval': infos, 'test': []}
    for name, data_list in sets.items():
        content = {'metainfo': meta, 'data_list': data_list}
        write_plain(content, root / f'kitti_infos_{name}.pkl')
    write_gt_database(root, 'kitti', database[:frames], list(KITTI))


def write_kitti_raw(root: Path, frames: int = 2, seed: int = 0) -> None:
    """Sweeps, labels, calibration and image sets of a KITTI folder, without mmdet3d's files."""
    rng = np.random.default_rng(seed)
    for name in ('velodyne', 'label_2', 'calib'):
        (root / 'training' / name).mkdir(parents=True)
    (root / 'ImageSets').mkdir()
    spots = _spots(np.arange(10, 35, 5), np.arange(-5, 6, 5))
    ids = [f'{i:06d}' for i in range(2 * frames)]
    for frame in ids:
        (root / f'training/calib/{frame}.txt').write_text(CALIB)
        sweep = make_sweep(rng, KITTI, spots, floor=-1.7, copies=2)
        _write_points(root / f'training/velodyne/{frame}.bin', sweep.points)
        calib = KittiCalib.from_file(root / f'training/calib/{frame}.txt')
        _kitti_objects(sweep, calib).write(root / f'training/label_2/{frame}.txt')
    for name, chosen in {'train': ids[:frames], 'val': ids[frames:], 'trainval': ids}.items():
        (root / f'ImageSets/{name}.txt').write_text(''.join(f'{frame}\n' for frame in chosen))


def add_images(root: Path, frames: int = 4) -> None:
    """Empty files in ``training/image_2``, where only their names matter."""
    (root / 'training/image_2').mkdir(exist_ok=True)
    for i in range(frames):
        (root / f'training/image_2/{i:06d}.png').write_bytes(b'')


def _kitti_objects(sweep: Sweep, calib: KittiCalib) -> KittiObjects:
    """Labels with the projected 2D box; alpha as KITTI defines it."""
    boxes = sweep.boxes
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    frames = []
    for box in boxes:
        cos, sin = np.cos(box[6]), np.sin(box[6])
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        world = (corners * box[3:6]) @ turn + box[:3]
        uv, _ = calib.camera_to_image(calib.lidar_to_camera(world))
        uv = uv.clip(0, (IMAGE_HW[1] - 1, IMAGE_HW[0] - 1))
        frames.append([*uv.min(axis=0), *uv.max(axis=0)])
    location = calib.lidar_to_camera(bottom_centre(boxes).astype(float))
    rotation = (-boxes[:, 6] - np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    count = len(boxes)
    return KittiObjects(
        names=np.array(sweep.names),
        truncated=np.zeros(count),
        occluded=np.zeros(count, dtype=np.int64),
        alpha=rotation - np.arctan2(location[:, 0], location[:, 2]),
        bbox=np.array(frames),
        dims=boxes[:, [5, 4, 3]],
        location=location,
        rotation_y=rotation,
    )


def _kitti_info(number: int, objects: KittiObjects, calib: KittiCalib, points) -> dict:
    velo_to_cam, projection, r0 = np.eye(4), np.eye(4), np.eye(4)
    velo_to_cam[:3], projection[:3], r0[:3, :3] = calib.velo_to_cam, calib.p2, calib.r0
    lidar2cam = r0 @ velo_to_cam
    camera = {'cam2img': projection.tolist(), 'lidar2img': (projection @ lidar2cam).tolist()}
    images = {f'CAM{k}': dict(camera) for k in range(4)}
    images['CAM2'].update(
        img_path=f'{number:06d}.png',
        height=IMAGE_HW[0],
        width=IMAGE_HW[1],
        lidar2cam=lidar2cam.tolist(),
    )
    images['R0_rect'] = r0.tolist()
    boxes = objects.boxes_lidar(calib)
    inside = points_in_boxes(points, boxes)
    difficulty = objects.difficulty()
    instances = []
    for i, name in enumerate(objects.names):
        centre = objects.location[i] - [0, objects.dims[i, 0] / 2, 0]
        uv, depth = calib.camera_to_image(centre[None])
        label = KITTI_CLASSES.index(name)
        size = objects.dims[i, [2, 0, 1]]  # length, height, width
        instances.append(
            {
                'bbox': objects.bbox[i].tolist(),
                'bbox_label': label,
                'bbox_3d': [*objects.location[i], *size, objects.rotation_y[i]],
                'bbox_label_3d': label,
                'depth': float(depth[0]),
                'center_2d': uv[0].tolist(),
                'num_lidar_pts': int((inside == i).sum()),
                'difficulty': int(difficulty[i]),
                'truncated': float(objects.truncated[i]),
                'occluded': int(objects.occluded[i]),
                'alpha': float(objects.alpha[i]),
                'score': 0.0,
                'index': i,
                'group_id': i,
            }
        )
    return {
        'sample_idx': number,
        'images': images,
        'lidar_points': {
            'num_pts_feats': 4,
            'lidar_path': f'{number:06d}.bin',
            'Tr_velo_to_cam': velo_to_cam.tolist(),
            'Tr_imu_to_velo': np.eye(4).tolist(),
        },
        'instances': instances,
    }


# ------------------------------------------------------------------------------------ nuScenes


def write_nuscenes(root: Path, frames: int = 2, seed: int = 0) -> None:
    """``samples/`` and ``sweeps/`` of LIDAR_TOP, the devkit's tables and mmdet3d's files.

    The tables are a ``v1.0-trainval`` of one training and one validation scene, so that
    nuscenes-devkit evaluates on them, too.
    """
    rng = np.random.default_rng(seed)
    scenes, database = {}, []
    for split, scene in (('train', 'scene-0001'), ('val', 'scene-0003')):
        infos, samples = [], []
        for i in range(frames):
            sweep = make_sweep(rng, NUSCENES, _around(), floor=-1.8)
            stamp = 1_600_000_000_000_000 + 500_000 * (i + 100 * (split == 'val'))
            name = f'n000-{scene}__LIDAR_TOP__{stamp}.pcd.bin'
            before = f'n000-{scene}__LIDAR_TOP__{stamp - 50_000}.pcd.bin'
            rings = rng.integers(0, 32, (len(sweep.points), 1))
            bytes_ = sweep.points[:, 3:] * 255
            points = _write_points(
                root / 'samples/LIDAR_TOP' / name, sweep.points[:, :3], bytes_, rings
            )
            _write_points(root / 'sweeps/LIDAR_TOP' / before, sweep.points[:, :3], bytes_, rings)
            infos.append(_nuscenes_info(i, scene, stamp, name, before, sweep))
            samples.append((stamp, name, before, sweep))
            if split == 'train':
                boxes = np.hstack([sweep.boxes, np.zeros((len(sweep.boxes), 2))])
                database.append(LabelledFrame(points, sweep.names, boxes))
        scenes[scene] = samples
        meta = {
            'categories': {name: i for i, name in enumerate(NUSCENES)},
            'dataset': 'nuscenes',
            'version': 'v1.0-trainval',
            'info_version': '1.1',
        }
        content = {'metainfo': meta, 'data_list': infos}
        write_plain(content, root / f'nuscenes_infos_{split}.pkl')
    write_gt_database(root, 'nuscenes', database, list(NUSCENES))
    write_tables(root, scenes)


def _nuscenes_info(index, scene, stamp, name, before, sweep: Sweep) -> dict:
    instances = [
        {
            'bbox_label': list(NUSCENES).index(label),
            'bbox_3d': box.tolist(),
            'bbox_3d_isvalid': True,
            'bbox_label_3d': list(NUSCENES).index(label),
            'num_lidar_pts': int(count),
            'num_radar_pts': 0,
            'velocity': [float('nan')] * 2,  # no neighbouring frame holds the object
        }
        for label, box, count in zip(sweep.names, sweep.boxes, sweep.counts, strict=True)
    ]
    pose = ego_pose(stamp)
    return {
        'sample_idx': index,
        'token': f'{scene}-{stamp}',
        'timestamp': stamp / 1e6,
        'ego2global': pose.tolist(),
        'images': {},
        'lidar_points': {
            'num_pts_feats': 5,
            'lidar_path': name,
            'lidar2ego': LIDAR_TO_EGO.tolist(),
        },
        'lidar_sweeps': [
            {
                'timestamp': (stamp - 50_000) / 1e6,
                'ego2global': pose.tolist(),
                'sample_data_token': f'{scene}-{stamp}-before',
                'lidar_points': {
                    'lidar_path': f'./data/nuscenes/sweeps/LIDAR_TOP/{before}',
                    'lidar2ego': LIDAR_TO_EGO.tolist(),
                    'lidar2sensor': np.eye(4).tolist(),
                },
            }
        ],
        'instances': instances,
    }


# --------------------------------------------------------------------------------------- Waymo


def write_waymo(root: Path, frames: int = 2, seed: int = 0) -> None:
    """Waymo's ``kitti_format`` folder (``root`` itself) as mmdet3d's converter leaves it."""
    rng = np.random.default_rng(seed)
    database = []
    for prefix, split in enumerate(('train', 'val')):
        infos = []
        for i in range(frames):
            sweep = make_sweep(rng, WAYMO, _around(), floor=0.0, copies=2)
            name = f'{prefix}000{i:03d}'
            count = len(sweep.points)
            points = _write_points(
                root / f'training/velodyne/{name}.bin',
                *(sweep.points, rng.random((count, 1)), np.full((count, 1), -1.0)),
            )
            infos.append(_waymo_info(name, i, sweep))
            if split == 'train':
                database.append(LabelledFrame(points, sweep.names, sweep.boxes))
        meta = {'dataset': 'waymo', 'version': 'waymo_v1.4', 'info_version': 'mmdet3d_v1.4'}
        write_plain({'metainfo': meta, 'data_list': infos}, root / f'waymo_infos_{split}.pkl')
        (root / 'ImageSets').mkdir(exist_ok=True)
        lines = ''.join(f'{prefix}000{i:03d}\n' for i in range(frames))
        (root / f'ImageSets/{split}.txt').write_text(lines)
    write_gt_database(root, 'waymo', database, list(WAYMO))


def _waymo_info(name: str, index: int, sweep: Sweep) -> dict:
    labels = [list(WAYMO).index(name) for name in sweep.names]
    boxes = bottom_centre(sweep.boxes)
    return {
        'sample_idx': int(name),
        'timestamp': 1_550_000_000_000_000 + 100_000 * index,
        'ego2global': np.eye(4).tolist(),
        'context_name': f'context_{name[:4]}',
        'images': {},
        'lidar_points': {'lidar_path': f'{name}.bin', 'num_pts_feats': 6},
        'instances': [
            {
                'group_id': i + 1,
                'camera_id': 0,
                'bbox': [0.0, 0.0, 0.0, 0.0],
                'bbox_label': label,
                'bbox_3d': boxes[i].tolist(),
                'bbox_label_3d': label,
                'num_lidar_pts': int(sweep.counts[i]),
            }
            for i, label in enumerate(labels)
        ],
    }


# ---------------------------------------------------------------------------------------- ONCE


def write_once(root: Path, frames: int = 2, seed: int = 0) -> None:
    """ONCE's published layout, with the info files of ``mmjepa.datasets.once``."""
    from mmjepa.datasets.once import convert_once

    write_once_raw(root, frames, seed)
    convert_once(root)


def write_once_raw(root: Path, frames: int = 2, seed: int = 0) -> None:
    """ONCE's published layout: one sequence of ``frames`` labelled frames for each split.

    Each sequence also has one frame without labels, as ONCE's own.
    """
    rng = np.random.default_rng(seed)
    (root / 'ImageSets').mkdir(parents=True)
    for sequence, split in (('000076', 'train'), ('000027', 'val')):
        folder = root / 'data' / sequence
        rows = []
        for i in range(frames + 1):
            sweep = make_sweep(rng, ONCE, _around(), floor=-1.7)
            frame = str(1616100800400 + int(sequence) * 100_000 + 500 * i)
            _write_points(folder / f'lidar_roof/{frame}.bin', sweep.points)
            row = {'sequence_id': sequence, 'frame_id': frame, 'pose': [0, 0, 0, 1, 0, 0, 0]}
            if i < frames:
                row['annos'] = {
                    'names': sweep.names,
                    'boxes_3d': sweep.boxes.tolist(),
                    'boxes_2d': {'cam01': [[-1, -1, -1, -1]] * len(sweep.names)},
                }
            rows.append(row)
        content = {
            'meta_info': {'weather': 'sunny', 'period': 'noon', 'point_feature_num': 4},
            'calib': {'cam01': {'cam_to_velo': np.eye(4).tolist()}},
            'frames': rows,
        }
        (folder / f'{sequence}.json').write_text(json.dumps(content))
        (root / f'ImageSets/{split}.txt').write_text(f'{sequence}\n')
