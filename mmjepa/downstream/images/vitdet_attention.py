"""Self-attention over a grid of tokens, in windows and with relative positions (ViTDet)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.layers.transformer import Attention


def to_windows(x: Tensor, size: int) -> Tensor:
    """(B, h, w, D) -> (B * windows, size, size, D), with zeros below and to the right."""
    _, height, width, _ = x.shape
    x = F.pad(x, (0, 0, 0, -width % size, 0, -height % size))
    # B, rows of windows, size, columns of windows, size, D
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(0, 2)


def from_windows(windows: Tensor, grid: Sequence[int]) -> Tensor:
    """Undo of :func:`to_windows` for a ``grid`` of (h, w) tokens."""
    size = windows.shape[1]
    rows, columns = (-(-length // size) for length in grid)
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, : grid[0], : grid[1]]


def relative_table(offsets: Tensor, length: int) -> Tensor:
    """Vectors of relative positions along one axis.

    Args:
        offsets: (2 * native - 1, d), for offsets -(native - 1) to native - 1.
        length: of the axis; interpolated linearly where it isn't the native one.

    Returns:
        (length, length, d); entry [i, j] belongs to query i and key j.
    """
    wanted = 2 * length - 1
    if len(offsets) != wanted:
        rows = F.interpolate(offsets.float().t()[None], wanted, mode='linear')
        offsets = rows[0].t().to(offsets.dtype)
    places = torch.arange(length, device=offsets.device)
    return offsets[places[:, None] - places + length - 1]


class GridAttention(Attention):
    """Attention for (B, h, w, D) tokens that takes over the weights of a plain one.

    As in ViTDet (arXiv 2203.16527), the zeros that fill the last windows take part as keys, and
    relative positions, zero at the start, add ``q . R_row[i, i'] + q . R_column[j, j']`` to the
    scaled product of query (i, j) and key (i', j'). No N x N bias is stored for this: the two
    terms of every query are appended to it, and a one-hot code of row and column to every key, so
    that ``scaled_dot_product_attention`` adds them up.

    Args:
        plain: the attention whose ``qkv`` and ``proj`` this one uses.
        window: side of the windows in tokens; 0 attends to all tokens.
        rel_pos: (rows, columns) that the relative positions are made for; None: without.
    """

    rel_pos_h: nn.Parameter | None
    rel_pos_w: nn.Parameter | None

    def __init__(self, plain: Attention, window: int = 0, rel_pos: tuple[int, int] | None = None):
        nn.Module.__init__(self)  # no weights of its own to draw
        self.num_heads, self.qkv, self.proj = plain.num_heads, plain.qkv, plain.proj
        self.window = window
        width = self.proj.in_features // self.num_heads
        for name, length in zip(('rel_pos_h', 'rel_pos_w'), rel_pos or (0, 0), strict=True):
            table = nn.Parameter(torch.zeros(2 * length - 1, width)) if length else None
            self.register_parameter(name, table)

    def forward(self, x: Tensor, rope: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """(B, h, w, D) -> (B, h, w, D); ``rope`` as in :func:`.positions.rotate`.

        Raises:
            ValueError: ``valid``; a grid has no filling.
        """
        if valid is not None:
            raise ValueError('attention on a grid of tokens sees all of them: valid must be None')
        if not self.window:
            return self._attend(x, rope)
        return from_windows(self._attend(to_windows(x, self.window), rope), x.shape[1:3])

    def _attend(self, x: Tensor, rope: Tensor | None) -> Tensor:
        grid, tokens = x.shape[1:3], x.flatten(1, 2)
        if self.rel_pos_h is None:
            return super().forward(tokens, rope).unflatten(1, grid)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        q, k = self._with_positions(q, k, grid, scale)
        x = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return self.proj(x.transpose(1, 2).flatten(2)).unflatten(1, grid)

    def _with_positions(
        self, q: Tensor, k: Tensor, grid: Sequence[int], scale: float
    ) -> tuple[Tensor, Tensor]:
        """(B, heads, N, d) queries and keys with h + w more channels, filled up to 8 n."""
        assert self.rel_pos_h is not None and self.rel_pos_w is not None
        (h, w), tables = grid, (self.rel_pos_h, self.rel_pos_w)
        rows, columns = (
            relative_table(t, n).to(q.dtype) for t, n in zip(tables, grid, strict=True)
        )
        q_grid = q.unflatten(2, grid)
        terms = [
            torch.einsum('bnijd,ikd->bnijk', q_grid, rows),
            torch.einsum('bnijd,jkd->bnijk', q_grid, columns),
        ]
        eye = torch.eye(max(h, w), dtype=k.dtype, device=k.device)
        codes = torch.cat([eye[:h, :h].repeat_interleave(w, 0), eye[:w, :w].repeat(h, 1)], 1)
        fill = (0, -(q.shape[-1] + h + w) % 8)  # fused kernels ask for it
        q = torch.cat([q, torch.cat(terms, -1).flatten(2, 3) / scale], -1)
        k = torch.cat([k, codes.expand(*k.shape[:2], -1, -1)], -1)
        return F.pad(q, fill), F.pad(k, fill)
