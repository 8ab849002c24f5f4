"""Precision over recall as KITTI's object development kit samples it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from .frame_pairs import same_frame_overlaps
from .greedy_matching import (
    COUNTED,
    FloatArray,
    IntArray,
    MatchProblem,
    count_matches,
    hit_scores,
    interpolated,
)
from .kitti_annotations import (
    DONTCARE,
    KITTI_NAMES,
    NO_ALPHA,
    KittiColumns,
    detection_flags,
    truth_flags,
)
from .rotated_iou import paired_image_overlaps, paired_overlaps, paired_overlaps_3d

MEASURES = ('2d', 'bev', '3d')
SAMPLES = 41


class KittiCurves:
    """Columns and overlaps of all frames, and the precision curves, each computed once.

    Args:
        truth: ground truth.
        detections: of the same frames.
        lowest: smallest IoU threshold in use for each of ``MEASURES``.
        device: where overlaps are computed.

    Raises:
        ValueError: a box isn't finite.
    """

    def __init__(
        self,
        truth: KittiColumns,
        detections: KittiColumns,
        lowest: Sequence[float],
        device: str | torch.device,
    ):
        self.truth, self.detections = truth, detections
        self.pairs = {
            measure: _pairs(measure, truth, detections, floor, device)
            for measure, floor in zip(MEASURES, lowest, strict=True)
        }
        self.dontcare_share = _dontcare_share(truth, detections)
        real = truth.name != DONTCARE
        self.has_aos = bool(
            (detections.values['alpha'] != NO_ALPHA).all()
            and (truth.values['alpha'][real] != NO_ALPHA).all()
        )
        self._curves: dict[tuple[str, str, int, float], tuple[FloatArray, FloatArray]] = {}

    def num_counted(self, name: str, level: int) -> int:
        """Ground truths that count."""
        return int((truth_flags(self.truth, name.lower(), level) == COUNTED).sum())

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Ground-truth names that nobody asked for and KITTI doesn't know; missing alpha."""
        known = {*KITTI_NAMES, DONTCARE, *(name.lower() for name in classes)}
        strange = Counter(str(name) for name in self.truth.name if name not in known)
        notes = []
        if strange:
            listed = ', '.join(f'{name}: {count}' for name, count in sorted(strange.items()))
            notes.append(
                f"ground truth holds classes that KITTI doesn't know ({listed}); they take no "
                'part, so detections of them count as wrong'
            )
        if not self.has_aos:
            notes.append(f'no AOS: some detections or ground truths have no alpha ({NO_ALPHA:g})')
        return notes

    def curve(
        self, name: str, measure: str, level: int, min_overlap: float
    ) -> tuple[FloatArray, FloatArray]:
        """Interpolated precision and orientation similarity.

        Args:
            name: class.
            measure: one of ``MEASURES``.
            level: 0 easy, 1 moderate, 2 hard.
            min_overlap: matches must exceed it.

        Returns:
            (41,) each; the similarity means something in 2D only.
        """
        key = (name, measure, level, min_overlap)
        if key not in self._curves:
            self._curves[key] = self._compute(name.lower(), measure, level, min_overlap)
        return self._curves[key]

    def _compute(
        self, name: str, measure: str, level: int, min_overlap: float
    ) -> tuple[FloatArray, FloatArray]:
        detection, truth, overlap = self.pairs[measure]
        enough = overlap > min_overlap
        problem = MatchProblem(
            detection=detection[enough],
            truth=truth[enough],
            overlap=overlap[enough],
            truth_frame=self.truth.frame,
            truth_flag=truth_flags(self.truth, name, level),
            detection_flag=detection_flags(self.detections, name, level),
            score=self.detections.values['score'],
        )
        counted = int((problem.truth_flag == COUNTED).sum())
        thresholds = score_thresholds(hit_scores(problem), counted)
        in_image = measure == '2d'
        counts = count_matches(
            problem,
            thresholds,
            excused=self.dontcare_share > min_overlap if in_image else None,
            truth_angle=self.truth.values['alpha'] if in_image else None,
            detection_angle=self.detections.values['alpha'] if in_image else None,
        )
        found = counts.right + counts.wrong
        return (
            interpolated(counts.right, found, SAMPLES),
            interpolated(counts.similarity, found, SAMPLES),
        )


def _pairs(
    measure: str,
    truth: KittiColumns,
    detections: KittiColumns,
    floor: float,
    device: str | torch.device,
) -> tuple[IntArray, IntArray, FloatArray]:
    """(P,) detection, ground truth and overlap of the pairs above ``floor``."""
    overlap = {'2d': paired_image_overlaps, 'bev': paired_overlaps, '3d': paired_overlaps_3d}
    boxes = []
    for side in (detections, truth):
        if measure == '2d':
            boxes.append(torch.from_numpy(side.values['bbox']).to(device))
        else:
            columns = [0, 1, 3, 4, 6] if measure == 'bev' else list(range(7))
            boxes.append(side.upright[:, columns].to(device))
    counts = [torch.from_numpy(side.counts) for side in (detections, truth)]
    pairs = same_frame_overlaps(boxes[0], boxes[1], counts[0], counts[1], overlap[measure], floor)
    return (
        pairs.first.cpu().numpy(),
        pairs.second.cpu().numpy(),
        pairs.overlap.cpu().numpy(),
    )


def _dontcare_share(truth: KittiColumns, detections: KittiColumns) -> FloatArray:
    """(D,) largest share of each detection's image box within one DontCare region."""
    regions = truth.name == DONTCARE
    counts = np.bincount(truth.frame[regions], minlength=len(truth.counts))
    pairs = same_frame_overlaps(
        torch.from_numpy(detections.values['bbox']),
        torch.from_numpy(truth.values['bbox'][regions]),
        torch.from_numpy(detections.counts),
        torch.from_numpy(counts),
        lambda a, b: paired_image_overlaps(a, b, 'first'),
    )
    share = np.zeros(len(detections.name))
    np.maximum.at(share, pairs.first.numpy(), pairs.overlap.numpy())
    return share


def score_thresholds(scores: FloatArray, counted: int) -> FloatArray:
    """Scores whose recall is closest to 0, 1/40, ... 1; each score serves one of them.

    Args:
        scores: (n,) of the right detections, highest first.
        counted: ground truths.
    """
    chosen, wanted = [], 0.0
    for i, score in enumerate(scores.tolist()):
        last = i + 1 == len(scores)
        here, following = (i + 1) / counted, (i + 2) / counted
        if not last and following - wanted < wanted - here:
            continue
        chosen.append(score)
        wanted += 1 / (SAMPLES - 1)  # summed up as in the development kit
    return np.array(chosen)
