"""What is watched while a deep linear network learns."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def product(weights: Sequence[Tensor]) -> Tensor:
    """(d, d) W_L ... W_1 of layers given first to last."""
    out = weights[0]
    for weight in weights[1:]:
        out = weight @ out
    return out


def amplitudes(encoder: Tensor, frame: Tensor, basis: Tensor) -> Tensor:
    """How much of each feature the encoder passes.

    Args:
        encoder: (d, d) product of the layers.
        frame: (d, d) orthogonal, the same product at the start over its scale.
        basis: (d, d), features in columns.

    Returns:
        (d,) diagonal of basis^T frame^T encoder basis.
    """
    return ((frame @ basis) * (encoder @ basis)).sum(0)


def off_diagonal(encoder: Tensor, frame: Tensor, basis: Tensor) -> Tensor:
    """Largest of the entries that :func:`amplitudes` leaves out: 0 while features stay apart."""
    inner = (frame @ basis).T @ encoder @ basis
    return (inner - inner.diag().diag()).abs().max()


def conserved(encoder: Sequence[Tensor], predictor: Sequence[Tensor]) -> list[Tensor]:
    """W_(a+1)^T W_(a+1) - W_a W_a^T between layers, those of the predictor last.

    Gradient flow keeps each of them, whatever the data, while no gradient goes through the target.
    """
    layers = [*encoder, *predictor]
    return [b.T @ b - a @ a.T for a, b in pairwise(layers)]


def hit_times(
    times: NDArray[np.float64], values: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """First times at which columns reach their levels, interpolated between two rows.

    Args:
        times: (n,).
        values: (n, d).
        levels: (d,).

    Returns:
        (d,), NaN where a level isn't reached, or was from the start.
    """
    above = values >= levels
    found = np.full(len(levels), np.nan)
    for i in np.flatnonzero(above.any(0) & ~above[0]):
        k = int(np.argmax(above[:, i]))
        share = (levels[i] - values[k - 1, i]) / (values[k, i] - values[k - 1, i])
        found[i] = times[k - 1] + share * (times[k] - times[k - 1])
    return found
