"""Position embeddings of tokens on a grid."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _axis(length: int, dim: int) -> Tensor:
    """(length, dim) float64: sin(x w_k), then cos(x w_k), with w_k = 10000^(-k / (dim / 2))."""
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], 1)


def sincos_positions(
    dim: int, *grid: int, uniform_power: bool = True, row_first: bool = False
) -> Tensor:
    """Fixed sine-cosine table of a 2D or 3D grid.

    Each share of the channels tells one coordinate x: sin(x w_k), then cos(x w_k). In 2D the first
    half tells the column, the second the row, as in MAE and I-JEPA (arXiv 2301.08243). In 3D the
    shares tell time, row and column, as in V-JEPA (arXiv 2404.08471).

    Args:
        dim: D; a multiple of 4 in 2D, of 8 in 3D without ``uniform_power``.
        *grid: rows and columns, or times, rows and columns.
        uniform_power: in 3D, shares of 2 ceil(D / 6) each, of which the last channels beyond D
            are dropped, as V-JEPA's released models have it; False: D/2 for time, D/4 for each
            of the others.
        row_first: in 2D, the row in the first half, as V-JEPA's models of images have it.

    Returns:
        (product of the grid, D) float32, row by row, time by time; computed in float64.

    Raises:
        ValueError: D can't be shared.
    """
    if len(grid) == 2:
        unit, shares = 4, [dim // 2, dim // 2]
    elif uniform_power:
        unit, shares = 1, [2 * math.ceil(dim / 6)] * 3
    else:
        unit, shares = 8, [dim // 2, dim // 4, dim // 4]
    if dim % unit:
        raise ValueError(
            f'sine-cosine positions of a {len(grid)}D grid need a multiple of {unit}, got {dim}'
        )
    parts = []
    for axis, (length, share) in enumerate(zip(grid, shares, strict=True)):
        shape = [1] * len(grid)
        shape[axis] = length
        parts.append(_axis(length, share).view(*shape, share).expand(*grid, share))
    if len(grid) == 2 and not row_first:
        parts.reverse()
    return torch.cat(parts, -1)[..., :dim].flatten(0, -2).float()


def resize_positions(table_1ND: Tensor, native: Sequence[int], grid: Sequence[int]) -> Tensor:
    """Bicubic (2D) or trilinear (3D) interpolation of a position table, in float32.

    Args:
        table_1ND: (1, N, D), row by row, time by time.
        native: (times,) rows and columns of the table.
        grid: those wanted.

    Returns:
        (1, product of ``grid``, D); the table itself where nothing changes.

    Raises:
        ValueError: the table's length isn't that of ``native``, or the grids differ in their axes.
    """
    native, grid = tuple(native), tuple(grid)
    if native == grid:
        return table_1ND
    if table_1ND.shape[1] != math.prod(native) or len(native) != len(grid):
        raise ValueError(
            f'a table of {table_1ND.shape[1]} positions is no {native} grid, or a grid '
            f'{grid} has other axes'
        )
    image = table_1ND.float().transpose(1, 2).unflatten(2, native)
    mode = 'bicubic' if len(grid) == 2 else 'trilinear'
    image = F.interpolate(image, size=grid, mode=mode, align_corners=False)
    return image.flatten(2).transpose(1, 2).to(table_1ND.dtype)


def rotary_table(
    coordinates_NA: Tensor, head_dim: int, theta: float = 10000.0, tiled: bool = False
) -> Tensor:
    """Factors of axial rotary positions (RoPE, arXiv 2104.09864), an equal share for each axis.

    Pair i of an axis turns by x theta^(-i / pairs).

    Args:
        coordinates_NA: (N, A) coordinates along A axes.
        head_dim: d of the attention heads.
        theta: base of the frequencies.
        tiled: V-JEPA 2's released form: channel j of an axis takes the angle of pair j modulo the
            number of pairs, so that the two of a pair take different ones. That is no rotation:
            lengths change and scores depend on more than differences. Its weights need it.

    Returns:
        (N, 2, d) float32, for :func:`rotate`: cosine and signed sine of every channel; 1 and 0
        beyond the axes' shares.

    Raises:
        ValueError: a head too small for the axes.
    """
    axes = coordinates_NA.shape[1]
    pairs = head_dim // 2 // axes
    if pairs == 0 or head_dim % 2:
        raise ValueError(f'heads of {head_dim} channels cannot turn along {axes} axes')
    device = coordinates_NA.device
    omega = theta ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)
    omega = omega.repeat(2) if tiled else omega.repeat_interleave(2)
    angles = (coordinates_NA.double()[:, :, None] * omega).flatten(1)
    angles = F.pad(angles, (0, head_dim - angles.shape[1]))
    sines = angles.sin()
    sines[:, ::2].neg_()
    return torch.stack([angles.cos(), sines], 1).float()


def rotary_grid(
    grid: Sequence[int], head_dim: int, tiled: bool = False, device: torch.device | None = None
) -> Tensor:
    """:func:`rotary_table` of all places of a grid, row by row, time by time: (N, 2, d)."""
    places = torch.cartesian_prod(*(torch.arange(n, device=device) for n in grid))
    return rotary_table(places, head_dim, tiled=tiled)


def rotate(x_BHNd: Tensor, table_BN2d: Tensor) -> Tensor:
    """Turn channel pairs (2k, 2k + 1) of queries or keys.

    Args:
        x_BHNd: (..., B, heads, N, d).
        table_BN2d: (B or 1, N, 2, d) of :func:`rotary_table`.

    Returns:
        (..., B, heads, N, d) in the type of ``x``, computed in float32 at least.
    """
    cos, sin = table_BN2d[:, None].unbind(3)
    swapped = x_BHNd.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x_BHNd * cos + swapped * sin).to(x_BHNd.dtype)
