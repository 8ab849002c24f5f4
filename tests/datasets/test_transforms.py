import json
import logging

import numpy as np
import pytest
import torch

from mmjepa.datasets import BadSampleError, worker_log
from mmjepa.datasets.kitti import KittiCalib
from mmjepa.registry import TRANSFORMS

SHUFFLING = [
    {'type': 'RandomFlipPoints', 'axes': ('x', 'y')},
    {'type': 'GlobalRotScale'},
    {'type': 'PointShuffle'},
]


@pytest.fixture(autouse=True)
def _say_again(monkeypatch):
    monkeypatch.setattr(worker_log, '_said', set())


@pytest.fixture
def cloud():
    rng = np.random.default_rng(1)
    return np.column_stack([rng.uniform(-50, 50, (500, 3)), rng.random(500)]).astype(np.float32)


def results(points, seed=0, **more):
    rng = np.random.default_rng(seed)
    return {'points': points.copy(), 'rng': rng, 'path': 'velodyne/000000.bin', **more}


def run(steps, points, seed=0, **more):
    out = results(points, seed, **more)
    for step in steps:
        out = TRANSFORMS.build(step)(out)
    return out['points']


@pytest.mark.parametrize('step', SHUFFLING, ids=lambda step: step['type'])
def test_random_transforms_are_functions_of_the_seed(step, cloud):
    once, again, other = (run([step], cloud, seed) for seed in (3, 3, 5))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


def test_they_ignore_the_global_generator(cloud):
    np.random.seed(1)  # noqa: NPY002
    once = run(SHUFFLING, cloud)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(once, run(SHUFFLING, cloud))


def test_flip_changes_the_sign_of_one_coordinate(cloud):
    for axis, column in (('x', 0), ('y', 1)):
        flipped = run([{'type': 'RandomFlipPoints', 'axes': axis, 'prob': 1.0}], cloud)
        expected = cloud.copy()
        expected[:, column] *= -1
        np.testing.assert_array_equal(flipped, expected)
    step = {'type': 'RandomFlipPoints', 'axes': ('x', 'y'), 'prob': 0.5}
    signs = {tuple(np.sign(run([step], cloud, seed)[0, :2] * cloud[0, :2])) for seed in range(30)}
    assert len(signs) == 4  # the axes are drawn by themselves


def test_rotation_is_counter_clockwise_and_scale_uniform():
    points = np.array([[1, 0, 2, 0.5], [0, 1, -1, 0.25]], np.float32)
    step = {'type': 'GlobalRotScale', 'yaw': (np.pi / 2, np.pi / 2), 'scale': (2, 2)}
    expected = [[0, 2, 4, 0.5], [-2, 0, -2, 0.25]]
    np.testing.assert_allclose(run([step], points), expected, atol=1e-6)


def test_rotation_and_scale_stay_in_their_ranges(cloud):
    angles, scales = [], []
    for seed in range(200):
        moved = run([{'type': 'GlobalRotScale'}], cloud[:1], seed)[0]
        turn = np.arctan2(moved[1], moved[0]) - np.arctan2(cloud[0, 1], cloud[0, 0])
        angles.append((turn + np.pi) % (2 * np.pi) - np.pi)
        scales.append(np.linalg.norm(moved[:3]) / np.linalg.norm(cloud[0, :3]))
    assert -np.pi / 4 - 1e-5 <= min(angles) < -0.7
    assert 0.7 < max(angles) <= np.pi / 4 + 1e-5
    assert 0.95 - 1e-5 <= min(scales) < 0.955
    assert 1.045 < max(scales) <= 1.05 + 1e-5


def test_range_filter_is_half_open_like_the_voxel_grid():
    points = np.array([[0, 0, 0], [1, 0, 0], [0.5, -1, 0], [0.5, 1, 0], [0, 0, 2], [0, 0, -0.1]],
                      np.float32)  # fmt: skip
    step = {'type': 'PointsRangeFilter', 'point_cloud_range': [0, -1, 0, 1, 1, 2], 'min_points': 1}
    np.testing.assert_array_equal(run([step], points), points[[0, 2]])


def test_range_filter_without_any_point_left(cloud):
    step = {'type': 'PointsRangeFilter', 'point_cloud_range': [100, 100, 100, 200, 200, 200]}
    with pytest.raises(BadSampleError, match=r'000000\.bin: none of its 500 points lies in'):
        run([step], cloud)


def test_range_filter_with_hardly_any_point_left(cloud):
    points = cloud.copy()
    points[:, :3] += 100
    points[:9, :3] = 0
    step = {'type': 'PointsRangeFilter', 'point_cloud_range': [-1, -1, -1, 1, 1, 1]}
    with pytest.raises(BadSampleError, match=r'000000\.bin: 9 of its 500 .*min_points is 10'):
        run([step], points)
    points[9, :3] = 0
    assert len(run([step], points)) == 10


def test_shuffle_permutes(cloud):
    shuffled = run([{'type': 'PointShuffle'}], cloud)
    assert not np.array_equal(shuffled, cloud)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(cloud, axis=0))


def test_normalize_intensity(cloud):
    raw = cloud.copy()
    raw[:, 3] *= 255
    tanh = run([{'type': 'NormalizeIntensity'}], raw)
    np.testing.assert_allclose(tanh[:, 3], np.tanh(raw[:, 3]), rtol=1e-5)
    np.testing.assert_array_equal(tanh[:, :3], raw[:, :3])
    divided = run([{'type': 'NormalizeIntensity', 'method': 'divide', 'divisor': 255}], raw)
    np.testing.assert_allclose(divided, cloud, rtol=1e-6)
    with pytest.raises(BadSampleError, match='no column 3'):
        run([{'type': 'NormalizeIntensity'}], raw[:, :3])


@pytest.mark.parametrize(
    ('step', 'message'),
    [
        ({'type': 'RandomFlipPoints', 'axes': 'z'}, "axes must be of 'x' and 'y'"),
        ({'type': 'RandomFlipPoints', 'prob': 2}, 'prob must lie'),
        ({'type': 'GlobalRotScale', 'yaw': (1, -1)}, 'yaw must be'),
        ({'type': 'GlobalRotScale', 'scale': (0, 1)}, 'scale must be'),
        ({'type': 'PointsRangeFilter', 'point_cloud_range': [0, 0, 0, 0, 1, 1]}, 'lower < upper'),
        ({'type': 'PointsRangeFilter', 'point_cloud_range': [0, 1]}, 'lower < upper'),
        (
            {'type': 'PointsRangeFilter', 'point_cloud_range': [0, 0, 0, 1, 1, 1], 'min_points': 0},
            'min_points must be',
        ),
        ({'type': 'CropToCameraView', 'fov_crop': 'yes'}, 'fov_crop must be'),
        ({'type': 'NormalizeIntensity', 'method': 'log'}, 'method must be'),
        ({'type': 'LoadPoints', 'min_valid': 2}, 'min_valid must lie'),
        ({'type': 'AggregateSweeps', 'num_sweeps': 0}, 'num_sweeps must be'),
    ],
)
def test_impossible_settings_raise_in_the_constructor(step, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(step)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match='prop'):
        TRANSFORMS.build({'type': 'RandomFlipPoints', 'prop': 0.5})


# the camera view ---------------------------------------------------------------------------------


def real_frame(shared_dir, frame):
    path = shared_dir / 'data/kitti/training/velodyne' / f'{frame}.bin'
    return {'path': str(path), 'points': np.fromfile(path, np.float32).reshape(-1, 4)}


def test_crop_uses_calibration_and_image_size(shared_dir):
    frame = real_frame(shared_dir, '000000')
    calib = KittiCalib.from_file(shared_dir / 'data/kitti/training/calib/000000.txt')
    expected = frame['points'][calib.fov_mask(frame['points'], (370, 1224))]  # its own size
    out = TRANSFORMS.build({'type': 'CropToCameraView'})(dict(frame))
    assert out['fov_cropped'] is True
    assert 15_000 < len(expected) < 25_000
    np.testing.assert_array_equal(out['points'], expected)
    whole = TRANSFORMS.build({'type': 'CropToCameraView', 'fov_crop': False})(dict(frame))
    assert whole['fov_cropped'] is False
    assert len(whole['points']) == len(frame['points'])


def test_assumed_image_size_is_said_once(shared_dir, caplog, monkeypatch):
    monkeypatch.setattr(worker_log, 'print_log', lambda text, **_: logging.warning(text))
    crop = TRANSFORMS.build({'type': 'CropToCameraView'})
    frame = real_frame(shared_dir, '002155')
    calib = KittiCalib.from_file(shared_dir / 'data/kitti/training/calib/002155.txt')
    out = crop(dict(frame))
    expected = frame['points'][calib.fov_mask(frame['points'], (375, 1242))]
    np.testing.assert_array_equal(out['points'], expected)
    crop(real_frame(shared_dir, '007347'))
    assert [r.message for r in caplog.records if 'assumed 375x1242' in r.message] == [
        caplog.records[0].message
    ]


def test_crop_without_calibration(tmp_path, cloud):
    path = str(tmp_path / 'velodyne' / '000000.bin')
    out = TRANSFORMS.build({'type': 'CropToCameraView'})({'path': path, 'points': cloud})
    assert out['fov_cropped'] is False
    assert out['points'] is cloud
    with pytest.raises(BadSampleError, match=r'calib/000000\.txt does not exist'):
        TRANSFORMS.build({'type': 'CropToCameraView', 'fov_crop': True})(
            {'path': path, 'points': cloud}
        )


def test_crop_with_damaged_calibration_names_the_sweep(tmp_path, cloud):
    (tmp_path / 'calib').mkdir()
    (tmp_path / 'calib' / '000000.txt').write_text('P2: 1 2\n')
    path = str(tmp_path / 'velodyne' / '000000.bin')
    with pytest.raises(BadSampleError, match=r'velodyne/000000\.bin: .*no line|P2: expected'):
        TRANSFORMS.build({'type': 'CropToCameraView'})({'path': path, 'points': cloud})


# loading and packing -----------------------------------------------------------------------------


def test_load_points_own_arguments_win_over_the_dataset(tmp_path, make_sweep):
    array = make_sweep(tmp_path / 'a.bin', dim=6)
    load = TRANSFORMS.build({'type': 'LoadPoints', 'load_dim': 6, 'use_dim': 5})
    out = load({'path': tmp_path / 'a.bin', 'load_dim': 4, 'use_dim': 3})
    np.testing.assert_array_equal(out['points'], array[:, :5])
    out = TRANSFORMS.build({'type': 'LoadPoints'})(
        {'path': tmp_path / 'a.bin', 'load_dim': 6, 'use_dim': 4}
    )
    np.testing.assert_array_equal(out['points'], array[:, :4])


def test_load_points_drops_what_is_not_finite(tmp_path, make_sweep):
    array = make_sweep(tmp_path / 'a.bin')
    array[5, 1], array[7, 3], array[9, 0] = np.nan, np.inf, 1e6
    array.tofile(tmp_path / 'a.bin')
    out = TRANSFORMS.build({'type': 'LoadPoints'})({'path': tmp_path / 'a.bin'})
    np.testing.assert_array_equal(out['points'], np.delete(array, [5, 7, 9], axis=0))


def test_pack(cloud):
    pack = TRANSFORMS.build({'type': 'PackJEPAInputs', 'meta_keys': ('frame',)})
    out = pack(results(cloud[::2], index=3, sample_seed=9, skipped=['b.bin'], frame='x'))
    assert out['inputs']['points'].dtype == torch.float32
    np.testing.assert_array_equal(out['inputs']['points'].numpy(), cloud[::2])
    assert out['data_samples'] == {
        'sample_seed': 9, 'index': 3, 'path': 'velodyne/000000.bin', 'skipped': ['b.bin'],
        'frame': 'x',
    }  # fmt: skip
    with pytest.raises(KeyError, match=r"\['sample_seed', 'index', 'frame'\] not in results"):
        pack(results(cloud))
    with pytest.raises(TypeError, match='sequences of strings'):
        TRANSFORMS.build({'type': 'PackJEPAInputs', 'keys': 'points'})


# nuScenes ----------------------------------------------------------------------------------------


def quaternion(yaw):
    return [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]


@pytest.fixture
def nuscenes(tmp_path):
    """Two scenes; in the first the car drives 1 m per sweep along its x axis, after a turn.

    Every sweep of a scene sees the same global point; (root, key frame's path, global point).
    """
    root = tmp_path / 'nuscenes'
    tables = {name: [] for name in ('sample_data', 'sample', 'scene', 'ego_pose')}
    tables['calibrated_sensor'] = [
        {'token': 'lidar', 'translation': [0.9, 0, 1.8], 'rotation': quaternion(-np.pi / 2)}
    ]
    target = np.array([120.0, 230.0, 1.0])
    for scene in range(2):
        name = f'scene-000{scene}'
        tables['scene'].append({'token': name, 'name': name})
        for k in range(4):
            token = f'{scene}-{k}'
            key = k == 3
            file = f'{"samples" if key else "sweeps"}/LIDAR_TOP/{token}.pcd.bin'
            yaw = np.pi / 2 if key else 0.0  # the newest pose is turned
            ego = [100.0 + k, 200.0, 0.0]
            tables['sample'].append({'token': token, 'scene_token': name})
            tables['ego_pose'].append(
                {'token': token, 'translation': ego, 'rotation': quaternion(yaw)}
            )
            tables['sample_data'].append(
                {'token': token, 'sample_token': token, 'ego_pose_token': token,
                 'calibrated_sensor_token': 'lidar', 'timestamp': 1_000_000 + 50_000 * k,
                 'is_key_frame': key, 'filename': file}
            )  # fmt: skip
            c, s = np.cos(yaw), np.sin(yaw)
            in_ego = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ (target - ego)
            x, y, z = in_ego - [0.9, 0, 1.8]
            in_lidar = [-y, x, z]  # the sensor is turned by -90 degrees
            near = [0.2, 0.3, -0.5]  # the car itself
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            np.array([[*in_lidar, 7, 3], [*near, 9, 4]], np.float32).tofile(path)
    tables['sample_data'].append({'filename': 'samples/CAM_FRONT/x.jpg'})
    (root / 'v1.0-mini').mkdir()
    for name, rows in tables.items():
        (root / 'v1.0-mini' / f'{name}.json').write_text(json.dumps(rows[::-1]))
    return root, str(root / 'samples/LIDAR_TOP/0-3.pcd.bin')


@pytest.mark.parametrize('num_sweeps', [1, 3, 10])
def test_sweeps_meet_in_the_newest_frame(nuscenes, num_sweeps):
    root, path = nuscenes
    load = TRANSFORMS.build({'type': 'LoadPoints'})
    merge = TRANSFORMS.build({'type': 'AggregateSweeps', 'num_sweeps': num_sweeps})
    out = merge(load({'path': path, 'data_root': str(root)}))['points']
    older = min(num_sweeps, 4) - 1  # the scene begins three sweeps before; the other scene is out
    assert out.shape == (2 + older, 5)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[2:, :3], np.tile(out[0, :3], (older, 1)), atol=1e-4)
    np.testing.assert_allclose(out[:, 3], [7, 9] + [7] * older)  # the ring is gone
    np.testing.assert_allclose(out[:, 4], [0, 0, 0.05, 0.1, 0.15][: 2 + older], atol=1e-6)


def test_missing_old_sweeps_are_left_out(nuscenes):
    root, path = nuscenes
    (root / 'sweeps/LIDAR_TOP/0-1.pcd.bin').unlink()
    out = {'path': path, 'data_root': str(root)}
    for step in ({'type': 'LoadPoints'}, {'type': 'AggregateSweeps'}):
        out = TRANSFORMS.build(step)(out)
    np.testing.assert_allclose(out['points'][:, 4], [0, 0, 0.05, 0.15], atol=1e-6)


def test_without_tables_a_single_sweep_gets_time_zero(shared_dir, caplog, monkeypatch):
    monkeypatch.setattr(worker_log, 'print_log', lambda text, **_: logging.warning(text))
    path = next((shared_dir / 'data/nuscenes').glob('*.pcd.bin'))
    out = {'path': str(path), 'data_root': str(path.parent)}
    for step in ({'type': 'LoadPoints'}, {'type': 'AggregateSweeps'}):
        out = TRANSFORMS.build(step)(out)
    raw = np.fromfile(path, np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(out['points'][:, :4], raw[:, :4])
    assert not out['points'][:, 4].any()
    assert 'single sweeps, time lag 0' in caplog.text
