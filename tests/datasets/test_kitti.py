import time
from pathlib import Path

import numpy as np
import pytest

from mmjepa.datasets.kitti import KittiCalib, KittiObjects, png_size, points_in_boxes

FRAMES = ('000000', '000001', '000002', '000003', '002155', '007347')


@pytest.fixture(scope='module')
def training(shared_dir):
    return shared_dir / 'data' / 'kitti' / 'training'


def load(training, frame):
    points = np.fromfile(training / 'velodyne' / f'{frame}.bin', np.float32).reshape(-1, 4)
    calib = KittiCalib.from_file(training / 'calib' / f'{frame}.txt')
    return points, calib, KittiObjects.from_file(training / 'label_2' / f'{frame}.txt')


def axis_calib():
    """Camera at the LiDAR, looking along x; focal length 100 px, centre (50, 25)."""
    p2 = np.array([[100.0, 0, 50, 0], [0, 100, 25, 0], [0, 0, 1, 0]])
    velo_to_cam = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]])
    return KittiCalib(p2=p2, r0=np.eye(3), velo_to_cam=velo_to_cam)


def inside_by_corners(point, box):
    """Scalar reference: the point lies between each pair of opposite faces."""
    x, y, z, dx, dy, dz, yaw = box
    ahead = np.array([np.cos(yaw), np.sin(yaw), 0])
    left = np.array([-np.sin(yaw), np.cos(yaw), 0])
    offset = np.asarray(point) - [x, y, z]
    sizes = ((ahead, dx), (left, dy), (np.array([0, 0, 1.0]), dz))
    return all(abs(offset @ axis) <= size / 2 for axis, size in sizes)


def test_points_in_boxes_agrees_with_scalar_reference():
    rng = np.random.default_rng(0)
    points = rng.uniform(-6, 6, (400, 3))
    boxes = np.column_stack(
        [rng.uniform(-4, 4, (5, 3)), rng.uniform(1, 6, (5, 3)), rng.uniform(-7, 7, 5)]
    )
    expected = [
        next((i for i, box in enumerate(boxes) if inside_by_corners(point, box)), -1)
        for point in points
    ]
    assert max(expected) > 1  # the case isn't trivial
    np.testing.assert_array_equal(points_in_boxes(points, boxes), expected)


def test_points_in_boxes_yaw_turns_from_x_to_y():
    box = np.array([[0.0, 0, 0, 4, 1, 1, np.pi / 4]])
    along = np.sqrt(0.5) * 1.8
    assert points_in_boxes(np.array([[along, along, 0], [along, -along, 0]]), box).tolist() == [
        0,
        -1,
    ]


def test_points_in_boxes_without_points_or_boxes():
    assert points_in_boxes(np.zeros((0, 4)), np.zeros((2, 7))).shape == (0,)
    assert points_in_boxes(np.zeros((3, 4)), np.zeros((0, 7))).tolist() == [-1, -1, -1]


def test_points_in_boxes_refuses_other_shapes():
    with pytest.raises(ValueError, match=r'boxes must be \(M, 7\)'):
        points_in_boxes(np.zeros((3, 3)), np.zeros((2, 8)))
    with pytest.raises(ValueError, match='points must be'):
        points_in_boxes(np.zeros((3, 2)), np.zeros((2, 7)))


def test_points_in_boxes_is_fast():
    rng = np.random.default_rng(0)
    points = rng.uniform(-70, 70, (120_000, 4)).astype(np.float32)
    boxes = np.column_stack([points[:30, :3], np.full((30, 3), 4.0), rng.uniform(-3, 3, 30)])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        points_in_boxes(points, boxes)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05


def test_real_boxes_contain_points(training):
    counts, visible = [], []
    for frame in FRAMES:
        points, calib, objects = load(training, frame)
        objects = objects.without_dontcare()
        found = points_in_boxes(points, objects.boxes_lidar(calib))
        inside = np.bincount(found[found >= 0], minlength=len(objects))
        counts += list(inside)
        visible += list((objects.difficulty() == 0) & (objects.location[:, 2] < 15))
    counts, visible = np.array(counts), np.array(visible)
    assert visible.sum() >= 4
    assert counts[visible].min() > 300  # near and fully visible
    assert np.mean(counts > 0) > 0.9  # dark cars may return nothing


def test_real_boxes_shifted_contain_fewer_points(training):
    points, calib, objects = load(training, '000002')
    boxes = objects.boxes_lidar(calib)
    right = (points_in_boxes(points, boxes) >= 0).sum()
    for change in ((0, 3.0), (1, 3.0), (2, 1.5), (6, np.pi / 2)):
        wrong = boxes.copy()
        wrong[:, change[0]] += change[1]
        assert (points_in_boxes(points, wrong) >= 0).sum() < 0.9 * right, change


def test_real_boxes_project_onto_their_image_boxes(training):
    """Label, calibration, box and projection agree: corners against the annotated 2D box."""
    _, calib, objects = load(training, '000003')
    objects = objects.without_dontcare()
    for box, expected in zip(objects.boxes_lidar(calib), objects.bbox, strict=True):
        signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3) / 2
        local = signs * box[3:6]
        c, s = np.cos(box[6]), np.sin(box[6])
        corners = np.stack([c * local[:, 0] - s * local[:, 1], s * local[:, 0] + c * local[:, 1],
                            local[:, 2]], 1) + box[:3]  # fmt: skip
        uv, depth = calib.camera_to_image(calib.lidar_to_camera(corners))
        assert depth.min() > 0
        np.testing.assert_allclose([*uv.min(0), *uv.max(0)], expected, atol=8)


def test_fov_mask_on_a_simple_camera():
    points = np.array(
        [[10, 0, 0], [-10, 0, 0], [10, 4.9, 0], [10, 5.1, 0], [10, 0, 2.4], [10, 0, 2.6],
         [10, -4.9, 0], [10, -5.1, 0], [np.nan, 0, 0], [np.inf, 0, 0]], np.float32
    )  # fmt: skip
    expected = [True, False, True, False, True, False, True, False, False, False]
    assert axis_calib().fov_mask(points, (50, 100)).tolist() == expected


def test_fov_mask_is_the_projection_in_float64(training):
    points, calib, _ = load(training, '000001')
    uv, depth = calib.camera_to_image(calib.lidar_to_camera(points.astype(np.float64)))
    expected = (depth > 0) & (uv >= 0).all(1) & (uv < [1242, 375]).all(1)
    mask = calib.fov_mask(points, (375, 1242))
    assert np.count_nonzero(mask != expected) <= 2  # points on the border, float32
    assert 15_000 < mask.sum() < 25_000


def test_camera_to_lidar_inverts(training):
    points, calib, _ = load(training, '000000')
    camera = calib.lidar_to_camera(points[:100].astype(np.float64))
    np.testing.assert_allclose(calib.camera_to_lidar(camera), points[:100, :3], atol=1e-9)


def test_difficulty_follows_the_development_kit():
    rows = [
        ('Car', 0.0, 0, 41, 0),
        ('Car', 0.15, 0, 41, 0),
        ('Car', 0.16, 0, 41, 1),
        ('Car', 0.0, 1, 41, 1),
        ('Car', 0.0, 0, 39, 1),
        ('Car', 0.31, 0, 39, 2),
        ('Car', 0.0, 2, 26, 2),
        ('Car', 0.0, 3, 60, -1),
        ('Car', 0.51, 0, 60, -1),
        ('Car', 0.0, 0, 25, -1),  # the height must exceed the bound
        ('DontCare', 0.0, 0, 60, -1),
    ]
    n = len(rows)
    bbox = np.array([[0, 10, 50, 10 + row[3]] for row in rows], float)
    objects = KittiObjects(
        names=np.array([row[0] for row in rows]), truncated=np.array([row[1] for row in rows]),
        occluded=np.array([row[2] for row in rows]), alpha=np.zeros(n), bbox=bbox,
        dims=np.ones((n, 3)), location=np.zeros((n, 3)), rotation_y=np.zeros(n),
    )  # fmt: skip
    assert objects.difficulty().tolist() == [row[4] for row in rows]


def test_objects_round_trip(training, tmp_path):
    for frame in FRAMES:
        source = training / 'label_2' / f'{frame}.txt'
        objects = KittiObjects.from_file(source)
        objects.write(tmp_path / 'out.txt')
        again = KittiObjects.from_file(tmp_path / 'out.txt')
        assert again.names.tolist() == objects.names.tolist()
        np.testing.assert_array_equal(again.bbox, objects.bbox)
        np.testing.assert_array_equal(again.location, objects.location)
        np.testing.assert_array_equal(again.boxes_lidar(axis_calib()),
                                      objects.boxes_lidar(axis_calib()))  # fmt: skip


def test_objects_with_score_and_empty_file(tmp_path):
    line = 'Car 0 0 0.1 1 2 3 4 1.5 1.6 3.9 0 1 10 0.2 0.75\n'
    (tmp_path / 'a.txt').write_text(line)
    objects = KittiObjects.from_file(tmp_path / 'a.txt')
    assert objects.score.tolist() == [0.75]
    assert objects.boxes_lidar(axis_calib())[0, :6].tolist() == [10, 0, -0.25, 3.9, 1.6, 1.5]
    (tmp_path / 'b.txt').write_text('')
    empty = KittiObjects.from_file(tmp_path / 'b.txt')
    assert len(empty) == 0
    assert empty.boxes_lidar(axis_calib()).shape == (0, 7)
    assert empty.difficulty().shape == (0,)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('Car 0 0 0.1 1 2 3\n', 'line 1: 7 columns'),
        ('Car 0 0 x 1 2 3 4 1.5 1.6 3.9 0 1 10 0.2\n', "line 1: could not convert.*'x'"),
    ],
)
def test_damaged_label_names_the_line(tmp_path, text, message):
    (tmp_path / 'a.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        KittiObjects.from_file(tmp_path / 'a.txt')


def test_damaged_calib_names_the_matrix(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('P2: 1 2 3\n')
    with pytest.raises(ValueError, match=r'P2: expected 12 finite numbers, got 1 2 3'):
        KittiCalib.from_file(path)
    path.write_text('P2: ' + '1 ' * 12 + '\n')
    with pytest.raises(ValueError, match='no line "R0_rect:"'):
        KittiCalib.from_file(path)
    with pytest.raises(FileNotFoundError, match='expected a KITTI calibration file'):
        KittiCalib.from_file(tmp_path / 'none.txt')


def test_png_size(training, tmp_path):
    assert png_size(training / 'image_2' / '000001.png') == (375, 1242)
    Path(tmp_path / 'a.png').write_bytes(b'GIF89a')
    with pytest.raises(ValueError, match='not a PNG'):
        png_size(tmp_path / 'a.png')
