"""ONCE's orientation-aware average precision of 3D boxes.

A match needs the 3D IoU of its class and a heading within 90 degrees; precision is sampled at
recall 0.02, 0.04 ... 1.00; overall and by distance. Written from the paper's description. What that
leaves open is done as in KITTI (ground truths choose in file order; what lies at another distance
is ignored on both sides) and, for the score thresholds, by the nearest recall: each recall point
uses the score whose recall is closest, so a perfect detector has AP 100 with any number of objects.
The last score serves the point above its recall where it would serve none, as in KITTI.

Source: Mao et al., "One Million Scenes for Autonomous Driving: ONCE Dataset", NeurIPS 2021 Datasets
and Benchmarks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .ap_result import APResult, text_table
from .frame_pairs import same_frame_overlaps
from .greedy_matching import (
    COUNTED,
    IGNORED,
    OTHER,
    FloatArray,
    IntArray,
    MatchProblem,
    count_matches,
    hit_scores,
    interpolated,
)
from .rotated_iou import paired_overlaps_3d

MIN_IOU = {'Vehicle': 0.7, 'Pedestrian': 0.3, 'Cyclist': 0.5}
SUPERCLASS = {'Car': 'Vehicle', 'Bus': 'Vehicle', 'Truck': 'Vehicle'}
# metres, lower end included
DISTANCES = {
    'overall': (0.0, math.inf),
    '0_30m': (0.0, 30.0),
    '30_50m': (30.0, 50.0),
    '50m_up': (50.0, math.inf),
}
_POINTS = 50


@dataclass(frozen=True)
class _Columns:
    """The boxes of all frames: counts (F,), frame (N,), name (N,), boxes (N, 7), score (N,)."""

    counts: IntArray
    frame: IntArray
    name: NDArray[np.str_]
    boxes: FloatArray
    score: FloatArray


def once_ap(
    ground_truth: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    min_iou: Mapping[str, float] | None = None,
    device: str | torch.device = 'cpu',
) -> APResult:
    """ONCE AP of the superclasses: cars, buses and trucks are one, ``Vehicle``.

    Args:
        ground_truth: a dict per frame with ``name`` (N,) str and ``boxes_3d`` (N, 7): x, y, z of
            the gravity centre, dx, dy, dz, yaw; LiDAR frame, metres, radians. Names without an IoU
            threshold take no part.
        detections: the same frames in the same order; ``score`` (N,), too.
        min_iou: lowest 3D IoU by class; Vehicle .7, Pedestrian .3, Cyclist .5 by default.
        device: where overlaps are computed.

    Returns:
        Metrics in percent: ``Vehicle_ap_overall``, ``_0_30m``, ``_30_50m``, ``_50m_up``,
        ``mean_ap_overall`` ... over the classes, and ``Vehicle_num_gt_overall`` ... A class without
        ground truth at a distance has NaN there and is left out of the mean.

    Raises:
        ValueError: frames that don't fit, missing keys, wrong shapes, values that aren't finite.
    """
    if len(ground_truth) != len(detections) or not ground_truth:
        raise ValueError(
            f'need the same frames on both sides and at least one, got {len(ground_truth)} with '
            f'ground truth and {len(detections)} with detections'
        )
    lowest = dict(MIN_IOU if min_iou is None else min_iou)
    if not lowest or not all(0 < value < 1 for value in lowest.values()):
        raise ValueError(f'min_iou must hold numbers in (0, 1), got {lowest}')
    truth = _columns(ground_truth, 'ground truth', with_score=False)
    found = _columns(detections, 'detections', with_score=True)
    pairs = _pairs(truth, found, min(lowest.values()), device)
    result = APResult()
    for distance in DISTANCES:
        values = []
        for name, threshold in lowest.items():
            problem = _problem(truth, found, pairs, name, distance, threshold)
            counted = int((problem.truth_flag == COUNTED).sum())
            value = _average_precision(problem, counted) if counted else math.nan
            result.metrics[f'{name}_ap_{distance}'] = value
            result.metrics[f'{name}_num_gt_{distance}'] = counted
            values.append(value)
        there = [value for value in values if not math.isnan(value)]
        result.metrics[f'mean_ap_{distance}'] = sum(there) / len(there) if there else math.nan
    result.notes = _notes(result.metrics, truth, found, lowest)
    result.table = _table(result, lowest)
    return result


def _columns(frames: Sequence[Mapping[str, Any]], what: str, with_score: bool) -> _Columns:
    names: list[str] = []
    boxes, scores = [np.zeros((0, 7))], [np.zeros(0)]
    counts = np.zeros(len(frames), dtype=np.int64)
    wanted = ('name', 'boxes_3d', 'score') if with_score else ('name', 'boxes_3d')
    for index, frame in enumerate(frames):
        missing = [key for key in wanted if key not in frame]
        if missing:
            raise ValueError(f'{what} of frame {index} lacks {", ".join(missing)}')
        count = len(frame['name'])
        box = np.asarray(frame['boxes_3d'], dtype=np.float64)
        score = np.asarray(frame['score'] if with_score else np.zeros(count), dtype=np.float64)
        if (count or box.size) and (box.shape != (count, 7) or score.shape != (count,)):
            raise ValueError(
                f'{what} of frame {index}: {count} names, boxes_3d {box.shape}, score '
                f'{score.shape}; expected (N,), (N, 7), (N,)'
            )
        if not (np.isfinite(box).all() and np.isfinite(score).all()):
            raise ValueError(f'{what} of frame {index} has values that are not finite')
        names += [SUPERCLASS.get(str(name), str(name)) for name in frame['name']]
        boxes.append(box.reshape(count, 7))
        scores.append(score)
        counts[index] = count
    frame_of = np.repeat(np.arange(len(frames)), counts)
    name_array = np.array(names, dtype=np.str_)
    return _Columns(counts, frame_of, name_array, np.concatenate(boxes), np.concatenate(scores))


def _pairs(
    truth: _Columns, found: _Columns, floor: float, device: str | torch.device
) -> tuple[IntArray, IntArray, FloatArray]:
    """(P,) detection, ground truth and IoU of the pairs above ``floor`` that head the same way."""
    pairs = same_frame_overlaps(
        torch.from_numpy(found.boxes).to(device),
        torch.from_numpy(truth.boxes).to(device),
        torch.from_numpy(found.counts),
        torch.from_numpy(truth.counts),
        paired_overlaps_3d,
        floor,
    )
    i, j = pairs.first.cpu().numpy(), pairs.second.cpu().numpy()
    turn = found.boxes[i, 6] - truth.boxes[j, 6]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    same_way = turn <= np.pi / 2
    return i[same_way], j[same_way], pairs.overlap.cpu().numpy()[same_way]


def _flags(columns: _Columns, name: str, distance: str) -> IntArray:
    low, high = DISTANCES[distance]
    away = np.linalg.norm(columns.boxes[:, :3], axis=1)
    counted = np.where((away >= low) & (away < high), COUNTED, IGNORED)
    return np.where(columns.name == name, counted, OTHER)


def _problem(
    truth: _Columns,
    found: _Columns,
    pairs: tuple[IntArray, IntArray, FloatArray],
    name: str,
    distance: str,
    threshold: float,
) -> MatchProblem:
    enough = pairs[2] > threshold
    return MatchProblem(
        detection=pairs[0][enough],
        truth=pairs[1][enough],
        overlap=pairs[2][enough],
        truth_frame=truth.frame,
        truth_flag=_flags(truth, name, distance),
        detection_flag=_flags(found, name, distance),
        score=found.score,
    )


def _average_precision(problem: MatchProblem, counted: int) -> float:
    """Percent: mean of the precision at recall 0.02 ... 1."""
    counts = count_matches(problem, _score_thresholds(hit_scores(problem), counted))
    precision = interpolated(counts.right, counts.right + counts.wrong, _POINTS + 1)
    return float(precision[1:].mean() * 100)


def _score_thresholds(scores: FloatArray, counted: int) -> FloatArray:
    """Scores whose recall is closest to 0, 1/50, ... 1; one may serve several of them.

    Args:
        scores: (n,) of the right detections, highest first.
        counted: ground truths.
    """
    chosen: list[float] = []
    for i, score in enumerate(scores.tolist()):
        last = i + 1 == len(scores)
        # halfway to the next recall; the last score has no next one
        reach = (i + 1) / counted if last else (i + 1.5) / counted
        if last and len(chosen) <= _POINTS and reach < len(chosen) / _POINTS:
            chosen.append(score)  # the point above the last recall, as KITTI's rule has it
        while len(chosen) <= _POINTS and reach >= len(chosen) / _POINTS - 1e-9:
            chosen.append(score)
    return np.array(chosen)


def _notes(
    metrics: Mapping[str, float], truth: _Columns, found: _Columns, lowest: Mapping[str, float]
) -> list[str]:
    notes = []
    for what, columns in (('ground truths', truth), ('detections', found)):
        other = [str(name) for name in np.unique(columns.name) if name not in lowest]
        if other:
            count = int(np.isin(columns.name, other).sum())
            notes.append(f'{count} {what} of other classes take no part: {", ".join(other)}')
    for name in lowest:
        none = [d for d in DISTANCES if not metrics[f'{name}_num_gt_{d}']]
        if none:
            notes.append(
                f'no {name} in the ground truth at {", ".join(none)}: its AP is NaN there, and the '
                'mean is over the other classes'
            )
    return notes


def _table(result: APResult, lowest: Mapping[str, float]) -> str:
    counts = {n: [int(result.metrics[f'{n}_num_gt_{d}']) for d in DISTANCES] for n in lowest}
    rows = {
        f'{name} @{threshold:.2f}': [result.metrics[f'{name}_ap_{d}'] for d in DISTANCES]
        for name, threshold in lowest.items()
    }
    rows['mean'] = [result.metrics[f'mean_ap_{d}'] for d in DISTANCES]
    parts = [
        text_table('ground truths', list(DISTANCES), counts),
        text_table('ONCE AP (%)', list(DISTANCES), rows),
    ]
    return '\n\n'.join(parts)
