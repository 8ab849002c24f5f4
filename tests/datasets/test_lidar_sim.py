"""The simulated frame: scene, ray casters, sensor, labels, camera."""

import numpy as np
import pytest

from mmjepa.datasets.kitti import KittiObjects, points_in_boxes
from mmjepa.datasets.lidar_sim import (
    make_caster,
    materials,
    random_scene,
    sensor,
    simulate_frame,
    take_sweep,
)
from mmjepa.datasets.lidar_sim.camera import (
    CALIB_TEXT,
    _pixel_rays,
    kitti_camera,
    write_png,
)
from mmjepa.datasets.lidar_sim.labels import make_labels, occlusion_and_truncation
from mmjepa.datasets.lidar_sim.materials import Material
from mmjepa.datasets.lidar_sim.scene import LABELLED, STYLES, Road, SceneBuilder
from mmjepa.datasets.lidar_sim.sensor import (
    ELEVATIONS_DEG,
    LASER_HEIGHTS,
    make_rays,
    plane_ranges,
)
from mmjepa.datasets.lidar_sim.shapes import templates

FLAT = Road(0.0, -2.0, 0.0, 4.0, 2.0, 0.0, (0.0, 0.0), (0.0, 0.0), (0.0, 0.1, 0.0))
CAR = (4.0, 1.6, 1.5)


@pytest.fixture(scope='module')
def caster():
    return make_caster('auto', 'cpu', threads=1)


@pytest.fixture(scope='module')
def frames(caster):
    return [simulate_frame(5, number, caster) for number in range(6)]


@pytest.fixture(scope='module')
def scene():
    return random_scene(np.random.default_rng(3))


def _street(*things):
    """A flat, straight, empty street with (name, x, y, yaw, size) on it."""
    builder = SceneBuilder(np.random.default_rng(0), 'test', FLAT)
    builder.add_ground(Material.GRASS)
    for name, x, y, yaw, size in things:
        assert builder.place(name, x, y + FLAT.offset, yaw, size)
    return builder.build()


def _first_faces(scene, origins, directions):
    """Oracle: every ray against every face."""
    a, b, c = (scene.vertices[scene.faces[:, i]] for i in range(3))
    faces, ranges = [], []
    for origin, direction in zip(origins.astype(float), directions.astype(float), strict=True):
        h = np.cross(direction, c - a)
        q = np.cross(origin - a, b - a)
        with np.errstate(divide='ignore', invalid='ignore'):
            scale = 1 / ((b - a) * h).sum(1)
            u, v = ((origin - a) * h).sum(1) * scale, (direction * q).sum(1) * scale
            t = ((c - a) * q).sum(1) * scale
            t = np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0), t, np.inf)
        faces.append(int(t.argmin()) if np.isfinite(t.min()) else -1)
        ranges.append(t.min())
    return np.array(faces), np.array(ranges)


@pytest.mark.parametrize('name', ['open3d', 'torch'])
def test_caster_equals_exhaustive_search(name, scene):
    if name == 'open3d':
        pytest.importorskip('open3d')
    rays = make_rays(np.random.default_rng(0))
    # runs of neighbours all over the turn, so that the torch caster's tiles are of both kinds
    picked = (np.arange(0, len(rays.numbers) - 16, 6000)[:, None] + np.arange(16)).ravel()
    origins, directions = rays.origins[picked], rays.directions[picked]
    faces = make_caster(name, 'cpu', 1).cast(scene, origins, directions)
    expected, ranges = _first_faces(scene, origins, directions)
    assert ((faces < 0) == (expected < 0)).all()
    hit = faces >= 0
    assert hit.mean() > 0.5
    measured, _ = plane_ranges(scene, faces[hit], origins[hit], directions[hit])
    np.testing.assert_allclose(measured, ranges[hit], atol=1e-4)


@pytest.mark.parametrize('seed', [0, 1])
def test_casters_agree_to_a_millimetre(seed, capsys):
    pytest.importorskip('open3d')
    scene = random_scene(np.random.default_rng(seed))
    rays = make_rays(np.random.default_rng(seed), front_only=True)
    pixels = [part[::5] for part in _pixel_rays()]
    one, other = make_caster('open3d', threads=1), make_caster('torch', 'cpu')
    for origins, directions in ((rays.origins, rays.directions), pixels)[: 2 - seed]:
        a = one.cast(scene, origins, directions)
        b = other.cast(scene, origins, directions)
        both = np.flatnonzero((a >= 0) & (b >= 0))
        ranges = [plane_ranges(scene, f[both], origins[both], directions[both])[0] for f in (a, b)]
        gap = np.abs(ranges[0] - ranges[1])
        single = int(((a >= 0) != (b >= 0)).sum())
        with capsys.disabled():
            print(
                f'\ncasters, seed {seed}: {len(a)} rays, {int((a != b).sum())} other faces, '
                f'{single} hit by one only, largest gap {gap.max():.1e} m',
            )
        # a ray through an outline to float32 precision may pass on one side or the other
        assert single + int((gap > 1e-3).sum()) <= len(a) * 5e-5
        assert len(both) > 0.5 * len(a)


@pytest.mark.cuda
def test_cuda_caster_equals_cpu(scene):
    rays = make_rays(np.random.default_rng(0))
    one = make_caster('torch', 'cpu').cast(scene, rays.origins, rays.directions)
    other = make_caster('torch', 'cuda').cast(scene, rays.origins, rays.directions)
    assert (one != other).mean() < 1e-4


def test_sweeps_of_both_casters_are_the_same_points():
    pytest.importorskip('open3d')
    scene = random_scene(np.random.default_rng(8))
    sweeps = [
        take_sweep(scene, np.random.default_rng(1), make_caster(name, 'cpu', 1), front_only=True)
        for name in ('open3d', 'torch')
    ]
    counts = [len(sweep.points) for sweep in sweeps]
    assert abs(counts[0] - counts[1]) <= 3
    if counts[0] == counts[1]:
        gap = np.abs(sweeps[0].points - sweeps[1].points)[:, :3].max(axis=1)
        assert (gap > 0.0011).mean() < 1e-4  # written in millimetres


def test_caster_arguments():
    with pytest.raises(ValueError, match='auto, open3d, torch'):
        make_caster('embree')
    with pytest.raises(ValueError, match='drop one of the two'):
        make_caster('open3d', 'cuda')
    assert make_caster('torch', 'cpu').name == 'torch'


def test_caster_without_open3d(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert make_caster('auto', 'cpu').name == 'torch'
    with pytest.raises(ImportError, match=r'mmjepa\[lidar\]'):
        make_caster('open3d')


def test_no_rays_and_nothing_hit(caster):
    scene = _street()
    empty = np.zeros((0, 3), dtype=np.float32)
    torch_caster = make_caster('torch', 'cpu')
    assert torch_caster.cast(scene, empty, empty).shape == (0,)
    up = np.tile(np.array([[0, 0, 1]], dtype=np.float32), (3, 1))
    for each in (caster, torch_caster):
        assert (each.cast(scene, np.zeros_like(up), up) == -1).all()


def test_templates_fill_the_unit_box():
    for name, variants in templates().items():
        for template in variants:
            np.testing.assert_allclose(template.vertices.min(0), [-0.5, -0.5, 0], atol=1e-9)
            np.testing.assert_allclose(template.vertices.max(0), [0.5, 0.5, 1], atol=1e-9)
            assert len(template.materials) == len(template.faces), name
            assert template.faces.max() == len(template.vertices) - 1
    assert set(LABELLED) <= set(templates())


def test_scene_is_a_function_of_its_generator():
    one, same, other = (random_scene(np.random.default_rng(s)) for s in (4, 4, 5))
    assert np.array_equal(one.vertices, same.vertices)
    assert np.array_equal(one.tints, same.tints)
    assert one.vertices.shape != other.vertices.shape


@pytest.mark.parametrize('style', list(STYLES))
def test_objects_stand_on_the_ground_apart_from_each_other(style, caster):
    scene = random_scene(np.random.default_rng(11), style)
    boxes = scene.boxes
    assert len(boxes) > 5
    # the ground below each object's middle, by a ray from above
    top = np.c_[boxes[:, :2], np.full(len(boxes), 30.0)].astype(np.float32)
    ground = scene.road.height(*scene.road.to_sl(boxes[:, 0], boxes[:, 1]))
    assert np.abs(boxes[:, 2] - boxes[:, 5] / 2 - ground).max() < 1e-6
    down = np.tile(np.array([[0, 0, -1]], dtype=np.float32), (len(boxes), 1))
    is_ground = np.isin(scene.materials, (Material.ASPHALT, Material.PAVING, Material.GRASS))
    only = type(scene)(**{**_fields(scene), 'faces': scene.faces[is_ground]})
    faces = make_caster('torch', 'cpu').cast(only, top, down)
    ranges, _ = plane_ranges(only, faces, top, down)
    assert np.abs(30 - ranges - ground).max() < 0.1  # sheet of triangles against the formula
    for i, box in enumerate(boxes):
        rest = np.delete(boxes, i, axis=0)
        grid = np.stack(np.meshgrid(*[np.linspace(-0.48, 0.48, 7)] * 2), -1).reshape(-1, 2)
        cos, sin = np.cos(box[6]), np.sin(box[6])
        local = grid * box[3:5]
        xy = local @ np.array([[cos, sin], [-sin, cos]]) + box[:2]
        points = np.c_[xy, np.full(len(xy), box[2])]
        rest[:, 2], rest[:, 5] = box[2], 1.0
        assert (points_in_boxes(points, rest) < 0).all()


def _fields(scene):
    names = scene.__dataclass_fields__
    return {name: getattr(scene, name) for name in names if name != 'normals'}


def test_sweep_looks_like_an_hdl64(frames):
    for frame in frames:
        points = frame.points
        assert points.dtype == np.float32
        assert np.isfinite(points).all()
        assert 90_000 < len(points) < 134_000
        ranges = np.linalg.norm(points[:, :3], axis=1)
        assert ranges.max() < 80.3
        assert ranges.min() > 1.2
        assert points[:, 3].min() >= 0
        assert points[:, 3].max() < 1
        # every point lies on the cone of one of the 64 lasers, in the order of KITTI's files
        rho = np.hypot(points[:, 0], points[:, 1])[:, None]
        far = rho[:, 0] > 8
        angle = np.degrees(np.arctan2(points[far, 2:3] - LASER_HEIGHTS, rho[far]))
        off = np.abs(angle - ELEVATIONS_DEG)
        assert off.min(axis=1).max() < 0.02
        laser = off.argmin(axis=1)
        assert len(np.unique(laser)) > 40
        azimuth = np.arctan2(points[:, 1], points[:, 0])
        assert ((azimuth[1:] >= 0) & (azimuth[:-1] < 0)).sum() >= 60


def test_range_noise_and_lost_echoes(scene, caster, monkeypatch):
    rays = make_rays(np.random.default_rng(7), front_only=True)
    hits = int((caster.cast(scene, rays.origins, rays.directions) >= 0).sum())
    noisy = take_sweep(scene, np.random.default_rng(7), caster, front_only=True).points
    assert 0.85 < len(noisy) / hits < 0.99
    # the same random numbers without noise: the same points, ranges apart by the noise alone
    monkeypatch.setattr(sensor, 'MAX_RANGE', 1e3)
    noisy = take_sweep(scene, np.random.default_rng(7), caster, front_only=True).points
    monkeypatch.setattr(sensor, 'RANGE_NOISE', 0.0)
    monkeypatch.setattr(materials, 'ROUGHNESS', np.zeros(len(Material)))
    clean = take_sweep(scene, np.random.default_rng(7), caster, front_only=True).points
    assert noisy.shape == clean.shape
    gap = noisy[:, :3] - clean[:, :3]
    noise = np.linalg.norm(gap, axis=1)
    along = np.abs((gap * clean[:, :3]).sum(1)) / np.linalg.norm(clean[:, :3], axis=1)
    assert np.percentile(noise - along, 99) < 0.003
    assert 0.010 < np.median(noise) < 0.03  # 0.016 m has the median 0.011; foliage more


def test_glass_loses_more_than_paint(caster):
    scene = _street(('Car', 12, 3, 0.3, CAR), ('Car', 14, -3, 0.0, CAR))
    rays = make_rays(np.random.default_rng(0))
    faces = caster.cast(scene, rays.origins, rays.directions)
    cast = np.bincount(scene.materials[faces[faces >= 0]], minlength=len(Material))
    kept = np.zeros(len(Material))
    for seed in range(4):
        sweep = take_sweep(scene, np.random.default_rng(seed), caster)
        height = sweep.points[:, 2] + 1.73
        on_car = sweep.objects >= 0
        kept[Material.GLASS] += (on_car & (height > 1.05) & (height < 1.4)).sum() / 4
        kept[Material.PAINT] += (on_car & (height > 0.35) & (height < 0.85)).sum() / 4
    assert cast[Material.GLASS] > 100
    assert kept[Material.GLASS] / cast[Material.GLASS] < 0.75
    assert kept[Material.PAINT] / cast[Material.PAINT] > 0.5


def test_intensity_ranges_of_the_classes_overlap(caster):
    values: dict[str, list] = {}
    for number in range(8):
        scene = random_scene(np.random.default_rng([7, number]))
        sweep = take_sweep(scene, np.random.default_rng(number), caster)
        near = np.linalg.norm(sweep.points[:, :3], axis=1) < 30
        names = np.array([*scene.names, 'background'])[sweep.objects]
        for name in np.unique(names):
            values.setdefault(name, []).append(sweep.points[near & (names == name), 3])
    spans = {
        name: np.percentile(np.concatenate(parts), [25, 75])
        for name, parts in values.items()
        if name in ('Car', 'Pedestrian', 'Cyclist', 'background')
    }
    assert len(spans) == 4
    for one in spans.values():  # the middle halves of every two classes overlap
        for other in spans.values():
            assert one[0] < other[1]


def test_frustum_only_is_the_full_frame_seen_through_the_camera(caster):
    calib = kitti_camera().calib
    for number in range(2):
        full = simulate_frame(1, number, caster)
        front = simulate_frame(1, number, caster, frustum_only=True)
        seen = full.points[calib.fov_mask(full.points)]
        assert np.array_equal(seen, front.points)
        assert np.array_equal(full.labels.bbox, front.labels.bbox)
        assert list(full.labels.names) == list(front.labels.names)
        assert np.array_equal(full.picture, front.picture)


def test_frames_depend_on_seed_number_and_split(caster, frames):
    again = simulate_frame(5, 0, caster)
    assert np.array_equal(again.points, frames[0].points)
    for other in (simulate_frame(6, 0, caster), simulate_frame(5, 0, caster, split='testing')):
        assert other.points.shape != again.points.shape


def test_points_lie_in_their_boxes(frames, caster):
    for number, frame in enumerate(frames[:3]):
        scene = frame.scene
        sweep = take_sweep(scene, np.random.default_rng(number), caster)
        grown = scene.boxes.copy()
        grown[:, 3:6] += 0.12  # range noise
        on = sweep.objects >= 0
        inside = points_in_boxes(sweep.points[on], grown)
        assert (inside == sweep.objects[on]).mean() > 0.98


def test_labels_survive_the_file(frames, tmp_path):
    calib = kitti_camera().calib
    for frame in frames:
        frame.labels.write(tmp_path / 'label.txt')
        read = KittiObjects.from_file(tmp_path / 'label.txt')
        objects = read.without_dontcare()
        boxes = objects.boxes_lidar(calib)
        gaps = np.linalg.norm(boxes[:, None, :3] - frame.scene.boxes[None, :, :3], axis=-1)
        match = gaps.argmin(axis=1)
        assert gaps.min(axis=1).max() < 0.02
        assert np.abs(boxes[:, 3:6] - frame.scene.boxes[match, 3:6]).max() < 0.006
        turn = boxes[:, 6] - frame.scene.boxes[match, 6]
        assert np.abs(np.sin(turn / 2)).max() < 0.01
        assert [frame.scene.names[i] for i in match] == list(objects.names)
        expected = objects.rotation_y - np.arctan2(objects.location[:, 0], objects.location[:, 2])
        assert np.abs(np.sin((objects.alpha - expected) / 2)).max() < 0.02
        hits = points_in_boxes(frame.points, boxes)
        assert len(np.unique(hits[hits >= 0])) >= 0.8 * len(boxes)


def test_boxes_enclose_the_projected_points(caster):
    scene = _street(('Car', 15, 2, 0.5, CAR), ('Pedestrian', 9, -2, 0.0, None))
    sweep = take_sweep(scene, np.random.default_rng(0), caster)
    camera = kitti_camera()
    labels = make_labels(scene, sweep.objects, caster)
    assert list(labels.names) == ['Pedestrian', 'Car']
    for name, rect in zip(labels.names, labels.bbox, strict=True):
        points = sweep.points[sweep.objects == scene.names.index(name)]
        uv, _ = camera.calib.camera_to_image(camera.calib.lidar_to_camera(points))
        low, high = np.percentile(uv, [1, 99], axis=0)
        assert (low > rect[:2] - 2).all()
        assert (high < rect[2:] + 2).all()
        assert (high - low > 0.6 * (rect[2:] - rect[:2])).all()
    assert (labels.occluded == 0).all()
    assert (labels.truncated == 0).all()


def _labels(caster, *things):
    scene = _street(*things)
    sweep = take_sweep(scene, np.random.default_rng(0), caster)
    seen = kitti_camera().calib.fov_mask(sweep.points)
    return scene, make_labels(scene, sweep.objects[seen], caster)


def test_occlusion_levels(caster):
    car = ('Car', 25.0, 0.0, np.pi / 2, CAR)
    shares = {}
    for name, width in (('part', 1.6), ('large', 2.6)):
        wall = ('wall', 15.0, -1.25, np.pi / 2, (width, 0.2, 3.0))
        scene, labels = _labels(caster, car, wall)
        shares[name] = occlusion_and_truncation(scene, caster, kitti_camera())[0][0]
        assert labels.occluded.tolist() == [{'part': 1, 'large': 2}[name]], shares
    assert 0.15 < shares['part'] < 0.5 < shares['large'] < 0.9
    _, free = _labels(caster, car)
    assert free.occluded.tolist() == [0]
    _, hidden = _labels(caster, car, ('wall', 15.0, 0.0, np.pi / 2, (8.0, 0.2, 3.0)))
    assert len(hidden) == 0


def test_truncation_is_the_share_outside_the_image(caster):
    # the right edge of the image lies at atan(632 / 721) = 41 degrees: a car across it
    distance = 12.0
    edge = -distance * 632 / 721.5
    _, labels = _labels(caster, ('Car', distance, edge, np.pi / 2, CAR))
    assert labels.truncated[0] == pytest.approx(0.5, abs=0.15)
    assert labels.bbox[0, 2] == 1241
    _, inside = _labels(caster, ('Car', distance, edge + 3.2, np.pi / 2, CAR))
    assert inside.truncated.tolist() == [0]
    _, outside = _labels(caster, ('Car', distance, edge - 3.2, np.pi / 2, CAR))
    assert len(outside) == 0
    _, behind = _labels(caster, ('Car', -distance, 0.0, 0.0, CAR))
    assert len(behind) == 0


def test_what_the_lidar_does_not_reach_is_dontcare(caster):
    _, labels = _labels(
        caster, ('Car', 20.0, 1.0, 0.0, CAR), ('Van', 83.4, 0.0, 0.0, (4.0, 1.9, 2.2))
    )
    assert list(labels.names) == ['Car', 'DontCare']
    assert labels.difficulty().tolist()[1] == -1
    assert labels.truncated[1] == -1
    assert labels.location[1].tolist() == [-1000] * 3
    assert (labels.bbox[1, 2:] > labels.bbox[1, :2]).all()


def test_all_difficulties_and_classes_occur(caster):
    names, levels, per_frame = [], [], []
    for number in range(14):
        labels = simulate_frame(2, number, caster, frustum_only=True).labels
        names += list(labels.names)
        levels += list(labels.difficulty())
        per_frame.append([int((labels.names == n).sum()) for n in ('Car', 'Pedestrian', 'Cyclist')])
    assert {'Car', 'Van', 'Pedestrian', 'Cyclist'} <= set(names)
    for level in (0, 1, 2):
        assert levels.count(level) > 0.08 * len(levels)
    middle = np.median(per_frame, axis=0)
    assert 2 <= middle[0] <= 12
    assert middle[1] >= 2
    assert middle[2] >= 2


def test_calibration_and_picture(frames, tmp_path):
    import cv2

    from mmjepa.datasets.kitti import KittiCalib, png_size

    path = tmp_path / 'calib.txt'
    path.write_text(CALIB_TEXT)
    assert [line.split(':')[0] for line in CALIB_TEXT.split('\n') if line][:5] == [
        'P0', 'P1', 'P2', 'P3', 'R0_rect',
    ]  # fmt: skip
    calib = KittiCalib.from_file(path)
    assert np.array_equal(calib.p2, kitti_camera().calib.p2)
    assert np.array_equal(calib.velo_to_cam, kitti_camera().calib.velo_to_cam)
    # a ray through a pixel comes back to it
    uv = np.array([[100.0, 50.0], [1200.0, 370.0], [609.0, 172.0]])
    ahead = kitti_camera().centre + kitti_camera().directions(uv).astype(float) * 20
    back, _ = calib.camera_to_image(calib.lidar_to_camera(ahead))
    np.testing.assert_allclose(back, uv, atol=1e-2)
    write_png(tmp_path / 'a.png', frames[0].picture)
    assert png_size(tmp_path / 'a.png') == (375, 1242)
    assert (tmp_path / 'a.png').stat().st_size < 150_000
    read = cv2.imread(str(tmp_path / 'a.png'))
    assert np.array_equal(read[:, :, ::-1], frames[0].picture)
    assert len(np.unique(read.reshape(-1, 3), axis=0)) > 20
