"""Does the pre-training loss tell how good the features are? Pairs from runs with a probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class LossAccuracy(NamedTuple):
    """One measurement of ``OnlineProbeHook``.

    Attributes:
        step: Iterations done.
        loss: Mean training loss since the measurement before.
        accuracy: Of the probe, in [0, 1].
    """

    step: int
    loss: float
    accuracy: float


def loss_accuracy_pairs(work_dir: str | Path, protocol: str = 'attentive') -> list[LossAccuracy]:
    """The measurements of a run, in their order.

    Args:
        work_dir: Of a training with ``OnlineProbeHook``.
        protocol: Whose accuracy.

    Raises:
        FileNotFoundError: If there is no log.
        ValueError: If the run has no such measurements.
    """
    from mmjepa.visualization.curves import read_scalars

    scalars = read_scalars(work_dir)
    losses = dict(scalars.get('probe/train_loss', []))
    found = [
        LossAccuracy(step, losses[step], value)
        for step, value in scalars.get(f'probe/{protocol}', [])
        if step in losses
    ]
    if not found:
        raise ValueError(
            f'{work_dir}: no probe/{protocol} beside probe/train_loss in its log; train with '
            f"dict(type='OnlineProbeHook', settings=dict(protocols=('{protocol}',)))"
        )
    return found


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: the correlation of ranks, those of equal values averaged; NaN without variation.

    Args:
        first: Numbers.
        second: As many.

    Raises:
        ValueError: On lengths that differ, or fewer than two numbers.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f'rank correlation of {len(first)} and {len(second)} numbers')
    ranks = []
    for values in (np.asarray(first), np.asarray(second)):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)])
    spread = [rank.std() for rank in ranks]
    if min(spread) == 0:
        return float('nan')
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
