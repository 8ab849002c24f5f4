"""ONCE AP by loops, object by object, and random frames for it: a second opinion for tests."""

import math
from fractions import Fraction

import numpy as np
from kitti_loops import one_frame

MINIMUM = {'Vehicle': 0.7, 'Pedestrian': 0.3, 'Cyclist': 0.5}
PLACES = {'overall': (0, 1e9), '0_30m': (0, 30), '30_50m': (30, 50), '50m_up': (50, 1e9)}
SIZES = {
    'Car': (4.4, 1.8, 1.6),
    'Bus': (10.5, 2.9, 3.2),
    'Truck': (7.5, 2.6, 2.9),
    'Pedestrian': (0.8, 0.8, 1.8),
    'Cyclist': (1.9, 0.8, 1.6),
    'Tricycle': (2.5, 1.2, 1.7),
}


# ----------------------------------------------------------------------------------------- AP


def corners(box):
    """From above, counter-clockwise."""
    x, y, _, dx, dy, _, yaw = box
    cos, sin = math.cos(yaw), math.sin(yaw)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))
    local = [(a * dx / 2, b * dy / 2) for a, b in signs]
    return [(x + cos * u - sin * v, y + sin * u + cos * v) for u, v in local]


def clipped(polygon, start, end):
    """The part of a polygon to the left of a line."""

    def side(point):
        u, v = (end[0] - start[0], end[1] - start[1]), (point[0] - start[0], point[1] - start[1])
        return u[0] * v[1] - u[1] * v[0]

    kept = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        s, t = side(a), side(b)
        if s >= 0:
            kept.append(a)
        if s * t < 0:
            kept.append(tuple(p + (q - p) * s / (s - t) for p, q in zip(a, b, strict=True)))
    return kept


def iou_3d(first, second):
    """Of two boxes x, y, z of the gravity centre, dx, dy, dz, yaw."""
    polygon, other = corners(first), corners(second)
    for start, end in zip(other, other[1:] + other[:1], strict=True):
        polygon = clipped(polygon, start, end)
    after = polygon[1:] + polygon[:1]
    area = sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, after, strict=True)) / 2
    low = max(box[2] - box[5] / 2 for box in (first, second))
    high = min(box[2] + box[5] / 2 for box in (first, second))
    common = area * max(high - low, 0.0)
    return common / (math.prod(first[3:6]) + math.prod(second[3:6]) - common)


def same_way(first, second):
    """Whether two boxes head within 90 degrees of each other."""
    return math.cos(first[6] - second[6]) >= 0


def flag_of(name, box, wanted, place):
    """0 counts, 1 ignored, -1 other."""
    if ('Vehicle' if name in ('Car', 'Bus', 'Truck') else name) != wanted:
        return -1
    low, high = PLACES[place]
    return 0 if low <= math.sqrt(sum(value**2 for value in box[:3])) < high else 1


def thresholds(scores, counted):
    """For each recall 0, 1/50 ... 1 the score whose recall is closest, as long as it is reached.

    Args:
        scores: of the right detections, highest first.
        counted: ground truths.
    """
    served = []
    for point in range(51):
        wanted = Fraction(point, 50)
        off = [abs(Fraction(k + 1, counted) - wanted) for k in range(len(scores))]
        # as in KITTI, the last score serves the point above it where it is closest to none below
        beyond = wanted > Fraction(len(scores), counted)
        if not scores or (beyond and served and served[-1] == len(scores) - 1):
            break
        served.append(len(scores) - 1 if beyond else off.index(min(off)))
    return [scores[k] for k in served]


def frame_overlaps(truth, frame):
    """(D, G) 3D IoU, 0 of boxes that head elsewhere."""
    overlap = [
        [iou_3d(d, g) if same_way(d, g) else 0.0 for g in truth['boxes_3d']]
        for d in frame['boxes_3d']
    ]
    return np.array(overlap).reshape(len(frame['name']), len(truth['name']))


def loop_ap(truths, found, overlaps, wanted, place):
    """AP of a class at a distance, in percent; NaN without ground truth."""
    prepared, counted = [], 0
    for truth, frame, overlap in zip(truths, found, overlaps, strict=True):
        flags = [
            [flag_of(*pair, wanted, place) for pair in zip(f['name'], f['boxes_3d'], strict=True)]
            for f in (truth, frame)
        ]
        counted += flags[0].count(0)
        # nothing is excused, and angles are KITTI's matter
        none = np.zeros(overlap.shape)
        prepared.append((overlap, none, *flags, frame['score'], none.sum(0), none.sum(1)))
    if not counted:
        return math.nan
    least = MINIMUM[wanted]
    scores = sorted((s for p in prepared for s in one_frame(p, least, None)[3]), reverse=True)
    curve = []
    for score in thresholds(scores, counted):
        results = [one_frame(p, least, score) for p in prepared]
        right, wrong = (sum(r[c] for r in results) for c in range(2))
        curve.append(right / (right + wrong) if right else 0.0)
    return 100 * sum(max(curve[k:], default=0.0) for k in range(1, 51)) / 50


# -------------------------------------------------------------------------------------- frames


def boxes_of(rng, names, centres, yaw, spread):
    sizes = np.array([SIZES[name] for name in names]).reshape(-1, 3)
    sizes = sizes * rng.uniform(1 - spread, 1 + spread, sizes.shape)
    return np.column_stack([centres, sizes, yaw])


def random_truth(rng, count):
    """Objects 5 to 70 m away, many about the limits; some stand in each other."""
    names = rng.choice(list(SIZES), count, p=(0.25, 0.1, 0.1, 0.25, 0.25, 0.05))
    near = rng.choice([30, 50], count) + rng.normal(0, 0.4, count)
    away = np.where(rng.random(count) < 0.4, near, rng.uniform(5, 70, count))
    angle = rng.uniform(-np.pi, np.pi, count)
    height = rng.normal(0, 4, count)
    centres = np.column_stack([away * np.cos(angle), away * np.sin(angle), height])
    yaw = rng.uniform(-3 * np.pi, 3 * np.pi, count)
    twins = np.flatnonzero(rng.random(count) < 0.3)
    for each in (names, centres, yaw):
        each[twins] = each[twins - 1]
    centres[twins] += rng.normal(0, 0.15, (len(twins), 3))
    return {'name': names, 'boxes_3d': boxes_of(rng, names, centres, yaw, 0.05)}


def random_found(rng, truth, count):
    """Ground truths, displaced, sometimes misnamed or turned away; no two scores are the same."""
    source = rng.integers(0, len(truth['name']), count)
    names = np.where(
        rng.random(count) < 0.85, truth['name'][source], rng.choice(list(SIZES), count)
    )
    boxes = truth['boxes_3d'][source]
    centres = boxes[:, :3] + rng.normal(0, 0.1, (count, 3)) * rng.choice([0.3, 1, 3], (count, 1))
    quarter = np.pi / 2 * rng.choice([-1, 1], count)
    turn = rng.choice([0, 0, 0, np.pi, 2 * np.pi], count)
    turn = np.where(rng.random(count) < 0.2, quarter, turn) + rng.normal(0, 0.1, count)
    found = boxes_of(rng, names, centres, boxes[:, 6] + turn, 0.05)
    return {'name': names, 'boxes_3d': found, 'score': rng.random(count)}


def random_frames(seed, count, num_truths=(2, 9), num_detections=12):
    """(ground truth, detections) of ``count`` frames."""
    rng = np.random.default_rng(seed)
    truths = [random_truth(rng, int(rng.integers(*num_truths))) for _ in range(count)]
    return truths, [random_found(rng, truth, num_detections) for truth in truths]
