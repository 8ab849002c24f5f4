import math

import numpy as np
import pytest

from mmjepa.evaluation.probes.bev_cells import BEVGrid, CellRule, cell_statistics, label_cells

RANGE = (0.0, -4.0, -3.0, 8.0, 4.0, 1.0)
GRID = BEVGrid.from_map(RANGE, (8, 8))  # cells of 1 m, row 0 at y = -4


def box(x, y, size=1.0, yaw=0.0):
    return [x, y, 0.0, size, size, 2.0, yaw]


def cell_of(x, y):
    return int(GRID.cell_index(np.array([[x, y, 0.0]]))[0])


def labels_of(points, boxes, types, rule=None, unlabelled=None):
    points = np.array(points, dtype=np.float32)
    result = label_cells(
        points, np.array(boxes).reshape(-1, 7), types, GRID, rule or CellRule(), unlabelled
    )
    return dict(zip(result.cells.tolist(), result.labels.tolist(), strict=True)), result


def test_cells_of_points():
    points = np.array(
        [
            [0, -4, 0],
            [7.999, 3.999, 0],
            [2.5, 0.5, -3],
            [8, 0, 0],  # the upper faces are outside
            [1, 0, 1],
            [-0.1, 0, 0],
            [np.nan, 0, 0],
        ]
    )
    assert GRID.cell_index(points).tolist() == [0, 63, 4 * 8 + 2, -1, -1, -1, -1]


def test_grid_follows_voxels_and_stride():
    # 44 voxels of 0.2 m at stride 8: 5.5 cells, so the map has 6 and the last one hangs over
    limits = (0, 0, -3, 8.8, 3.2, 1)
    grid = BEVGrid.from_map(limits, (2, 6), voxel_size=(0.2, 0.2, 0.1), stride=8)
    assert (grid.cell_x, grid.cell_y) == pytest.approx((1.6, 1.6))
    assert grid.cell_index(np.array([[8.79, 3.1, 0]])).tolist() == [11]
    with pytest.raises(ValueError, match='does not fit'):
        BEVGrid.from_map(limits, (2, 5), voxel_size=(0.2, 0.2, 0.1), stride=8)
    with pytest.raises(ValueError, match='point_cloud_range'):
        BEVGrid.from_map((0, 0, 0, -1, 1, 1), (2, 2))


def test_object_background_and_empty_cells():
    labels, _ = labels_of(
        [[0.5, 0.5, 0], [0.5, 0.4, -1.5], [3.5, 0.5, 0]], [box(0.5, 0.5)], ['Cyclist']
    )
    # the ground point under the box doesn't change the class; cells without points are no samples
    assert labels == {cell_of(0.5, 0.5): 3, cell_of(3.5, 0.5): 0}


def test_rotated_box_decides_by_points_not_by_overlap():
    long = [2.5, 0.5, 0.0, 4.0, 0.2, 2.0, math.pi / 4]  # diagonal
    labels, _ = labels_of([[3.5, 1.5, 0], [3.9, 1.1, 0], [3.5, 0.5, 0]], [long], ['Car'])
    assert labels == {cell_of(3.5, 1.5): 1, cell_of(3.5, 0.5): 0}


def test_mixed_cells_need_a_clear_majority():
    boxes, types = [box(0.25, 0.5, 0.5), box(0.75, 0.5, 0.4)], ['Car', 'Pedestrian']
    car, walker = [0.25, 0.5, 0], [0.75, 0.5, 0]
    assert labels_of([car, walker], boxes, types)[0] == {}
    assert labels_of([car, car, walker], boxes, types)[0] == {cell_of(0.5, 0.5): 1}
    assert labels_of([car, car, walker], boxes, types, CellRule(purity=0.7))[0] == {}


def test_other_types_are_ignored_merged_or_evaluated():
    points, boxes = [[0.5, 0.5, 0]], [box(0.5, 0.5)]
    labels, frame = labels_of(points, boxes, ['Van'])
    assert labels == {}
    assert frame.ignored == 1
    cell = cell_of(0.5, 0.5)
    assert labels_of(points, boxes, ['Van'], CellRule(merge={'Van': 'Car'}))[0] == {cell: 1}
    own = CellRule(classes=('Car', 'Van'))
    assert labels_of(points, boxes, ['Van'], own)[0] == {cell: 2}
    assert own.names == ('background', 'Car', 'Van')


def test_unlabelled_points_hide_background_but_not_objects():
    points = [[0.5, 0.5, 0], [0.5, 0.6, -2], [3.5, 0.5, 0], [3.5, 0.6, 0], [5.5, 0.5, 0]]
    hidden = np.array([False, True, False, True, False])
    labels, frame = labels_of(points, [box(0.5, 0.5)], ['Car'], unlabelled=hidden)
    assert labels == {cell_of(0.5, 0.5): 1, cell_of(5.5, 0.5): 0}
    assert frame.ignored == 1


def test_min_box_points():
    points, boxes = [[0.5, 0.5, 0], [0.6, 0.5, 0]], [box(0.5, 0.5)]
    assert labels_of(points, boxes, ['Car'], CellRule(min_box_points=2))[0] != {}
    assert labels_of(points, boxes, ['Car'], CellRule(min_box_points=3))[0] == {}


def test_no_boxes_and_no_points():
    assert labels_of([[0.5, 0.5, 0]], [], [])[0] == {cell_of(0.5, 0.5): 0}
    assert labels_of(np.zeros((0, 4)), [], [])[0] == {}


def test_statistics_closed_form():
    points = np.array(
        [[0.5, 0.5, -1, 0.2], [0.5, 0.5, 1, 0.6], [2.5, 0.5, 0.5, 0.3], [9, 9, 9, 9]], np.float32
    )
    cell = np.array([5, 5, 7, -1])
    table = cell_statistics(points, cell, np.array([5, 7]))
    expected = [
        [2, math.log(3), 0, -1, 1, 2, 1, 0.4, 0.2],
        [1, math.log(2), 0.5, 0.5, 0.5, 0, 0, 0.3, 0],
    ]
    assert np.allclose(table, expected, atol=1e-6)
    assert cell_statistics(points[:, :3], cell, np.array([5])).shape == (1, 7)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'classes': ('Car', 'Car')}, 'different'),
        ({'classes': ('background',)}, 'always'),
        ({'merge': {'Van': 'Bus'}}, 'merge'),
        ({'purity': 0.4}, 'purity'),
    ],
)
def test_impossible_rules_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        CellRule(**arguments)
