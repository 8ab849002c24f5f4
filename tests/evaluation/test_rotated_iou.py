import math

import numpy as np
import pytest
import torch

from mmjepa.datasets.kitti import KittiCalib, KittiObjects
from mmjepa.evaluation.functional import (
    frame_pairs,
    overlaps_3d,
    paired_overlaps,
    paired_overlaps_3d,
    rotated_iou,
    rotated_overlaps,
)
from mmjepa.evaluation.functional.frame_pairs import same_frame_overlaps
from mmjepa.evaluation.functional.rotated_iou import camera_boxes_upright, paired_image_overlaps

YAWS = [0.0, 0.3, math.pi / 4, math.pi / 2, 2.0, -3.0, 7.5]


def random_boxes(n, seed, spread=4.0):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g, dtype=torch.float64) * spread
    size = torch.rand(n, 2, generator=g, dtype=torch.float64) * 4 + 0.2
    yaw = torch.rand(n, 1, generator=g, dtype=torch.float64) * 20 - 10
    return torch.cat([centre, size, yaw], dim=1)


def random_boxes_3d(n, seed):
    flat = random_boxes(n, seed)
    g = torch.Generator().manual_seed(seed + 1000)
    height = torch.rand(n, 2, generator=g, dtype=torch.float64) * 2 + 0.1
    return torch.cat([flat[:, :2], height[:, :1], flat[:, 2:4], height[:, 1:], flat[:, 4:]], dim=1)


def moved(box, along=0.0, across=0.0, turn=0.0, longer=0.0, wider=0.0):
    """The box, shifted in its own axes, turned and resized."""
    x, y, dx, dy, yaw = box.tolist()
    cos, sin = math.cos(yaw), math.sin(yaw)
    x, y = x + cos * along - sin * across, y + sin * along + cos * across
    return torch.tensor([x, y, dx + longer, dy + wider, yaw + turn], dtype=torch.float64)


def assert_close(found, expected, atol=1e-12):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def one(box, other, criterion='iou'):
    return paired_overlaps(box[None], other[None], criterion).item()


def shapely_areas(first, second):
    geometry = pytest.importorskip('shapely.geometry')

    def polygon(x, y, dx, dy, yaw):
        cos, sin = math.cos(yaw), math.sin(yaw)
        corners = [(u * dx / 2, v * dy / 2) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        return geometry.Polygon(
            [(x + cos * a - sin * b, y + sin * a + cos * b) for a, b in corners]
        )

    pairs = zip(first.tolist(), second.tolist(), strict=True)
    areas = [polygon(*a).intersection(polygon(*b)).area for a, b in pairs]
    return torch.tensor(areas, dtype=torch.float64)


def test_areas_equal_shapelys():
    first, second = random_boxes(600, 0), random_boxes(600, 1)
    expected = shapely_areas(first, second)
    assert 0.3 < (expected > 0).float().mean() < 0.9
    area = paired_overlaps(first, second, 'intersection')
    assert_close(area, expected)


@pytest.mark.parametrize('yaw', YAWS)
@pytest.mark.parametrize(
    ('change', 'intersection'),
    [
        ({}, 8.0),
        ({'turn': math.pi}, 8.0),
        ({'turn': -math.pi}, 8.0),
        ({'turn': 2 * math.pi}, 8.0),
        ({'longer': 0.01}, 8.0),  # same centre and yaw, 1 cm longer
        ({'longer': 0.01, 'turn': math.pi}, 8.0),
        ({'longer': -1e-9}, 8.0),
        ({'longer': 3.0, 'wider': 3.0}, 8.0),  # contained
        ({'longer': -3.0, 'wider': -1.0}, 1.0),
        ({'along': 1.0, 'longer': -2.0}, 4.0),  # contained, three shared edges
        ({'along': 1.0}, 6.0),  # slid along two edges
        ({'across': -0.5}, 6.0),
        ({'along': 4.0}, 0.0),  # touching edges
        ({'across': 2.0}, 0.0),
        ({'along': 4.0, 'across': 2.0}, 0.0),  # touching corners
        ({'along': 40.0}, 0.0),
        ({'turn': math.pi / 2}, 4.0),  # a cross
        ({'turn': 1e-12}, 8.0),
        ({'along': 1e-13}, 8.0),
    ],
)
def test_coincident_edges(yaw, change, intersection):
    box = torch.tensor([31.7, -12.3, 4.0, 2.0, yaw], dtype=torch.float64)
    other = moved(box, **change)
    for a, b in ((box, other), (other, box)):
        assert one(a, b, 'intersection') == pytest.approx(intersection, abs=1e-8)
        union = a[2] * a[3] + b[2] * b[3] - intersection
        assert one(a, b) == pytest.approx(intersection / union.item(), abs=1e-8)
        assert one(a, b, 'first') == pytest.approx(intersection / (a[2] * a[3]).item(), abs=1e-8)
    assert shapely_areas(box[None], other[None]).item() == pytest.approx(intersection, abs=1e-8)


@pytest.mark.parametrize('size', [(0.0, 2.0), (4.0, 0.0), (0.0, 0.0), (-1.0, -1.0), (-1.0, 2.0)])
def test_boxes_without_area_overlap_nothing(size):
    empty = torch.tensor([1.0, 1.0, *size, 0.2], dtype=torch.float64)
    solid = torch.tensor([1.0, 1.0, 4.0, 2.0, 0.2], dtype=torch.float64)
    for criterion in ('iou', 'first', 'intersection'):
        assert one(empty, solid, criterion) == 0.0
        assert one(solid, empty, criterion) == 0.0
        assert one(empty, empty, criterion) == 0.0


def test_a_box_is_itself_and_order_does_not_matter():
    first, second = random_boxes(500, 2), random_boxes(500, 3)
    assert_close(paired_overlaps(first, first), torch.ones(500).double())
    iou = paired_overlaps(first, second)
    assert_close(iou, paired_overlaps(second, first))
    assert (iou >= 0).all() and (iou <= 1).all()


@pytest.mark.parametrize(('angle', 'shift'), [(0.0, 1e5), (1.1, 0.0), (math.pi, -3e4)])
def test_moving_both_changes_nothing(angle, shift):
    first, second = random_boxes(300, 4), random_boxes(300, 5)
    turn = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    )

    def move(boxes):
        boxes = boxes.clone()
        boxes[:, :2] = boxes[:, :2] @ turn + shift
        boxes[:, 4] += angle
        return boxes

    expected = paired_overlaps(first, second)
    assert_close(paired_overlaps(move(first), move(second)), expected, 1e-6 if shift else 1e-12)


def test_matrix_is_the_pairs_in_blocks_of_any_size(monkeypatch):
    first, second = random_boxes(40, 6, spread=12), random_boxes(30, 7, spread=12)
    i, j = torch.cartesian_prod(torch.arange(40), torch.arange(30)).unbind(1)
    expected = paired_overlaps(first[i], second[j]).view(40, 30)
    assert 0 < (expected > 0).sum() < 1200
    assert_close(rotated_overlaps(first, second), expected)
    monkeypatch.setattr(rotated_iou, '_CANDIDATES_AT_A_TIME', 70)
    monkeypatch.setattr(rotated_iou, '_PAIRS_AT_A_TIME', 7)
    assert_close(rotated_overlaps(first, second), expected)
    assert rotated_overlaps(first[:0], second).shape == (0, 30)
    assert rotated_overlaps(first, second[:0]).shape == (40, 0)


def test_float32_boxes_are_computed_in_float64():
    first = random_boxes(50, 8)
    assert paired_overlaps(first.float(), first.float()).dtype == torch.float64
    assert_close(paired_overlaps(first.float(), first.float()), torch.ones(50).double())


def test_volumes_count_the_shared_height():
    box = torch.tensor([[0, 0, 1.0, 4, 2, 2, 0.3]]).double()
    above = box.clone()
    above[:, 2] += 1.5  # heights 0..2 and 1.5..3.5
    assert paired_overlaps_3d(box, above, 'intersection').item() == pytest.approx(4.0)
    assert paired_overlaps_3d(box, above).item() == pytest.approx(4 / 28)
    assert paired_overlaps_3d(box, above, 'first').item() == pytest.approx(0.25)
    for lift in (0.5, 0.5):  # they touch, then they don't
        above[:, 2] += lift
        for criterion in ('iou', 'first', 'intersection'):
            assert paired_overlaps_3d(box, above, criterion).item() == 0.0
    boxes = random_boxes_3d(100, 9)
    assert_close(overlaps_3d(boxes, boxes).diagonal(), torch.ones(100).double())


def test_camera_boxes_overlap_as_their_lidar_boxes(tmp_path):
    """The turn direction: rotation_y is clockwise seen from above."""
    calib = KittiCalib(
        p2=np.eye(3, 4),
        r0=np.eye(3),
        velo_to_cam=np.array([[0, -1.0, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3]]),
    )
    rng = np.random.default_rng(0)
    count = 60
    objects = KittiObjects(
        names=np.full(count, 'Car'),
        truncated=np.zeros(count),
        occluded=np.zeros(count, dtype=np.int64),
        alpha=np.zeros(count),
        bbox=np.zeros((count, 4)),
        dims=rng.uniform(1, 4, (count, 3)),
        location=rng.uniform((-6, 1, 5), (6, 2, 17), (count, 3)),
        rotation_y=rng.uniform(-4, 4, count),
    )
    lidar = torch.from_numpy(objects.boxes_lidar(calib))
    camera = camera_boxes_upright(
        torch.from_numpy(objects.location),
        torch.from_numpy(objects.dims[:, [2, 0, 1]].copy()),
        torch.from_numpy(objects.rotation_y),
    )
    expected = overlaps_3d(lidar, lidar)
    assert (expected > 0).sum() > 2 * count
    assert_close(overlaps_3d(camera, camera), expected, 1e-9)
    wrong = camera.clone()
    wrong[:, 6] *= -1
    assert (overlaps_3d(wrong, wrong) - expected).abs().max() > 0.05


def test_image_boxes():
    first = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]]).double()
    second = torch.tensor([[5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [0, 0, 9, 9]]).double()
    assert paired_image_overlaps(first, second).tolist() == pytest.approx([1 / 3, 0, 0.04, 0])
    assert paired_image_overlaps(second, first, 'first').tolist() == pytest.approx([0.5, 0, 1, 0])


def test_pairs_stay_within_their_frame(monkeypatch):
    counts = (torch.tensor([3, 0, 5, 2, 0, 4]), torch.tensor([4, 2, 0, 6, 0, 1]))
    first, second = random_boxes(14, 10), random_boxes(13, 11)
    expected = torch.zeros(14, 13).double()
    starts = [c.cumsum(0) - c for c in counts]
    for f in range(6):
        rows = slice(int(starts[0][f]), int(starts[0][f] + counts[0][f]))
        columns = slice(int(starts[1][f]), int(starts[1][f] + counts[1][f]))
        expected[rows, columns] = rotated_overlaps(first[rows], second[columns])
    expected[expected <= 0.1] = 0
    for limit in (1 << 21, 5):
        monkeypatch.setattr(frame_pairs, '_CANDIDATES_AT_A_TIME', limit)
        pairs = same_frame_overlaps(first, second, *counts, paired_overlaps, 0.1)
        found = torch.zeros(14, 13).double()
        found[pairs.first, pairs.second] = pairs.overlap
        assert_close(found, expected)
        assert len(pairs.first) == (expected > 0).sum() > 5
    none = torch.zeros(0, dtype=torch.int64)
    assert len(same_frame_overlaps(first[:0], second[:0], none, none, paired_overlaps).overlap) == 0


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda b: paired_overlaps(b[:, :4], b), r'boxes must be \(N, 5\), got \(3, 4\)'),
        (lambda b: paired_overlaps(b, b[:2]), 'equally many boxes, got 3 and 2'),
        (lambda b: paired_overlaps(b, b, 'giou'), "got 'giou'"),
        (lambda b: rotated_overlaps(b, b / 0), 'box 0 is not finite'),
        (
            lambda b: same_frame_overlaps(
                b, b, torch.tensor([3]), torch.tensor([2]), paired_overlaps
            ),
            'do not fit 3 and 3 boxes',
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_boxes(3, 12))


@pytest.mark.cuda
def test_cuda_gives_the_same():
    first, second = random_boxes_3d(300, 13), random_boxes_3d(200, 14)
    expected = overlaps_3d(first, second)
    found = overlaps_3d(first.cuda(), second.cuda())
    assert found.is_cuda
    assert_close(found.cpu(), expected)
