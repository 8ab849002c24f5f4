"""Who found whom, and what the pictures show of it."""

import types

import mm3d_scenes
import numpy as np
import pytest
from kitti_scenes import CALIB

from mmjepa.datasets.info_files import InfoFileError, load_plain, write_plain
from mmjepa.datasets.kitti import KittiCalib, KittiObjects, points_in_boxes
from mmjepa.engine.config import load_config
from mmjepa.visualization import save_figure, viewer
from mmjepa.visualization.detections import (
    CLASS_COLOURS,
    above,
    bev_corners,
    class_colours,
    compare_detections,
    detections_figure,
)
from mmjepa.visualization.matching import GroundTruth, match, min_ious, read_ground_truth

NAMES = ('Pedestrian', 'Cyclist', 'Car')
RANGE = (0.0, -20.0, -3.0, 40.0, 20.0, 1.0)
CAR = (10.0, 5.0, -1.0, 4.0, 1.6, 1.5, 0.0)
LIMITS = min_ious(NAMES)


def moved(box, **changes):
    values = dict(zip(('x', 'y', 'z', 'dx', 'dy', 'dz', 'yaw'), box, strict=True))
    return [values[key] + changes.get(key, 0) for key in values]


def truth(*objects, counted=None, dontcare=(), calib=None):
    return GroundTruth(
        boxes=np.array([box for _, box in objects], dtype=float).reshape(-1, 7),
        names=np.array([name for name, _ in objects], dtype=np.str_),
        counted=np.ones(len(objects), bool) if counted is None else np.array(counted),
        dontcare=np.array(dontcare, dtype=float).reshape(-1, 4),
        calib=calib,
    )


def found(*objects):
    """(name, score, box) each."""
    return {
        'boxes': np.array([box for *_, box in objects], dtype=float).reshape(-1, 7),
        'scores': np.array([score for _, score, _ in objects], dtype=float),
        'labels': np.array([NAMES.index(name) for name, *_ in objects], dtype=np.int64),
        'names': NAMES,
        'points': np.random.default_rng(0).uniform((0, -20, -2, 0), (40, 20, 0, 1), (800, 4)),
    }


# ------------------------------------------------------------------------------------ matching


def states(objects, detections, **kwargs):
    result = match(found(*detections), truth(*objects, **kwargs), LIMITS)
    return result.truth.tolist(), result.detections.tolist()


def test_a_detection_is_right_from_the_limit_on():
    # shifted by s of a length of 4, the overlap is (4 - s) / (4 + s): 0.7 at 0.706
    near, far = moved(CAR, x=0.70), moved(CAR, x=0.71)
    assert states([('Car', CAR)], [('Car', 0.9, near)]) == (['found'], ['right'])
    assert states([('Car', CAR)], [('Car', 0.9, far)]) == (['missed'], ['false'])
    # height counts, too
    assert states([('Car', CAR)], [('Car', 0.9, moved(CAR, z=0.5))]) == (['missed'], ['false'])
    assert states([('Car', CAR)], [('Pedestrian', 0.9, CAR)]) == (['missed'], ['false'])
    assert states([], [('Car', 0.9, CAR)]) == ([], ['false'])
    assert states([('Car', CAR)], []) == (['missed'], [])


def test_an_object_is_found_once_by_the_best_score():
    pair = [('Car', 0.4, CAR), ('Car', 0.8, moved(CAR, x=0.2))]
    assert states([('Car', CAR)], pair) == (['found'], ['false', 'right'])
    # each takes the free object that it overlaps most
    objects = [('Car', CAR), ('Car', moved(CAR, x=0.5))]
    both = [('Car', 0.9, moved(CAR, x=0.4)), ('Car', 0.8, moved(CAR, x=0.1))]
    assert states(objects, both) == (['found', 'found'], ['right', 'right'])
    assert states(objects, both[:1]) == (['missed', 'found'], ['right'])


def test_what_kitti_does_not_count_is_excused():
    there = [('Car', 0.9, CAR)]
    assert states([('Car', CAR)], there, counted=[False]) == (['not counted'], ['excused'])
    assert states([('Van', CAR)], there) == (['not counted'], ['excused'])
    assert states([('Truck', CAR)], there) == (['not counted'], ['false'])
    assert states([('car', CAR)], there) == (['found'], ['right'])  # nuScenes writes it small


def test_dontcare_regions_excuse(tmp_path):
    (tmp_path / 'calib.txt').write_text(CALIB)
    calib = KittiCalib.from_file(tmp_path / 'calib.txt')
    # 10 m ahead, 5 m to the left and 1 m down: 621 - 350, 187 + 70
    at, beside = [(260, 250, 280, 265)], [(280, 250, 300, 265)]
    there = [('Car', 0.9, CAR)]
    assert states([], there, dontcare=at, calib=calib) == ([], ['excused'])
    assert states([], there, dontcare=beside, calib=calib) == ([], ['false'])
    assert states([], there, dontcare=at) == ([], ['false'])  # without a camera nothing is seen
    behind = [('Car', 0.9, [-10, -5, 1, 4, 1.6, 1.5, 0])]  # projects there, mirrored
    assert states([], behind, dontcare=at, calib=calib) == ([], ['false'])


def test_limits():
    assert LIMITS == {'Pedestrian': 0.5, 'Cyclist': 0.5, 'Car': 0.7}
    assert min_ious(('car', 'Bus')) == {'car': 0.7, 'Bus': 0.5}
    assert min_ious(('car', 'Bus'), 0.3) == {'car': 0.3, 'Bus': 0.3}
    with pytest.raises(ValueError, match='min_iou'):
        min_ious(NAMES, 0)


# -------------------------------------------------------------------------------- ground truth


LAYOUTS = {  # data set: config, folder of the sweeps, columns of a sweep
    'kitti': ('second_kitti', 'training/velodyne', 4),
    'nuscenes': ('centerpoint_nuscenes', 'samples/LIDAR_TOP', 5),
    'waymo': ('centerpoint_waymo', 'training/velodyne', 6),
    'once': ('second_once', 'data/*/lidar_roof', 4),
}


@pytest.fixture
def labelled(tmp_path, repo):
    """Writer of a data set of one training and one validation frame: its config, its folder."""
    pytest.importorskip('mmdet3d.datasets', exc_type=ImportError)

    def write(name):
        root = tmp_path / name
        getattr(mm3d_scenes, f'write_{name}')(root, frames=1)
        path = repo / f'configs/downstream/mmdet3d/{LAYOUTS[name][0]}.py'
        return load_config(path, dict(data_root=str(root))), root

    return write


@pytest.mark.parametrize('name', LAYOUTS)
def test_labels_of_all_layouts(labelled, name):
    config, root = labelled(name)
    _, folder, columns = LAYOUTS[name]
    sizes = getattr(mm3d_scenes, name.upper())
    copies = 2 if name in ('kitti', 'waymo') else 1
    known = 0
    for sweep in sorted(root.glob(f'{folder}/*')):
        objects = read_ground_truth(config, sweep)
        if objects is None:
            continue
        known += 1
        assert sorted(objects.names) == sorted(list(sizes) * copies)
        assert objects.counted.all() and not len(objects.dontcare)
        points = np.fromfile(sweep, np.float32).reshape(-1, columns)
        inside = np.bincount(points_in_boxes(points, objects.boxes) + 1)[1:]
        assert (inside >= 100).all()
        wanted = [sizes[name] for name in objects.names]
        assert np.allclose(objects.boxes[:, 3:6], wanted, atol=1e-5)
    assert known == 2  # ONCE's sequences hold frames without labels, too


def test_labels_are_those_of_kittis_files(labelled):
    config, root = labelled('kitti')
    path = root / 'kitti_infos_val.pkl'
    infos = load_plain(path)
    instances = infos['data_list'][0]['instances']
    instances[0]['difficulty'] = instances[1]['difficulty'] = -1
    instances[1]['bbox'] = [0.0] * 4  # no image box, no difficulty
    instances[2]['bbox_label'] = instances[2]['bbox_label_3d'] = 3
    region = dict(bbox=[5, 6, 7, 8], bbox_3d=[-1000.0] * 3 + [-1.0] * 3 + [-10.0])
    other = dict(region, bbox_3d=[0.0] * 3 + [1.0] * 4)
    for each in (region, other):
        instances.append({**instances[0], 'bbox_label': -1, 'bbox_label_3d': -1, **each})
    write_plain(infos, path)
    objects = read_ground_truth(config, root / 'training/velodyne/000001.bin')
    files = KittiObjects.from_file(root / 'training/label_2/000001.txt')
    calib = KittiCalib.from_file(root / 'training/calib/000001.txt')
    boxes = files.boxes_lidar(calib)
    assert np.allclose(objects.boxes[:, :6], boxes[:, :6], atol=1e-4)
    turn = objects.boxes[:, 6] - boxes[:, 6]
    assert np.allclose([np.sin(turn), np.cos(turn)], [[0], [1]], atol=1e-5)
    names = files.names.tolist()
    names[2] = 'Van'
    assert objects.names.tolist() == names
    assert objects.counted.tolist() == [False, *[True] * 5]
    assert objects.dontcare.tolist() == [[5, 6, 7, 8]]
    for seen, wanted in zip(
        objects.calib.camera_to_image(objects.calib.lidar_to_camera(boxes)),
        calib.camera_to_image(calib.lidar_to_camera(boxes)),
        strict=True,
    ):
        assert np.allclose(seen, wanted, atol=1e-6)


def test_sweeps_without_labels(labelled, tmp_path):
    config, root = labelled('kitti')
    sweep = root / 'training/velodyne/000001.bin'
    cut = root / 'training/velodyne_reduced/000001.bin'
    assert len(read_ground_truth(config, cut)) == len(read_ground_truth(config, sweep)) == 6
    copied = tmp_path / '000001.bin'  # of the same name, and perhaps of another data set
    copied.write_bytes(sweep.read_bytes())
    assert read_ground_truth(config, copied) is None
    link = tmp_path / 'link.bin'
    link.symlink_to(sweep)
    assert len(read_ground_truth(config, link)) == 6
    path = root / 'kitti_infos_val.pkl'
    infos = load_plain(path)
    del infos['data_list'][0]['instances']  # a test split
    write_plain(infos, path)
    assert read_ground_truth(config, sweep) is None
    path.write_bytes(b'cut')
    with pytest.raises(InfoFileError, match='truncated'):
        read_ground_truth(config, sweep)
    path.unlink()
    assert len(read_ground_truth(config, sweep.with_name('000000.bin'))) == 6  # of train


# -------------------------------------------------------------------------------------- figure


@pytest.fixture
def views():
    """Scratch finds the car and nothing else right; the other one finds both counted objects."""
    person, van = (20.0, -5, -0.8, 0.8, 0.6, 1.8, 1.0), (30.0, 8, -1, 5, 2, 2, 0.5)
    objects = truth(('Car', CAR), ('Pedestrian', person), ('Van', van), ('Car', moved(CAR, x=90)))
    scratch = [('Car', 0.9, CAR), ('Car', 0.5, moved(CAR, y=-15)), ('Car', 0.1, moved(CAR, x=9))]
    trained = [('Car', 0.8, CAR), ('Pedestrian', 0.7, person), ('Car', 0.6, van)]
    detectors = {'scratch': found(*scratch), 'AD-L-JEPA': found(*trained)}
    return compare_detections(detectors, objects, RANGE, LIMITS, 0.3, 'frame 7')


def gids(ax):
    return sorted(patch.get_gid() for patch in ax.patches if patch.get_gid())


def test_panels_of_the_same_frame(views):
    assert [panel.summary for panel in views.panels] == [
        'scratch: 1 of 2 objects found, 1 false',  # the car 100 m away is out of range
        'AD-L-JEPA: 2 of 2 objects found, 0 false',
    ]
    figure = detections_figure(views)
    left, right = figure.axes
    same = ['truth:found', 'truth:missed', 'truth:not counted']
    assert gids(left) == ['detection:false', 'detection:right', *same]
    # the van is excused for a car, as in KITTI
    assert gids(right) == [
        *['detection:excused', 'detection:right', 'detection:right'],
        *['truth:found', 'truth:found', 'truth:not counted'],
    ]
    assert left.get_title() == views.panels[0].summary
    assert [text.get_text() for text in left.texts] == ['0.90', '0.50']
    for ax in figure.axes:
        assert '(m)' in ax.get_xlabel()
        assert ax.get_xlim() == (0, 40) and ax.get_ylim() == (-20, 20)
        assert ax.get_aspect() == 1
    assert '(m)' in left.get_ylabel()
    (legend,) = figure.legends
    words = {text.get_text() for text in legend.get_texts()}
    assert {*NAMES, 'right', 'false (crossed)', 'ground truth, missed'} <= words
    title = figure.get_suptitle()
    assert 'frame 7' in title and '0.7 (Car); 1 labelled out of range' in title


def test_boxes_stand_where_they_are_and_tell_their_front(views):
    box = np.array([[10, 5, -1, 4, 2, 1.5, np.pi / 2]])  # towards +y, left
    corners = bev_corners(box)[0]
    assert np.allclose(corners, [[11, 7], [9, 7], [9, 3], [11, 3]])
    detectors = {'one': found(('Car', 0.9, box[0]))}
    figure = detections_figure(compare_detections(detectors, None, RANGE, LIMITS))
    (ax,) = figure.axes
    (patch,) = ax.patches
    assert patch.get_gid() == 'detection:unknown'
    assert np.allclose(patch.get_xy()[:4], corners)
    (heading,) = [line for line in ax.lines if line.get_gid() == 'heading']
    assert np.allclose(heading.get_xydata(), [[10, 5], [10, 7.5]])
    assert ax.get_title() == 'one: 1 detection, no ground truth'
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert words == {*NAMES, 'detection'}


def pixels(figure, ax, x, y):
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    column, row = ax.transData.transform((x, y))
    return image[round(image.shape[0] - row), round(column)]


def test_pixels_tell_missed_from_found(views):
    figure = detections_figure(views)
    left, right = figure.axes
    # inside the pedestrian's box, behind its heading tick
    missed = pixels(figure, left, 19.89, -5.17)
    assert missed[0] > 200 and missed[1] > 180 and missed[2] < 180, missed  # yellow
    seen = pixels(figure, right, 19.89, -5.17)
    assert seen[2] > 180, seen
    blue = pixels(figure, left, 9, 5.4)  # the car, filled lightly in its class's colour
    assert blue[2] > blue[0] + 30, blue
    hollow = pixels(figure, left, 9, -9.6)  # a false one isn't filled
    assert hollow.min() > 230 or hollow.std() < 5, hollow


def test_a_class_keeps_its_colour():
    colours = class_colours(NAMES)
    assert colours == class_colours(('Car', 'Pedestrian', 'Cyclist'))
    assert len(set(colours.values())) == 3
    assert len(set(CLASS_COLOURS)) == 10  # nuScenes has ten classes
    assert len(class_colours([str(i) for i in range(12)])) == 12


def test_an_object_beyond_the_range_counts_if_somebody_found_it():
    edge, far = moved(CAR, x=30.2), moved(CAR, x=60)
    detectors = {'a': found(('Car', 0.9, edge)), 'b': found()}
    views = compare_detections(detectors, truth(('Car', edge), ('Car', far)), RANGE, LIMITS)
    assert [panel.summary[3:] for panel in views.panels] == [
        *['1 of 1 objects found, 0 false', '0 of 1 objects found, 0 false']
    ]
    assert views.beyond == 1 and len(views.truth) == 1


def test_threshold():
    kept = above(found(('Car', 0.3, CAR), ('Cyclist', 0.29, CAR)), 0.3)
    assert kept['labels'].tolist() == [2] and len(kept['boxes']) == 1
    assert kept['names'] == NAMES


def test_detectors_of_other_classes_are_not_compared():
    other = dict(found(), names=('Car',))
    with pytest.raises(ValueError, match='panels beside each other need the same'):
        compare_detections({'a': found(), 'b': other}, None, RANGE, LIMITS)


def test_empty_frames_are_drawn(tmp_path):
    views = compare_detections({'a': found()}, truth(), RANGE, LIMITS)
    path = save_figure(detections_figure(views), tmp_path / 'empty.png', dpi=30)
    assert path.read_bytes()[:4] == b'\x89PNG'
    assert views.panels[0].summary == 'a: 0 of 0 objects found, 0 false'


# -------------------------------------------------------------------------------------- viewer


def test_lines_of_boxes():
    boxes = np.array([[1.0, 2, 3, 4, 2, 1, 0], [0, 0, 0, 4, 2, 1, np.pi / 2]])
    vertices, edges = viewer.box_lines(boxes)
    assert vertices.shape == (20, 3) and edges.shape == (26, 2)
    assert np.allclose(vertices[:8].min(axis=0), [-1, 1, 2.5])
    assert np.allclose(vertices[:8].max(axis=0), [3, 3, 3.5])
    lengths = np.linalg.norm(np.diff(vertices[edges], axis=1)[:, 0], axis=1).reshape(2, 13)
    assert np.allclose(np.sort(lengths[0]), [*[1] * 4, *[2] * 4, 3, *[4] * 4])
    # the nose of the second one, which looks to the left
    assert np.allclose(vertices[19], [0, 3, 0])
    assert len(viewer.box_lines(np.zeros((0, 7)))[1]) == 0


def test_colours_in_the_window(views):
    (objects, shades), (boxes, colours) = viewer.panel_boxes(views, views.panels[0])
    assert len(objects) == len(shades) == 3
    assert shades[:2].tolist() == [[0, 0, 0], [1, 0, 0]]  # found, missed
    assert len(boxes) == len(colours) == 2
    assert (colours[0] == colours[1]).all()


def test_no_window_without_a_display(monkeypatch):
    monkeypatch.setattr(viewer.sys, 'platform', 'linux')
    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    assert 'no display' in viewer.show(np.zeros((3, 4)), [], 'title')
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setitem(viewer.sys.modules, 'open3d', None)
    assert "pip install 'mmjepa[lidar]'" in viewer.no_window()


class FakeWindow:
    opens = True

    def __init__(self):
        self.shown, self.option = [], types.SimpleNamespace(point_size=0)
        FakeWindow.last = self

    def create_window(self, title, width, height):
        self.title = title
        return self.opens

    def add_geometry(self, geometry):
        self.shown.append(geometry)

    def get_render_option(self):
        return self.option

    def get_view_control(self):
        nothing = lambda value: None  # noqa: E731
        return types.SimpleNamespace(
            set_front=nothing, set_up=nothing, set_lookat=nothing, set_zoom=nothing
        )

    def run(self):
        self.ran = True

    def destroy_window(self):
        self.closed = True


@pytest.fixture
def open3d(monkeypatch):
    """The parts of open3d that the viewer uses; geometries are plain namespaces."""
    fake = types.ModuleType('open3d')
    fake.utility = types.SimpleNamespace(Vector3dVector=np.asarray, Vector2iVector=np.asarray)
    fake.geometry = types.SimpleNamespace(
        PointCloud=lambda points: types.SimpleNamespace(points=points),
        LineSet=lambda points, lines: types.SimpleNamespace(points=points, lines=lines),
    )
    fake.visualization = types.SimpleNamespace(Visualizer=FakeWindow)
    monkeypatch.setitem(viewer.sys.modules, 'open3d', fake)
    monkeypatch.setenv('DISPLAY', ':0')
    monkeypatch.setattr(FakeWindow, 'opens', True)
    return fake


def test_a_window_where_there_is_a_display(views, open3d):
    panel = views.panels[0]
    assert viewer.show(views.points, viewer.panel_boxes(views, panel), 'scratch') is None
    window = FakeWindow.last
    assert window.title == 'scratch' and window.ran and window.closed
    cloud, objects, detections = window.shown
    assert cloud.points.shape == cloud.colors.shape == (800, 3)
    assert objects.lines.shape == (39, 2) and objects.colors.shape == (39, 3)
    assert detections.lines.shape == (26, 2)
    FakeWindow.opens = False
    assert 'could not open' in viewer.show(views.points, [], 'scratch')
