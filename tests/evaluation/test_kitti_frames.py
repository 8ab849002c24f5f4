import numpy as np
import pytest

from mmjepa.evaluation.probes.bev_cells import BEVGrid, CellRule, label_cells
from mmjepa.evaluation.probes.kitti_frames import assert_disjoint, kitti_frames, read_annotation

# camera = LiDAR turned: x right = -y, y down = -z, z ahead = x; focal length 700 px
CALIB = """P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
LABEL = """Car 0.00 0 0 0 0 50 50 1.5 1.6 4.0 2.0 1.0 10.0 0.0
DontCare -1 -1 -10 600 100 700 200 -1 -1 -1 -1000 -1000 -1000 -10
"""


@pytest.fixture
def root(tmp_path):
    for name in ('velodyne', 'label_2', 'calib'):
        (tmp_path / 'training' / name).mkdir(parents=True)
    (tmp_path / 'ImageSets').mkdir()
    ids = [f'{i:06d}' for i in range(6)]
    for i in ids:
        np.zeros((1, 4), np.float32).tofile(tmp_path / f'training/velodyne/{i}.bin')
        (tmp_path / f'training/label_2/{i}.txt').write_text(LABEL)
        (tmp_path / f'training/calib/{i}.txt').write_text(CALIB)
    (tmp_path / 'ImageSets/train.txt').write_text('\n'.join(ids))
    return tmp_path


def test_frames_of_a_split(root):
    frames = kitti_frames(root, 'train')
    assert [f.frame_id for f in frames] == [f'{i:06d}' for i in range(6)]
    assert [f.frame_id for f in kitti_frames(root, 'train', 3)] == ['000000', '000002', '000005']
    (root / 'training/label_2/000004.txt').unlink()
    with pytest.raises(FileNotFoundError, match='000004'):
        kitti_frames(root, 'train')
    with pytest.raises(FileNotFoundError, match='create_data'):
        kitti_frames(root, 'val')


def test_splits_must_not_share_frames():
    assert_disjoint(['1', '2'], ['3'], 'train and val')
    with pytest.raises(ValueError, match='train and val share 1 frames, such as 2'):
        assert_disjoint(['1', '2'], ['2', '3'], 'train and val')


def test_boxes_and_unlabelled_points(root):
    points = np.array(
        [
            [10, -2, -0.5, 0],  # in the car
            [20, -1, 0, 0],  # u = 635, v = 180: in the DontCare region
            [20, 1, 0, 0],  # u = 565: seen, no region
            [5, 20, 0, 0],  # beside the image
            [-20, 1, 0, 0],  # behind the camera, though its projection falls into the region
        ],
        np.float32,
    )
    annotation = read_annotation(kitti_frames(root, 'train')[0], points)
    assert annotation.types == ['Car']
    assert annotation.boxes[0] == pytest.approx([10, -2, -0.25, 4.0, 1.6, 1.5, -np.pi / 2])
    assert annotation.unlabelled.tolist() == [False, True, False, True, True]


def test_real_frames_have_cells_of_their_objects(shared_dir):
    training = shared_dir / 'data/kitti/training'
    from mmjepa.datasets.point_files import read_points
    from mmjepa.evaluation.probes.kitti_frames import KittiFrame

    frame_id = '000001'  # one car, one truck, one cyclist
    frame = KittiFrame(
        frame_id,
        training / f'velodyne/{frame_id}.bin',
        training / f'label_2/{frame_id}.txt',
        training / f'calib/{frame_id}.txt',
        training / f'image_2/{frame_id}.png',
    )
    points = read_points(frame.points)
    annotation = read_annotation(frame, points)
    assert sorted(annotation.types) == ['Car', 'Cyclist', 'Truck']
    grid = BEVGrid.from_map((0, -40, -3, 70.4, 40, 1), (200, 176), (0.05, 0.05, 0.1), 8)
    rule = CellRule(('Car', 'Truck', 'Cyclist'))
    cells = label_cells(
        points, annotation.boxes, annotation.types, grid, rule, annotation.unlabelled
    )
    # every cell of an object lies within reach of one of its boxes, and each object has cells
    rows, columns = np.divmod(cells.cells, grid.w)
    centre = np.stack([(columns + 0.5) * grid.cell_x, (rows + 0.5) * grid.cell_y - 40], 1)
    for label, name in enumerate(rule.classes, 1):
        own = annotation.boxes[[t == name for t in annotation.types]]
        chosen = centre[cells.labels == label]
        distance = np.linalg.norm(chosen[:, None] - own[None, :, :2], axis=-1).min(1)
        assert len(chosen)
        assert (distance < np.hypot(*own[0, 3:5]) / 2 + 0.4).all()
    assert (cells.labels == 0).sum() > 500
    # of a whole sweep's cells ahead, a good part lies outside the camera's view
    assert 0.2 < cells.ignored / (cells.ignored + len(cells.labels)) < 0.8
