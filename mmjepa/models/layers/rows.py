"""Gather and scatter of rows with distinct indices, without atomics in either direction."""

from typing import Any

import torch
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, index, grads[0]), None


class _GatherRowsOrZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = table.shape
        padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
        return padded.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        padded = grads[0].new_zeros(ctx.shape[0] + 1, ctx.shape[1])
        # rows of zeros share the last row, whose content is dropped; all others are distinct
        return padded.index_copy_(0, index, grads[0])[:-1], None


class _FillMap(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, tokens: Tensor, index: Tensor, token_id: Tensor, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(index, token_id)
        ctx.token_shape = tokens.shape
        out = tokens.to(dtype).index_select(0, token_id)
        return out.index_copy_(0, index, rows.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad,) = grads
        index, token_id = ctx.saved_tensors
        # one-hot product instead of index_add: thousands of cells fall on two token rows
        member = torch.zeros(
            ctx.token_shape[0], len(token_id), dtype=grad.dtype, device=grad.device
        )
        member.scatter_(0, token_id[None], 1.0).index_fill_(1, index, 0.0)
        return (grad.index_select(0, index).float(), (member @ grad).float(), None, None, None)


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]`` for distinct indices.

    Args:
        table: (N, C).
        index: (n,) int64, no value twice (the gradient would be wrong).
    """
    return _GatherRows.apply(table, index)


def gather_rows_or_zero(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``, zeros where the index is N.

    Args:
        table: (N, C).
        index: (n,) int64 in [0, N]; no value but N twice (the gradient would be wrong).
    """
    return _GatherRowsOrZero.apply(table, index)


def fill_map(
    rows: Tensor, tokens: Tensor, index: Tensor, token_id: Tensor, dtype: torch.dtype
) -> Tensor:
    """A map of rows: ``rows`` at ``index``, ``tokens[token_id]`` elsewhere.

    Args:
        rows: (n, C) float32.
        tokens: (K, C) float32.
        index: (n,) int64, distinct.
        token_id: (N,) int64.
        dtype: type of the result.

    Returns:
        (N, C) of ``dtype``.
    """
    return _FillMap.apply(rows, tokens, index, token_id, dtype)
