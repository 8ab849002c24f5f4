import math

import numpy as np
import pytest
from kitti_loops import seconds_on_one_core
from once_loops import frame_overlaps, loop_ap, random_frames

from mmjepa.evaluation.functional import once_ap

SIZES = {'Pedestrian': (0.8, 0.8, 1.7), 'Cyclist': (1.8, 0.6, 1.7)}
PLACES = ('overall', '0_30m', '30_50m', '50m_up')


def frame(*objects, score=None):
    """Objects as (name, x) or (name, x, turn), at z = 0."""
    boxes = [
        (x, 0, 0, *SIZES.get(name, (4.5, 1.8, 1.6)), 0.4 + sum(turn)) for name, x, *turn in objects
    ]
    result = {'name': [o[0] for o in objects], 'boxes_3d': np.array(boxes).reshape(-1, 7)}
    if score is not None:
        result['score'] = np.array(score, dtype=float)
    return result


def scored(frames, score=0.5):
    return [dict(f, score=np.full(len(f['name']), score)) for f in frames]


def metrics(truths, found):
    return once_ap(truths, found).metrics


@pytest.mark.parametrize('count', [1, 3, 60])
def test_a_perfect_detector_with_any_number_of_objects(count):
    truths = [frame(('Car', 10), ('Pedestrian', 35), ('Cyclist', 60))] * count
    result = once_ap(truths, scored(truths))
    for name, place in (('Vehicle', '0_30m'), ('Pedestrian', '30_50m'), ('Cyclist', '50m_up')):
        for where in PLACES:
            there = where in ('overall', place)
            assert result.metrics[f'{name}_num_gt_{where}'] == (count if there else 0)
            value = result.metrics[f'{name}_ap_{where}']
            assert value == pytest.approx(100) if there else math.isnan(value)
    assert all(result.metrics[f'mean_ap_{where}'] == pytest.approx(100) for where in PLACES)
    assert 'Vehicle @0.70' in result.table
    assert any('no Cyclist' in note and '0_30m, 30_50m' in note for note in result.notes)


def test_no_detections_and_no_ground_truth():
    truths = [frame(('Car', 10))] * 3
    assert metrics(truths, [frame(score=[])] * 3)['Vehicle_ap_overall'] == 0
    nothing = metrics([frame()] * 3, scored(truths))
    assert math.isnan(nothing['Vehicle_ap_overall']) and math.isnan(nothing['mean_ap_overall'])


def test_cars_buses_and_trucks_are_one_class():
    truths = [frame(('Car', 10), ('Bus', 20), ('Truck', 29))]
    found = [frame(('Truck', 10), ('Car', 20), ('Vehicle', 29), score=[0.9, 0.8, 0.7])]
    assert metrics(truths, found)['Vehicle_ap_0_30m'] == pytest.approx(100)
    assert metrics(truths, found)['Vehicle_num_gt_overall'] == 3


@pytest.mark.parametrize(
    ('degrees', 'right'), [(0, True), (80, True), (-80, True), (100, False), (180, False),
                           (-100, False), (280, True), (360 + 80, True), (360 + 180, False)]
)  # fmt: skip
def test_heading_within_90_degrees(degrees, right):
    truths = [frame(('Pedestrian', 10))] * 5
    found = scored([frame(('Pedestrian', 10, math.radians(degrees)))] * 5)
    assert metrics(truths, found)['Pedestrian_ap_overall'] == pytest.approx(100 if right else 0)


@pytest.mark.parametrize(('name', 'iou'), [('Car', 0.7), ('Pedestrian', 0.3), ('Cyclist', 0.5)])
def test_iou_of_the_class(name, iou):
    truths = [frame((name, 10))] * 5
    for above in (True, False):
        # a box of the same footprint and another height: IoU = the ratio of the heights
        found = scored(truths)
        for f in found:
            f['boxes_3d'] = f['boxes_3d'] * 1.0
            f['boxes_3d'][:, 5] *= iou + (0.01 if above else -0.01)
        value = metrics(truths, found)[f'{"Vehicle" if name == "Car" else name}_ap_overall']
        assert value == pytest.approx(100 if above else 0)


def test_one_false_positive():
    truths = [frame(('Car', 10), ('Car', 20))]
    found = [frame(('Car', 10), ('Car', 28), ('Car', 20), score=[0.9, 0.8, 0.7])]
    # two hits: the first serves recall up to 3/4 (points 0.02 ... 0.74, precision 1), the second
    # the rest (0.76 ... 1, precision 2/3)
    expected = 100 * (37 + 13 * 2 / 3) / 50
    assert metrics(truths, found)['Vehicle_ap_overall'] == pytest.approx(expected)
    assert metrics(truths, found)['Vehicle_ap_0_30m'] == pytest.approx(expected)


@pytest.mark.parametrize(
    ('truths', 'hits', 'points'),
    [
        (2, 1, 25),
        (4, 2, 25),
        (4, 3, 37),  # 0.74 < 3/4 < 0.76
        (200, 100, 25),
        (200, 101, 26),  # recall .505: the last score serves the point above it
    ],
)
def test_misses_cost_recall(truths, hits, points):
    all_frames = [frame(('Car', 10))] * truths
    scores = np.linspace(0.9, 0.1, hits)
    found = [frame(('Car', 10), score=[s]) for s in scores]
    found += [frame(score=[])] * (truths - hits)
    assert metrics(all_frames, found)['Vehicle_ap_overall'] == pytest.approx(100 * points / 50)


def test_distance_is_to_the_centre_in_space_and_others_are_ignored():
    truths = [frame(('Car', 29.9), ('Car', 30), ('Car', 49.9), ('Car', 50))]
    truths[0]['boxes_3d'][0, 2] = 4.0  # 30.2 m away
    counts = metrics(truths, scored(truths))
    assert [counts[f'Vehicle_num_gt_{where}'] for where in PLACES] == [4, 0, 3, 1]
    # a false positive 10 m away harms nobody at 30 m and more
    found = [frame(('Car', 30), ('Car', 49.9), ('Car', 10), score=[0.5, 0.5, 0.9])]
    far = metrics([frame(('Car', 30), ('Car', 49.9))], found)
    assert far['Vehicle_ap_30_50m'] == pytest.approx(100)
    assert far['Vehicle_ap_overall'] == pytest.approx(100 * 2 / 3)
    # finding an object this side of 30 m a little beyond it is no mistake
    found = [frame(('Car', 30.05), ('Car', 40), score=[0.9, 0.5])]
    near = metrics([frame(('Car', 29.95), ('Car', 40))], found)
    assert near['Vehicle_num_gt_30_50m'] == 1
    assert near['Vehicle_ap_30_50m'] == pytest.approx(100)
    # a detection this side of 30 m of an object beyond it is ignored, and so is the object here
    across = metrics([frame(('Car', 30.05), ('Car', 40))], [frame(('Car', 29.95), score=[0.5])])
    assert across['Vehicle_ap_30_50m'] == 0
    assert math.isnan(across['Vehicle_ap_0_30m'])


def test_other_classes_take_no_part_and_are_said():
    truths = [frame(('Car', 10), ('Tricycle', 20))]
    result = once_ap(truths, scored(truths))
    assert result.metrics['Vehicle_ap_overall'] == pytest.approx(100)
    assert result.notes[0] == '1 ground truths of other classes take no part: Tricycle'
    assert 'detections of other classes' in result.notes[1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t, d: ([], [], None), 'at least one'),
        (lambda t, d: (t, d * 2, None), 'got 1 with ground truth and 2 with detections'),
        (lambda t, d: (t, t, None), 'detections of frame 0 lacks score'),
        (lambda t, d: ([dict(t[0], boxes_3d=np.zeros((2, 6)))], d, None), r'boxes_3d \(2, 6\)'),
        (lambda t, d: (t, [dict(d[0], score=[0.5])], None), r'score \(1,\)'),
        (lambda t, d: ([dict(t[0], boxes_3d=np.full((2, 7), np.nan))], d, None), 'not finite'),
        (lambda t, d: (t, d, {'Vehicle': 70}), r'numbers in \(0, 1\)'),
        (lambda t, d: (t, d, {}), r'numbers in \(0, 1\)'),
    ],
)
def test_bad_input(change, message):
    truths = [frame(('Car', 10), ('Car', 20))]
    truths, found, min_iou = change(truths, scored(truths))
    with pytest.raises(ValueError, match=message):
        once_ap(truths, found, min_iou)


@pytest.mark.parametrize(('seed', 'count'), [(0, 20), (1, 60), (2, 3)])
def test_equals_the_loops(seed, count):
    truths, found = random_frames(seed, count)
    overlaps = [frame_overlaps(*pair) for pair in zip(truths, found, strict=True)]
    figures = metrics(truths, found)
    seen = 0
    for name in ('Vehicle', 'Pedestrian', 'Cyclist'):
        for place in PLACES:
            wanted = loop_ap(truths, found, overlaps, name, place)
            figure = figures[f'{name}_ap_{place}']
            assert figure == pytest.approx(wanted, abs=1e-9, nan_ok=True), (name, place)
            seen += 0 < wanted < 100
    assert seen > (3 if count == 3 else 10)


@pytest.mark.cuda
def test_the_same_on_a_gpu():
    truths, found = random_frames(0, 20)
    there = once_ap(truths, found, device='cuda').metrics
    assert there == pytest.approx(metrics(truths, found), nan_ok=True)


def test_a_thousand_frames_with_fifty_detections_take_less_than_a_minute():
    truths, found = random_frames(7, 1000, num_truths=(5, 16), num_detections=50)
    assert seconds_on_one_core(once_ap, truths, found) < 60
