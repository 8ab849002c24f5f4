"""Position embeddings of tokens on a grid."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_positions(dim: int, height: int, width: int) -> Tensor:
    """Fixed sine-cosine table of a 2D grid, as in MAE and I-JEPA (arXiv 2301.08243).

    The first half of the channels tells the column, the second the row; each half is sin(x w_k),
    then cos(x w_k), with w_k = 10000^(-k / (dim / 4)).

    Args:
        dim: D, a multiple of 4.
        height: rows.
        width: columns.

    Returns:
        (height * width, D) float32, row by row; computed in float64.
    """
    if dim % 4:
        raise ValueError(f'sine-cosine positions of a 2D grid need a multiple of 4, got {dim}')
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], 1)

    columns = axis(width)[None].expand(height, -1, -1)
    rows = axis(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1).float()


def resize_positions(table_1ND: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Bicubic interpolation of a position table, in float32.

    Args:
        table_1ND: (1, N, D), row by row.
        native: rows and columns of the table.
        grid: rows and columns wanted.

    Returns:
        (1, rows * columns, D); the table itself where nothing changes.

    Raises:
        ValueError: the table's length isn't that of ``native``.
    """
    if native == grid:
        return table_1ND
    if table_1ND.shape[1] != native[0] * native[1]:
        raise ValueError(f'a table of {table_1ND.shape[1]} positions is no {native} grid')
    image = table_1ND.float().unflatten(1, native).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=grid, mode='bicubic', align_corners=False)
    return image.permute(0, 2, 3, 1).flatten(1, 2).to(table_1ND.dtype)


def rotary_table(coordinates_NA: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Angles of axial rotary positions (RoPE, arXiv 2104.09864), an equal share for each axis.

    Args:
        coordinates_NA: (N, A) coordinates along A axes.
        head_dim: d of the attention heads.
        theta: base of the frequencies.

    Returns:
        (N, 2, d/2) float32, cosine and sine of each channel pair; pairs beyond the axes' shares
        are not turned.

    Raises:
        ValueError: a head too small for the axes.
    """
    axes = coordinates_NA.shape[1]
    pairs = head_dim // 2 // axes
    if pairs == 0 or head_dim % 2:
        raise ValueError(f'heads of {head_dim} channels cannot turn along {axes} axes')
    omega = theta ** (
        -torch.arange(pairs, dtype=torch.float64, device=coordinates_NA.device) / pairs
    )
    angles = (coordinates_NA.double()[:, :, None] * omega).flatten(1)
    angles = F.pad(angles, (0, head_dim // 2 - angles.shape[1]))
    return torch.stack([angles.cos(), angles.sin()], 1).float()


def rotate(x_BHNd: Tensor, table_BN2p: Tensor) -> Tensor:
    """Turn channel pairs (2k, 2k + 1) of queries or keys.

    Args:
        x_BHNd: (B, heads, N, d).
        table_BN2p: (B or 1, N, 2, d/2) of :func:`rotary_table`.

    Returns:
        (B, heads, N, d) in the type of ``x``, computed in float32.
    """
    cos, sin = table_BN2p[:, None].unbind(3)
    even, odd = x_BHNd.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return turned.flatten(-2).to(x_BHNd.dtype)
