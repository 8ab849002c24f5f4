"""nuScenes' JSON tables for generated frames, as far as nuscenes-devkit and mmdet3d read them."""

import json

import numpy as np

CATEGORIES = {
    'car': 'vehicle.car',
    'truck': 'vehicle.truck',
    'trailer': 'vehicle.trailer',
    'bus': 'vehicle.bus.rigid',
    'construction_vehicle': 'vehicle.construction',
    'bicycle': 'vehicle.bicycle',
    'motorcycle': 'vehicle.motorcycle',
    'pedestrian': 'human.pedestrian.adult',
    'traffic_cone': 'movable_object.trafficcone',
    'barrier': 'movable_object.barrier',
    'animal': 'animal',  # none of the ten detection classes
}
CAMERAS = (
    *('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_FRONT_LEFT'),
    *('CAM_BACK', 'CAM_BACK_LEFT', 'CAM_BACK_RIGHT'),
)


def _pose(yaw, translation):
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:2, :2] = [[cos, -sin], [sin, cos]]
    pose[:3, 3] = translation
    return pose


LIDAR_TO_EGO = _pose(-np.pi / 2, (0.9, 0.0, 1.8))  # nuScenes' LiDAR: x right, y ahead


def ego_pose(stamp):
    """(4, 4) ego to global; the car stands still."""
    return _pose(0.3, (600.0, 1600.0, 0.0))


def _record(pose, **more):
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    rotation = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
    return {'translation': pose[:3, 3].tolist(), 'rotation': rotation, **more}


def write_tables(root, scenes, version='v1.0-trainval'):
    """``scenes``: name -> [(stamp, key sweep's name, earlier sweep's name, sweep), ...]."""
    sensors = ('LIDAR_TOP', *CAMERAS)
    tables = {
        'category': [{'token': key, 'name': name} for key, name in CATEGORIES.items()],
        'attribute': [],
        'visibility': [{'token': '4', 'level': 'v80-100'}],
        'instance': [],
        'sensor': [
            {
                'token': name,
                'channel': name,
                'modality': 'lidar' if name == 'LIDAR_TOP' else 'camera',
            }
            for name in sensors
        ],
        'calibrated_sensor': [
            _record(
                LIDAR_TO_EGO,
                token=name,
                sensor_token=name,
                camera_intrinsic=[]
                if name == 'LIDAR_TOP'
                else [[900, 0, 800], [0, 900, 450], [0, 0, 1]],
            )
            for name in sensors
        ],
        'ego_pose': [],
        'log': [{'token': 'log', 'location': 'singapore-onenorth', 'logfile': 'n000'}],
        'scene': [],
        'sample': [],
        'sample_data': [],
        'sample_annotation': [],
        'map': [{'token': 'map', 'log_tokens': ['log'], 'filename': 'maps/mask.png'}],
    }
    for name, samples in scenes.items():
        tokens = [f'{name}-{stamp}' for stamp, *_ in samples]
        tables['scene'].append(
            {
                'token': name,
                'name': name,
                'log_token': 'log',
                'nbr_samples': len(samples),
                'first_sample_token': tokens[0],
                'last_sample_token': tokens[-1],
            }
        )
        for i, sample in enumerate(samples):
            neighbours = {
                'prev': tokens[i - 1] if i else '',
                'next': tokens[i + 1] if i + 1 < len(tokens) else '',
            }
            _add_sample(tables, name, tokens[i], neighbours, sample)
    (root / version).mkdir(parents=True)
    (root / 'maps').mkdir()
    (root / 'maps/mask.png').write_bytes(b'')
    for name, rows in tables.items():
        (root / version / f'{name}.json').write_text(json.dumps(rows))


def _add_sample(tables, scene, token, neighbours, sample):
    stamp, key, before, sweep = sample
    tables['sample'].append(
        {'token': token, 'scene_token': scene, 'timestamp': stamp, **neighbours}
    )
    files = [('LIDAR_TOP', f'{token}-LIDAR_TOP', f'samples/LIDAR_TOP/{key}', stamp, True)]
    files += [(cam, f'{token}-{cam}', f'samples/{cam}/{token}.jpg', stamp, True) for cam in CAMERAS]
    files.append(
        ('LIDAR_TOP', f'{token}-before', f'sweeps/LIDAR_TOP/{before}', stamp - 50_000, False)
    )
    for sensor, data, file, time, is_key in files:
        lidar_key = sensor == 'LIDAR_TOP' and is_key
        tables['ego_pose'].append(_record(ego_pose(time), token=data, timestamp=time))
        tables['sample_data'].append(
            {
                'token': data,
                'sample_token': token,
                'ego_pose_token': data,
                'calibrated_sensor_token': sensor,
                'filename': file,
                'timestamp': time,
                'is_key_frame': is_key,
                'width': 1600,
                'height': 900,
                'prev': f'{token}-before' if lidar_key else '',
                'next': f'{token}-LIDAR_TOP' if not is_key else '',
            }
        )
    to_global = ego_pose(stamp) @ LIDAR_TO_EGO
    turn = np.arctan2(to_global[1, 0], to_global[0, 0])
    for i, (name, box) in enumerate(zip(sweep.names, sweep.boxes, strict=True)):
        pose = _pose(box[6] + turn, to_global[:3, :3] @ box[:3] + to_global[:3, 3])
        annotation = f'{token}-{i}'
        tables['instance'].append({'token': annotation, 'category_token': name})
        tables['sample_annotation'].append(
            _record(
                pose,
                token=annotation,
                sample_token=token,
                instance_token=annotation,
                visibility_token='4',
                attribute_tokens=[],
                size=[box[4], box[3], box[5]],
                num_lidar_pts=int(sweep.counts[i]),
                num_radar_pts=0,
                prev='',
                next='',
            )
        )
