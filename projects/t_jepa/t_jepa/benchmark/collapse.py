"""Whether a representation tells rows apart, at the start, on the way and at the end."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmjepa.evaluation.functional import effective_rank
from mmjepa.visualization.curves import read_scalars

ROWS = 2048  # measured
COLLAPSED = 0.1  # of the spread of the untrained encoder


def measure(tokens: Tensor) -> dict[str, float]:
    """Of the representation (N, T, H) of rows.

    Returns:
        ``spread``: mean over tokens and channels of the standard deviation over rows; ``rank``:
        effective rank of the T x H numbers of a row, centred; ``uniformity``: log of the mean of
        exp(-2 d^2) over pairs of rows, normalised to length 1 (Wang and Isola, arXiv 2005.10242;
        0 when all are equal, lower is better).
    """
    tokens = tokens[:ROWS].double()
    flat = torch.nn.functional.normalize(tokens.flatten(1), dim=1)
    pairs = torch.pdist(flat).square().mul(-2).exp().mean().log()
    return dict(
        spread=float(tokens.std(0).mean()),
        rank=float(effective_rank(tokens.flatten(1))),
        uniformity=float(pairs),
    )


def trajectory(folder: Path) -> list[tuple[int, float]]:
    """(step, spread) that a training logged: of the target encoder, over the rows of batches."""
    try:
        return read_scalars(folder).get('spread', [])
    except (FileNotFoundError, ValueError):  # a checkpoint without its log
        return []


def state_of(
    start: dict[str, float], end: dict[str, float], logged: list[tuple[int, float]]
) -> dict[str, Any]:
    """How a training went, JSON-ready.

    Args:
        start: of the untrained encoder.
        end: of the trained one, on the same rows.
        logged: the spread on the way.
    """
    lowest = min([(0, start['spread']), *logged, (-1, end['spread'])], key=lambda item: item[1])
    ratio = end['spread'] / start['spread'] if start['spread'] > 0 else math.inf
    return dict(
        start=start, end=end, lowest=lowest[1], lowest_step=lowest[0], verdict=verdict(ratio)
    )


def verdict(ratio: float) -> str:
    """In words, of the spread at the end over that at the start."""
    if ratio < COLLAPSED:
        return 'collapsed'
    return 'below its start' if ratio < 1 else 'escaped'
