"""KITTI's average precision of 2D, bird's-eye-view and 3D boxes, and of orientation (AOS).

Written from the rules of the object development kit; agrees with mmdet3d's ``kitti_eval``. Where
they leave the choice:

* A class without ground truth at a difficulty has AP NaN, not 0, and the means leave it out.
* Where a score threshold keeps neither a right nor a wrong detection, precision is 0 (not 0 / 0).
* AOS is there when every detection and every counted object has an alpha.

Source: Geiger et al., "Are we ready for Autonomous Driving? The KITTI Vision Benchmark Suite", CVPR
2012; 40 recall points: Simonelli et al., "Disentangling Monocular 3D Object Detection", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from .ap_result import APResult, text_table
from .greedy_matching import FloatArray
from .kitti_annotations import Annotation, detection_columns, ground_truth_columns
from .kitti_curves import MEASURES, SAMPLES, KittiCurves

DIFFICULTIES = ('easy', 'moderate', 'hard')
# lowest IoU by class for each of MEASURES; 'strict' is the benchmark's
IOU_SETS: dict[str, dict[str, tuple[float, float, float]]] = {
    'strict': {
        'Car': (0.7, 0.7, 0.7),
        'Pedestrian': (0.5, 0.5, 0.5),
        'Cyclist': (0.5, 0.5, 0.5),
    },
    'loose': {
        'Car': (0.7, 0.5, 0.5),
        'Pedestrian': (0.5, 0.25, 0.25),
        'Cyclist': (0.5, 0.25, 0.25),
    },
}
IoUSets = Sequence[str] | Mapping[str, Mapping[str, Sequence[float]]]


def kitti_ap(
    ground_truth: Sequence[Annotation],
    detections: Sequence[Annotation],
    classes: Sequence[str] = ('Car', 'Pedestrian', 'Cyclist'),
    iou_sets: IoUSets = ('strict', 'loose'),
    recall: Sequence[int] = (40, 11),
    device: str | torch.device = 'cpu',
) -> APResult:
    """KITTI AP in 2D, bird's eye view and 3D, and AOS.

    Args:
        ground_truth: a dict per frame with ``name`` (N,) str, ``truncated`` (N,), ``occluded``
            (N,), ``alpha`` (N,), ``bbox`` (N, 4) pixels, ``dimensions`` (N, 3) length height width,
            ``location`` (N, 3) bottom centre in the camera frame, ``rotation_y`` (N,); ``DontCare``
            rows included.
        detections: the same frames in the same order; ``score`` (N,) instead of ``truncated`` and
            ``occluded``.
        classes: to evaluate.
        iou_sets: names in ``IOU_SETS``, or own ones: name -> class -> lowest IoU in 2D, bird's eye
            view and 3D.
        recall: numbers of recall points, 40 or 11.
        device: where overlaps are computed.

    Returns:
        Metrics in percent: ``Car_3d_ap40_moderate`` (``Car_3d_ap40_moderate_loose`` for sets other
        than ``strict``), also ``2d``, ``bev`` and ``aos``; ``mean_3d_ap40_moderate`` over the
        classes; ``Car_num_gt_moderate``, ground truths that count.

    Raises:
        ValueError: frames that don't fit, missing keys, wrong shapes, values that aren't finite, a
            class without IoU thresholds, recall points other than 40 and 11.
    """
    check_settings(iou_sets, recall)
    sets = _iou_sets(iou_sets, classes)
    if len(ground_truth) != len(detections) or not ground_truth:
        raise ValueError(
            f'need the same frames on both sides and at least one, got {len(ground_truth)} with '
            f'ground truth and {len(detections)} with detections'
        )
    lowest = [min(t[c][m] for t in sets.values() for c in classes) for m in range(len(MEASURES))]
    curves = KittiCurves(
        ground_truth_columns(ground_truth), detection_columns(detections), lowest, device
    )
    result = APResult(notes=curves.notes(classes))
    for level, difficulty in enumerate(DIFFICULTIES):
        for name in classes:
            count = curves.num_counted(name, level)
            result.metrics[f'{name}_num_gt_{difficulty}'] = count
    result.notes += _few(result.metrics, classes, recall)
    for points in recall:
        for set_name, thresholds in sets.items():
            _fill(result.metrics, curves, classes, set_name, thresholds, points)
    result.table = _table(result, classes, sets, recall)
    return result


def check_settings(iou_sets: IoUSets, recall: Sequence[int]) -> None:
    """Refuses settings of :func:`kitti_ap` that are wrong whatever the classes are.

    Raises:
        ValueError: an unknown IoU set, or recall points other than 40 and 11.
    """
    named = [] if isinstance(iou_sets, Mapping) else list(iou_sets)
    if not iou_sets or isinstance(iou_sets, str) or not set(named) <= set(IOU_SETS):
        raise ValueError(
            f'iou_sets is a list of {", ".join(IOU_SETS)}, or a dict name -> class -> lowest IoUs; '
            f'got {iou_sets!r}'
        )
    if not recall or not set(recall) <= {40, 11}:
        raise ValueError(f'recall is a list of 40 and 11, got {recall!r}')


def _average(curve: FloatArray, points: int) -> float:
    """Percent: mean over recall 1/40 ... 1 (40 points) or 0, 1/10, ... 1 (11 points)."""
    return float((curve[1:] if points == 40 else curve[::4]).mean() * 100)


def _fill(
    metrics: dict[str, float],
    curves: KittiCurves,
    classes: Sequence[str],
    set_name: str,
    thresholds: Mapping[str, Sequence[float]],
    points: int,
) -> None:
    """Adds the APs of one IoU set."""
    for level, (difficulty, measure) in _cells(curves.has_aos):
        values = []
        for name in classes:
            kind = 0 if measure == 'aos' else MEASURES.index(measure)
            both = curves.curve(name, MEASURES[kind], level, thresholds[name][kind])
            value = _average(both[measure == 'aos'], points)
            if not metrics[f'{name}_num_gt_{difficulty}']:
                value = math.nan
            metrics[_key(name, measure, points, difficulty, set_name)] = value
            values.append(value)
        there = [value for value in values if not math.isnan(value)]
        mean = sum(there) / len(there) if there else math.nan
        metrics[_key('mean', measure, points, difficulty, set_name)] = mean


def _cells(has_aos: bool) -> Iterator[tuple[int, tuple[str, str]]]:
    for level, difficulty in enumerate(DIFFICULTIES):
        for measure in (*MEASURES, 'aos') if has_aos else MEASURES:
            yield level, (difficulty, measure)


def _key(name: str, measure: str, points: int, difficulty: str, set_name: str) -> str:
    key = f'{name}_{measure}_ap{points}_{difficulty}'
    return key if set_name == 'strict' else f'{key}_{set_name}'


def _iou_sets(
    iou_sets: IoUSets, classes: Sequence[str]
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Checked thresholds of ``classes`` by set."""
    if not classes or len(set(classes)) < len(classes):
        raise ValueError(f'classes must be different ones, at least one; got {list(classes)}')
    if not isinstance(iou_sets, Mapping):
        iou_sets = {name: IOU_SETS[name] for name in iou_sets}
    checked: dict[str, dict[str, tuple[float, float, float]]] = {}
    for set_name, by_class in iou_sets.items():
        checked[set_name] = {}
        for name in classes:
            if name not in by_class:
                raise ValueError(
                    f'no IoU thresholds for class {name!r} in iou_sets[{set_name!r}], which has '
                    f'{", ".join(by_class)}; name the classes as KITTI does, or pass '
                    f'iou_sets={{{set_name!r}: {{{name!r}: (iou_2d, iou_bev, iou_3d)}}}}'
                )
            values = tuple(float(value) for value in by_class[name])
            if len(values) != len(MEASURES) or not all(0 < value < 1 for value in values):
                raise ValueError(
                    f'iou_sets[{set_name!r}][{name!r}] must be three numbers in (0, 1): 2D, '
                    f"bird's eye view, 3D; got {by_class[name]}"
                )
            checked[set_name][name] = (values[0], values[1], values[2])
    return checked


def _few(
    metrics: Mapping[str, float], classes: Sequence[str], recall: Sequence[int]
) -> Iterator[str]:
    """Notes on classes with too few ground truths."""
    for name in classes:
        counts = {d: int(metrics[f'{name}_num_gt_{d}']) for d in DIFFICULTIES}
        none = [d for d, count in counts.items() if not count]
        if none:
            yield (
                f'no {name} in the ground truth that counts as {", ".join(none)}: its AP is NaN '
                'there, and the mean is over the other classes'
            )
        few = [f'{count} {d}' for d, count in counts.items() if 0 < count < SAMPLES]
        if few and 40 in recall:
            yield (
                f'{name} has {", ".join(few)} ground truths: with n < {SAMPLES} of them AP40 '
                f'cannot exceed (n - 1) / 40, even for a perfect detector'
            )


def _table(
    result: APResult,
    classes: Sequence[str],
    sets: Mapping[str, Mapping[str, Sequence[float]]],
    recall: Sequence[int],
) -> str:
    """All figures; a row that another IoU set repeats is printed once."""
    counts = {
        f'{name}': [int(result.metrics[f'{name}_num_gt_{d}']) for d in DIFFICULTIES]
        for name in classes
    }
    parts = [text_table('ground truths', DIFFICULTIES, counts)]
    for points in recall:
        rows: dict[str, list[float]] = {}
        for set_name, thresholds in sets.items():
            for name in (*classes, 'mean'):
                for measure in (*MEASURES, 'aos'):
                    keys = [_key(name, measure, points, d, set_name) for d in DIFFICULTIES]
                    if keys[0] not in result.metrics:
                        continue
                    kind = 0 if measure == 'aos' else MEASURES.index(measure)
                    at = set_name if name == 'mean' else f'@{thresholds[name][kind]:.2f}'
                    rows[f'{name} {measure} {at}'] = [result.metrics[key] for key in keys]
        parts.append(text_table(f'AP{points} (%)', DIFFICULTIES, rows))
    return '\n\n'.join(parts)
