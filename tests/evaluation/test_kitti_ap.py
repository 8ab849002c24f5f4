import json
import math
import os
import subprocess
import sys

import kitti_frames_random as random_frames
import numpy as np
import pytest
from kitti_loops import flags_of, loop_ap, seconds_on_one_core

from mmjepa.evaluation.functional import kitti_ap

ALL = ('Car', 'Pedestrian', 'Cyclist')
LEVELS = ('easy', 'moderate', 'hard')


def frame(*objects, score=None):
    """Objects as (name, place) or (name, place, changes); places are apart from each other."""
    rows = [(*o, {})[:3] for o in objects]
    count = len(rows)
    result = {
        'name': np.array([row[0] for row in rows], dtype=np.str_),
        'truncated': np.array([row[2].get('truncated', 0.0) for row in rows]),
        'occluded': np.array([row[2].get('occluded', 0) for row in rows]),
        'alpha': np.array([row[2].get('alpha', 0.3) for row in rows]),
        'bbox': np.array(
            [[100.0 * r[1], 100, 100 * r[1] + 60, 100 + r[2].get('height', 50)] for r in rows]
        ).reshape(count, 4),
        'dimensions': np.tile([4.0, 1.5, 1.6], (count, 1)),
        'location': np.array([[10.0 * row[1], 1.6, 20.0] for row in rows]).reshape(count, 3),
        'rotation_y': np.full(count, 0.3),
    }
    if score is not None:
        result['score'] = np.array(score, dtype=float)
    return result


def ap(truths, found, classes=('Car',), **kwargs):
    return kitti_ap(truths, found, classes=classes, **kwargs).metrics


def cars(count, per_frame=5):
    return [frame(*[('Car', place) for place in range(per_frame)])] * (count // per_frame)


def scored(truths, score=0.9):
    return [dict(t, score=np.full(len(t['name']), score)) for t in truths]


def test_a_perfect_detector():
    truths = cars(50)
    metrics = ap(truths, scored(truths))
    for level in LEVELS:
        assert metrics[f'Car_num_gt_{level}'] == 50
        for measure in ('2d', 'bev', '3d', 'aos'):
            for suffix in (level, f'{level}_loose'):
                assert metrics[f'Car_{measure}_ap40_{suffix}'] == pytest.approx(100)
                assert metrics[f'Car_{measure}_ap11_{suffix}'] == pytest.approx(100)
    assert metrics['mean_3d_ap40_moderate'] == metrics['Car_3d_ap40_moderate']


@pytest.mark.parametrize('count', [1, 5, 40, 41])
def test_few_ground_truths_bound_ap_and_are_said(count):
    truths = cars(count, per_frame=1)
    result = kitti_ap(truths, scored(truths), classes=['Car'])
    assert result.metrics['Car_3d_ap40_easy'] == pytest.approx(100 * (count - 1) / 40)
    assert result.metrics['Car_3d_ap11_easy'] == pytest.approx(100 * ((count - 1) // 4 + 1) / 11)
    said = f'Car has {count} easy, {count} moderate, {count} hard ground truths'
    assert any(note.startswith(said) for note in result.notes) == (count < 41)


def test_no_detections_and_no_ground_truth():
    truths, empty = cars(45), [frame(score=[])] * 9
    assert ap(truths, empty)['Car_3d_ap40_moderate'] == 0
    result = kitti_ap(truths, scored(truths), classes=['Car', 'Cyclist'])
    assert math.isnan(result.metrics['Cyclist_3d_ap40_moderate'])
    assert result.metrics['Cyclist_num_gt_moderate'] == 0
    assert result.metrics['mean_3d_ap40_moderate'] == pytest.approx(100)
    assert any('no Cyclist in the ground truth' in note for note in result.notes)
    result = kitti_ap([frame()] * 3, [frame(score=[])] * 3, classes=['Car'])
    assert math.isnan(result.metrics['mean_3d_ap40_moderate'])


@pytest.mark.parametrize(
    ('false_score', 'ap40'),
    [
        (0.1, 100.0),  # below all: never kept
        (0.99, 100 * 41 / 42),  # above all: best precision is at the end, 41 / 42
        # the 21st score of 41: precision 1 at 20 thresholds, then at best 41 / 42; point 0 is out
        (0.705, 100 * (19 + 21 * 41 / 42) / 40),
    ],
)
def test_one_false_positive(false_score, ap40):
    truths = cars(41, per_frame=1)
    scores = 0.9 - 0.01 * np.arange(41)
    found = [dict(t, score=s[None]) for t, s in zip(truths, scores, strict=True)]
    found[7] = frame(('Car', 0), ('Car', 3), score=[scores[7], false_score])
    metrics = ap(truths, found)
    for measure in ('2d', 'bev', '3d', 'aos'):
        assert metrics[f'Car_{measure}_ap40_easy'] == pytest.approx(ap40)


def test_a_second_detection_of_an_object_is_wrong():
    truths = cars(41, per_frame=1)
    found = [frame(('Car', 0), ('Car', 0), score=[0.9, 0.95])] * 41
    # 41 right, 41 wrong at the one score that counts, .95: nothing else is kept
    assert ap(truths, found)['Car_3d_ap40_easy'] == pytest.approx(100)
    found = [frame(('Car', 0), ('Car', 0), score=[0.9, 0.9])] * 41
    assert ap(truths, found)['Car_3d_ap40_easy'] == pytest.approx(50)


def test_dontcare_excuses_image_boxes_only():
    truths = cars(41, per_frame=1)
    wrong = frame(('Car', 0), ('Car', 3), score=[0.5, 0.99])
    found = scored(truths[1:], 0.5) + [wrong]
    expected = 100 * 41 / 42
    assert ap(truths, found)['Car_2d_ap40_easy'] == pytest.approx(expected)
    region = frame(('Car', 0), ('DontCare', 3))
    region['bbox'][1] = 250, 50, 400, 400  # all of the detection, much more than it
    region['dimensions'][1], region['location'][1] = -1, -1000
    excused = ap([*truths[1:], region], found)
    assert excused['Car_2d_ap40_easy'] == pytest.approx(100)
    assert excused['Car_aos_ap40_easy'] == pytest.approx(100)
    assert excused['Car_3d_ap40_easy'] == pytest.approx(expected)
    region['bbox'][1] = 330, 50, 400, 400  # half of it: not enough for cars
    assert ap([*truths[1:], region], found)['Car_2d_ap40_easy'] == pytest.approx(expected)


@pytest.mark.parametrize(
    ('found_as', 'truth', 'excused'),
    [
        ('Car', 'Van', True),
        ('Car', 'Truck', False),
        ('Car', 'Pedestrian', False),
        ('Pedestrian', 'Person_sitting', True),
        ('Pedestrian', 'Cyclist', False),
        ('Cyclist', 'Person_sitting', False),
    ],
)
def test_neighbouring_classes(found_as, truth, excused):
    truths = [frame((found_as, 0), (truth, 3))] * 41
    found = [frame((found_as, 0), (found_as, 3), score=[0.5, 0.5])] * 41
    metrics = ap(truths, found, classes=[found_as])
    assert metrics[f'{found_as}_num_gt_easy'] == 41
    for measure in ('2d', 'bev', '3d'):
        expected = pytest.approx(100 if excused else 50)
        assert metrics[f'{found_as}_{measure}_ap40_easy'] == expected


@pytest.mark.parametrize(
    ('changes', 'counts'),
    [
        ({}, (1, 1, 1)),
        ({'truncated': 0.15}, (1, 1, 1)),
        ({'truncated': 0.16}, (0, 1, 1)),
        ({'truncated': 0.3}, (0, 1, 1)),
        ({'truncated': 0.31}, (0, 0, 1)),
        ({'truncated': 0.51}, (0, 0, 0)),
        ({'occluded': 1}, (0, 1, 1)),
        ({'occluded': 2}, (0, 0, 1)),
        ({'occluded': 3}, (0, 0, 0)),
        ({'height': 40.0}, (0, 1, 1)),
        ({'height': 40.1}, (1, 1, 1)),
        ({'height': 25.0}, (0, 0, 0)),
        ({'height': 25.1}, (0, 1, 1)),
        ({'height': 26.0, 'occluded': 2}, (0, 0, 1)),
    ],
)
def test_who_counts_at_which_difficulty(changes, counts):
    """41 plain cars and a special one; finding it is never wrong, missing it is where it counts."""
    truths = [*cars(41, per_frame=1), frame(('Car', 2, changes))]
    plain = {'height': changes['height']} if 'height' in changes else {}
    found = [*scored(cars(41, per_frame=1)), frame(('Car', 2, plain), score=[0.95])]
    seen = ap(truths, found)
    missed = ap(truths, [*found[:-1], frame(score=[])])
    for level, count in zip(LEVELS, counts, strict=True):
        assert seen[f'Car_num_gt_{level}'] == 41 + count
        for measure in ('2d', 'bev', '3d', 'aos'):
            assert seen[f'Car_{measure}_ap40_{level}'] == pytest.approx(100)
            # 41 of 42: the last recall point isn't reached
            bound = 97.5 if count else 100
            assert missed[f'Car_{measure}_ap40_{level}'] == pytest.approx(bound)


@pytest.mark.parametrize(('hits', 'points'), [(40, 20), (41, 21), (42, 21)])
def test_misses_cost_recall(hits, points):
    """Every other hit serves a recall point, the first and the last one always do."""
    truths = cars(80, per_frame=1)
    found = scored(truths[:hits]) + [frame(score=[])] * (80 - hits)
    assert ap(truths, found)['Car_3d_ap40_easy'] == pytest.approx(100 * points / 40)
    assert ap(truths, found)['Car_3d_ap11_easy'] == pytest.approx(100 * 6 / 11)


def test_low_detections_are_not_wrong():
    truths = cars(41, per_frame=1)
    for height, levels in ((39.9, {'easy'}), (25.0, {'easy'}), (24.9, set(LEVELS)), (40.0, set())):
        stray = frame(('Car', 0), ('Car', 3, {'height': height}), score=[0.9, 0.95])
        metrics = ap(truths, [*scored(truths[1:]), stray])
        excused = {lv for lv in LEVELS if metrics[f'Car_3d_ap40_{lv}'] == pytest.approx(100)}
        assert excused == levels


def test_a_counted_detection_is_preferred_to_a_low_one_with_more_overlap():
    truths = cars(41, per_frame=1)
    found = frame(('Car', 0, {'height': 30}), ('Car', 0), score=[0.9, 0.9])
    found['location'][1, 0] += 0.2
    metrics = ap(truths, [found] * 41)
    # easy: the low one is ignored by its height, so the other one is the right one
    assert metrics['Car_3d_ap40_moderate'] == pytest.approx(50)
    # first pass takes the best score, the first in file at a tie: the low one, so no threshold
    assert metrics['Car_3d_ap40_easy'] == 0
    swapped = {key: value[::-1] for key, value in found.items()}
    assert ap(truths, [swapped] * 41)['Car_3d_ap40_easy'] == pytest.approx(100)


def test_low_detections_of_any_class_take_their_object():
    """A rule of the development kit: it looks at the height before the class."""
    truths = cars(41, per_frame=1)
    found = frame(('Pedestrian', 0, {'height': 39}), ('Car', 0), score=[0.9, 0.5])
    metrics = ap(truths, [found] * 41)
    assert metrics['Car_3d_ap40_easy'] == 0
    assert metrics['Car_3d_ap40_moderate'] == pytest.approx(100)


def test_orientation_similarity():
    truths = cars(50)
    for turn, similarity in ((0.0, 100), (math.pi / 2, 50), (math.pi, 0), (2 * math.pi, 100)):
        found = scored(truths)
        found = [dict(f, alpha=f['alpha'] + turn) for f in found]
        metrics = ap(truths, found)
        assert metrics['Car_aos_ap40_easy'] == pytest.approx(similarity, abs=1e-9)
        assert metrics['Car_2d_ap40_easy'] == pytest.approx(100)
    result = kitti_ap(truths, [dict(f, alpha=np.full(5, -10.0)) for f in found], classes=['Car'])
    assert not any('aos' in key for key in result.metrics)
    assert 'no AOS' in result.notes[0]


def test_iou_thresholds_are_exceeded_not_met():
    """Half a box shifted by a third overlaps by exactly one half."""
    truths = cars(41, per_frame=1)
    found = scored(truths)
    found = [dict(f, bbox=f['bbox'] + [20.0, 0, 20, 0]) for f in found]  # 60 wide: 40 / 80
    sets = {'at': {'Car': (0.5, 0.7, 0.7)}, 'below': {'Car': (0.499, 0.7, 0.7)}}
    metrics = ap(truths, found, iou_sets=sets, recall=[40])
    assert metrics['Car_2d_ap40_easy_at'] == 0
    assert metrics['Car_2d_ap40_easy_below'] == pytest.approx(100)


def test_names_are_compared_without_case_and_strangers_are_counted():
    truths = [frame(('car', 0), ('Bus', 1), ('Bus', 2), ('Tram', 4)) for _ in range(41)]
    found = scored([frame(('CAR', 0))] * 41)
    result = kitti_ap(truths, found, classes=['Car'])
    assert result.metrics['Car_3d_ap40_easy'] == pytest.approx(100)
    assert "KITTI doesn't know (bus: 82)" in result.notes[0]


def test_own_classes_need_their_thresholds():
    truths = [frame(('Bus', 0))] * 41
    with pytest.raises(ValueError, match=r"no IoU thresholds for class 'Bus'.*'strict'"):
        ap(truths, scored(truths), classes=['Bus'])
    metrics = ap(truths, scored(truths), ['Bus'], iou_sets={'strict': {'Bus': (0.7, 0.7, 0.7)}})
    assert metrics['Bus_3d_ap40_easy'] == pytest.approx(100)


def test_table_and_choice_of_sets_and_recall():
    truths, found = random_frames.frames(3, 10)
    result = kitti_ap(truths, found, iou_sets=['loose'], recall=[11])
    assert all('ap40' not in key for key in result.metrics)
    assert {key.rsplit('_', 1)[1] for key in result.metrics if '_ap' in key} == {'loose'}
    assert 'Car 3d @0.50' in result.table and 'mean bev loose' in result.table
    figure = result.metrics['Car_3d_ap11_moderate_loose']
    row = next(line for line in result.table.splitlines() if line.startswith('Car 3d @0.50'))
    assert f'{figure:.2f}' == row.split()[-2]
    few = kitti_ap(truths, found)
    assert few.notes and few.text().endswith(f'note: {few.notes[-1]}')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t, d: (t, d[:-1], {}), 'got 9 with ground truth and 8 with detections'),
        (lambda t, d: ([], [], {}), 'at least one'),
        (lambda t, d: (t, [{'name': d[0]['name']}, *d[1:]], {}), 'frame 0 lacks alpha, bbox'),
        (lambda t, d: (t, [*t[:1], *d[1:]], {}), 'detections of frame 0 lacks score'),
        (
            lambda t, d: (t, [*d[:2], dict(d[0], score=d[0]['score'][:2]), *d[3:]], {}),
            r'frame 2: score has shape \(2,\), expected \(5,\)',
        ),
        (
            lambda t, d: ([dict(t[0], location=t[0]['location'] * np.nan), *t[1:]], d, {}),
            'ground truth of frame 0: location has values that are not finite',
        ),
        (lambda t, d: (t, d, {'recall': [41]}), 'recall is a list of 40 and 11'),
        (lambda t, d: (t, d, {'recall': []}), 'recall is a list'),
        (lambda t, d: (t, d, {'iou_sets': ['tight']}), r"strict, loose.*got \['tight'\]"),
        (lambda t, d: (t, d, {'iou_sets': 'loose'}), "got 'loose'"),
        (lambda t, d: (t, d, {'iou_sets': {'x': {'Car': (0.7, 0.7)}}}), 'three numbers'),
        (lambda t, d: (t, d, {'classes': ['Car', 'Car']}), 'different ones'),
    ],
)
def test_bad_input(change, message):
    truths = cars(45)
    truths, found, settings = change(truths, scored(truths))
    with pytest.raises(ValueError, match=message):
        kitti_ap(truths, found, **{'classes': ['Car'], **settings})


@pytest.mark.parametrize('seed', [0, 1])
def test_equals_the_development_kits_loops(seed):
    truths, found = random_frames.frames(seed, 14)
    # ties in score and overlap, and several detections of the same object
    found = [dict(f, score=np.round(f['score'], 1)) for f in found]
    metrics = kitti_ap(truths, found, recall=[40], iou_sets=['strict', 'loose']).metrics
    seen = 0
    for name in ALL:
        for level, difficulty in enumerate(LEVELS):
            for measure, strict, loose in (('2d', 0.5, 0.5), ('bev', 0.5, 0.25), ('3d', 0.5, 0.25)):
                minimum = {'strict': strict, 'loose': loose}
                if name == 'Car':
                    minimum = {'strict': 0.7, 'loose': 0.7 if measure == '2d' else 0.5}
                for which, suffix in (('strict', ''), ('loose', '_loose')):
                    figure = metrics[f'{name}_{measure}_ap40_{difficulty}{suffix}']
                    if not metrics[f'{name}_num_gt_{difficulty}']:
                        continue
                    wanted = loop_ap(truths, found, name, measure, level, minimum[which])
                    assert figure == pytest.approx(wanted[0], abs=1e-9)
                    seen += wanted[0] > 0
                    if measure == '2d':
                        key = f'{name}_aos_ap40_{difficulty}{suffix}'
                        assert metrics[key] == pytest.approx(wanted[1], abs=1e-9)
    assert seen > 15


def test_counts_are_those_of_the_loop():
    truths, found = random_frames.frames(5, 20)
    metrics = kitti_ap(truths, found).metrics
    for name in ALL:
        for level, difficulty in enumerate(LEVELS):
            flags = [flags_of(*pair, name, level)[0] for pair in zip(truths, found, strict=True)]
            assert metrics[f'{name}_num_gt_{difficulty}'] == sum(f.count(0) for f in flags) > 0


@pytest.mark.cuda
def test_the_same_on_a_gpu():
    truths, found = random_frames.frames(3, 40)
    wanted = kitti_ap(truths, found).metrics
    assert kitti_ap(truths, found, device='cuda').metrics == pytest.approx(wanted, nan_ok=True)


def test_a_thousand_frames_with_fifty_detections_take_less_than_a_minute():
    truths, found = random_frames.frames(7, 1000, num_truths=(5, 16), num_detections=50)
    assert seconds_on_one_core(kitti_ap, truths, found) < 60


@pytest.mark.slow
def test_equals_mmdet3d(repo, tmp_path):
    pytest.importorskip('mmdet3d')
    environment = dict(os.environ, NUMBA_ENABLE_CUDASIM='1', PYTHONPATH=str(repo))
    script = repo / 'tests' / 'evaluation' / 'kitti_frames_random.py'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', str(script), '2', '40'],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith('RESULT '))
    reference = json.loads(line.removeprefix('RESULT '))
    truths, found = random_frames.frames(2, 40)
    metrics = kitti_ap(truths, random_frames.without_close_calls(truths, found)).metrics
    assert all(metrics[f'{name}_num_gt_{level}'] for name in ALL for level in LEVELS)
    compared = []
    for key, value in reference['figures'].items():  # KITTI/Car_3D_AP40_easy_strict
        name, measure, points, *rest = key.removeprefix('KITTI/').split('_')
        rest = [part for part in rest if part != 'strict']
        name = 'mean' if name == 'Overall' else name
        ours = metrics['_'.join([name, measure.lower(), points.lower(), *rest])]
        assert ours == pytest.approx(value, abs=1e-3), key
        compared.append(value)
    assert len(compared) == 126 and sum(0 < value < 100 for value in compared) > 100
    # AOS is only printed, with two decimals
    printed = [line for line in reference['text'].splitlines() if line.startswith('aos  AP40')]
    for name, line in zip(ALL, printed[: 2 * len(ALL) : 2], strict=True):
        values = [float(value) for value in line.partition(':')[2].split(',')]
        ours = [metrics[f'{name}_aos_ap40_{level}'] for level in LEVELS]
        assert ours == pytest.approx(values, abs=6e-3)
