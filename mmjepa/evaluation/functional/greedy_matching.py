"""The matching behind KITTI's and ONCE's AP, for all frames and score thresholds at once.

Ground truths choose one after the other, in file order, among the detections of their frame that
overlap them enough and are still free. Frames don't touch each other, so the first ground truths
of all frames choose together, then the second ones, and so on.

Flags of ground truths and detections: ``COUNTED``; ``IGNORED``, may be matched but is neither right
nor wrong; ``OTHER``, not there for this class.

Source: the object development kit of Geiger et al., "Are we ready for Autonomous Driving? The KITTI
Vision Benchmark Suite", CVPR 2012.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

COUNTED, IGNORED, OTHER = 0, 1, -1


@dataclass(frozen=True)
class MatchProblem:
    """One class at one difficulty and overlap threshold.

    Attributes:
        detection: (P,) int64, row of the detection of each pair that overlaps enough.
        truth: (P,) int64, row of its ground truth.
        overlap: (P,), above 0.
        truth_frame: (G,) int64, frame of each ground truth, never decreasing.
        truth_flag: (G,).
        detection_flag: (D,).
        score: (D,).
    """

    detection: IntArray
    truth: IntArray
    overlap: FloatArray
    truth_frame: IntArray
    truth_flag: IntArray
    detection_flag: IntArray
    score: FloatArray

    def usable(self) -> BoolArray:
        """(P,) which pairs take part: neither side is ``OTHER``."""
        return (self.truth_flag[self.truth] != OTHER) & (
            self.detection_flag[self.detection] != OTHER
        )


@dataclass(frozen=True)
class Counts:
    """What a set of score thresholds gives, each (T,).

    Attributes:
        right: counted ground truths that a counted detection found.
        wrong: counted detections that match nothing and aren't excused.
        similarity: sum of (1 + cos(angle difference)) / 2 over the right ones.
    """

    right: FloatArray
    wrong: FloatArray
    similarity: FloatArray


def hit_scores(problem: MatchProblem) -> FloatArray:
    """Scores of the right detections when each ground truth takes the one with the best score.

    Returns:
        (n,), highest first; score thresholds are chosen among them.
    """
    pairs = np.flatnonzero(problem.usable())
    detection = problem.detection[pairs]
    order = np.lexsort((detection, -problem.score[detection], problem.truth[pairs]))
    choice, _ = _choose(problem, pairs[order], np.ones((1, len(problem.score)), dtype=bool))
    chosen = choice[0][_right(problem, choice)[0]]
    return np.sort(problem.score[chosen])[::-1]


def count_matches(
    problem: MatchProblem,
    thresholds: FloatArray,
    excused: BoolArray | None = None,
    truth_angle: FloatArray | None = None,
    detection_angle: FloatArray | None = None,
) -> Counts:
    """Right and wrong detections among those with at least a score.

    Each ground truth takes the counted detection with the best overlap, or the first ignored one
    where there is none.

    Args:
        problem: what may match.
        thresholds: (T,) scores.
        excused: (D,) bool, detections that aren't wrong when they match nothing; none by default.
        truth_angle: (G,) radians, for ``similarity``; zeros by default.
        detection_angle: (D,) radians.

    Returns:
        The counts.
    """
    pairs = np.flatnonzero(problem.usable())
    detection = problem.detection[pairs]
    ignored = problem.detection_flag[detection] == IGNORED
    # overlaps are above 0, so ignored ones come last, in the order of the file
    cost = np.where(ignored, 0.0, -problem.overlap[pairs])
    order = np.lexsort((detection, cost, problem.truth[pairs]))
    free = problem.score >= thresholds[:, None]
    choice, free = _choose(problem, pairs[order], free)
    right = _right(problem, choice)
    stray = free & (problem.detection_flag == COUNTED)
    if excused is not None:
        stray &= ~excused
    similarity = np.zeros(len(thresholds))
    if truth_angle is not None and detection_angle is not None:
        # at -1, no choice, the last detection's angle is read and not used
        delta = truth_angle - (detection_angle[choice] if len(detection_angle) else 0.0)
        similarity = np.where(right, (1 + np.cos(delta)) / 2, 0.0).sum(axis=1)
    return Counts(right.sum(axis=1), stray.sum(axis=1), similarity)


def interpolated(value: FloatArray, total: FloatArray, samples: int) -> FloatArray:
    """Ratio value / total at each threshold, then the best of it at this or any lower threshold.

    Args:
        value: (T,), T <= samples, by falling threshold.
        total: (T,); where it is 0 the ratio counts as 0.
        samples: length of the result; recalls that no threshold reaches stay 0.

    Returns:
        (samples,).
    """
    ratio = np.zeros(samples)
    np.divide(value, total, out=ratio[: len(value)], where=total > 0)
    return np.maximum.accumulate(ratio[::-1])[::-1]


def _right(problem: MatchProblem, choice: IntArray) -> BoolArray:
    """(T, G): a counted ground truth has a counted detection."""
    # the extra flag at the end is that of -1, no detection
    flag = np.append(problem.detection_flag, OTHER)
    return (problem.truth_flag == COUNTED) & (flag[choice] == COUNTED)


def _choose(problem: MatchProblem, pairs: IntArray, free: BoolArray) -> tuple[IntArray, BoolArray]:
    """Lets each ground truth take its first free candidate.

    Args:
        problem: what may match.
        pairs: (P',) rows of pairs; by ground truth, and within one by falling preference.
        free: (T, D) bool, detections that may be taken.

    Returns:
        (T, G) int64, the detection of each ground truth or -1, and (T, D), those still free.
    """
    runs, detections = len(free), free.shape[1]
    free = np.concatenate([free, np.zeros((runs, 1), dtype=bool)], axis=1)  # -1 is never free
    choice = np.full((runs, len(problem.truth_flag)), -1, dtype=np.int64)
    truths, start, length = np.unique(problem.truth[pairs], return_index=True, return_counts=True)
    candidates = np.full((len(truths), length.max(initial=0)), -1, dtype=np.int64)
    row = np.repeat(np.arange(len(truths)), length)
    candidates[row, np.arange(len(pairs)) - start[row]] = problem.detection[pairs]
    for rows in _turns(problem.truth_frame[truths]):
        wanted = candidates[rows, : length[rows].max()]
        available = free[:, wanted]  # (T, n, K)
        first = available.argmax(axis=2)
        taken = wanted[np.arange(len(rows)), first]
        taken[~available.any(axis=2)] = -1
        choice[:, truths[rows]] = taken
        free[np.arange(runs)[:, None], taken] = False
    return choice, free[:, :detections]


def _turns(frame: IntArray) -> list[IntArray]:
    """Rows whose turn it is, turn by turn: the first of each frame, the second, ...

    Args:
        frame: (n,) never decreasing.
    """
    if not len(frame):
        return []
    _, start, count = np.unique(frame, return_index=True, return_counts=True)
    turn = np.arange(len(frame)) - np.repeat(start, count)
    order = np.argsort(turn, kind='stable')
    return np.split(order, np.flatnonzero(np.diff(turn[order])) + 1)
