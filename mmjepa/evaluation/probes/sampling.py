"""Tables of labelled cells over many frames, and balanced random choices from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bev_cells import FrameCells


@dataclass
class CellTable:
    """Labelled cells of several frames, n rows, ordered by frame.

    Attributes:
        frame: (n,) int64 position of the frame in the list of frames.
        cell: (n,) int64 flat index in the grid.
        label: (n,) int64.
        statistics: (n, S) float32.
        ignored: Cells with points that the rule left out.
    """

    frame: NDArray[np.int64]
    cell: NDArray[np.int64]
    label: NDArray[np.int64]
    statistics: NDArray[np.float32]
    ignored: int

    @classmethod
    def from_frames(cls, frames: Sequence[FrameCells]) -> CellTable:
        """Stack the cells of frames; row order = frame order.

        Raises:
            ValueError: Without a frame.
        """
        if not frames:
            raise ValueError('no frame to take cells from')
        return cls(
            np.repeat(np.arange(len(frames)), [len(f.cells) for f in frames]).astype(np.int64),
            np.concatenate([f.cells for f in frames]),
            np.concatenate([f.labels for f in frames]),
            np.concatenate([f.statistics for f in frames]),
            sum(f.ignored for f in frames),
        )

    def counts(self, num_classes: int) -> list[int]:
        """Number of cells of each class."""
        return [int(n) for n in np.bincount(self.label, minlength=num_classes)]


def balanced_rows(
    labels: NDArray[Any], num_classes: int, per_class: int, seed: int
) -> NDArray[np.int64]:
    """Up to ``per_class`` random rows of each class.

    Args:
        labels: (n,) int64.
        num_classes: Number of classes.
        per_class: Largest number of rows of a class.
        seed: Of the choice.

    Returns:
        Ascending row numbers, int64.

    Raises:
        ValueError: If ``per_class`` is below 1.
    """
    if per_class < 1:
        raise ValueError(f'cells per class must be at least 1, got {per_class}')
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(num_classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) > per_class:
            rows = rng.choice(rows, per_class, replace=False)
        chosen.append(rows)
    return np.sort(np.concatenate(chosen)).astype(np.int64)
