"""Which boxes of the same frame overlap, many frames at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rotated_iou import Overlap, circles_meet, in_chunks

_CANDIDATES_AT_A_TIME = 1 << 21  # pairs whose distance is looked at


@dataclass(frozen=True)
class OverlapPairs:
    """Pairs of boxes of the same frame that overlap.

    Attributes:
        first: (P,) int64, row of the first box.
        second: (P,) int64, row of the second box; ordered by frame, first, second.
        overlap: (P,) float64.
    """

    first: Tensor
    second: Tensor
    overlap: Tensor


def same_frame_overlaps(
    first: Tensor,
    second: Tensor,
    first_counts: Tensor,
    second_counts: Tensor,
    overlap: Overlap,
    min_overlap: float = 0.0,
) -> OverlapPairs:
    """Overlaps within frames, many frames at a time.

    Args:
        first: (N, C) boxes, frame after frame; C = 4 (image boxes), 5 or 7.
        second: (M, C).
        first_counts: (F,) int64, boxes in each frame, N in sum.
        second_counts: (F,) int64, M in sum.
        overlap: one of the paired functions of :mod:`.rotated_iou`.
        min_overlap: pairs must exceed it.

    Returns:
        The pairs, on the device of the boxes.

    Raises:
        ValueError: the counts don't fit the boxes.
    """
    counts = [first_counts.tolist(), second_counts.tolist()]
    if len(counts[0]) != len(counts[1]) or [sum(c) for c in counts] != [len(first), len(second)]:
        raise ValueError(
            f'counts of {len(counts[0])} and {len(counts[1])} frames with {sum(counts[0])} and '
            f'{sum(counts[1])} boxes do not fit {len(first)} and {len(second)} boxes'
        )
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for frames in _frame_chunks(*counts):
        i, j = _same_frame_pairs(first_counts, second_counts, frames)
        i, j = i.to(first.device), j.to(first.device)
        if first.shape[1] != 4:
            near = circles_meet(first, second, i, j)
            i, j = i[near], j[near]
        value = in_chunks(overlap, first, second, i, j)
        above = value > min_overlap
        found.append((i[above], j[above], value[above]))
    empty = torch.zeros(0, dtype=torch.int64, device=first.device)
    found.append((empty, empty, empty.double()))
    return OverlapPairs(*(torch.cat(column) for column in zip(*found, strict=True)))


def _frame_chunks(first_counts: list[int], second_counts: list[int]) -> list[slice]:
    """Runs of frames with a bounded number of pairs each; a frame is never divided."""
    chunks, start, pairs = [], 0, 0
    for frame, (a, b) in enumerate(zip(first_counts, second_counts, strict=True)):
        if pairs and pairs + a * b > _CANDIDATES_AT_A_TIME:
            chunks.append(slice(start, frame))
            start, pairs = frame, 0
        pairs += a * b
    chunks.append(slice(start, len(first_counts)))
    return chunks


def _same_frame_pairs(
    first_counts: Tensor, second_counts: Tensor, frames: slice
) -> tuple[Tensor, Tensor]:
    """Rows of all pairs in these frames, ordered by frame, first, second; int64, CPU."""
    a, b = first_counts[frames].long().cpu(), second_counts[frames].long().cpu()
    size = a * b
    frame = torch.repeat_interleave(torch.arange(len(size)), size)
    local = torch.arange(len(frame)) - (size.cumsum(0) - size)[frame]
    # exclusive sums: where each frame's rows start
    start_a = int(first_counts[: frames.start].sum()) + a.cumsum(0) - a
    start_b = int(second_counts[: frames.start].sum()) + b.cumsum(0) - b
    return start_a[frame] + local // b[frame], start_b[frame] + local % b[frame]
