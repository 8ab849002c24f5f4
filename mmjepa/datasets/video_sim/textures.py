"""Textures of generated clips."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_uniform


def _spread(size: int, cells: int, shift: Tensor) -> Tensor:
    """(..., size, cells) weights by which points of a closed line read its cells."""
    places = (torch.arange(size, device=shift.device) + 0.5) / size + shift[..., None]
    places = places * cells
    first = places.floor()
    share = places - first
    share = share * share * (3 - 2 * share)  # smooth at the cells
    one_hot = torch.eye(cells, device=shift.device)
    first = first.long() % cells
    return (1 - share)[..., None] * one_hot[first] + share[..., None] * one_hot[(first + 1) % cells]


def tiled_noise(
    keys: Tensor, size: int, cells: Sequence[int], stream: int, shift: Tensor | None = None
) -> Tensor:
    """Smooth colour noise whose opposite edges meet.

    Args:
        keys: (B,) int64, one a texture.
        size: S, pixels of a side.
        cells: Random values along a side, of each octave; the octaves' strengths fall as 1 / n.
        stream: Of the random numbers; takes ``len(cells)`` streams from there on.
        shift: (B, T, 2) how far to the left and up it lies, in sides; None: not, with T = 1.

    Returns:
        (B, T, 3, S, S) float32 in [-1, 1].
    """
    shift = keys.new_zeros(1, 1, 2, dtype=torch.float32) if shift is None else shift
    total = torch.zeros((), device=keys.device)
    for octave, count in enumerate(cells):
        numbers = torch.arange(3 * count * count, device=keys.device)
        values = counter_uniform(keys[:, None], numbers, stream + octave)
        values = (2 * values - 1).view(-1, 1, 3, count, count) / (octave + 1)
        columns, rows = (_spread(size, count, s).unsqueeze(2) for s in shift.unbind(-1))
        total = total + rows @ values @ columns.transpose(-1, -2)
    return total / sum(1 / (octave + 1) for octave in range(len(cells)))
