"""Sparse 3D convolution in plain torch: sorted integer keys, gathers, matrix products.

The fallback where spconv is not installed and the second opinion in tests. A *rulebook* lists
which input row meets which output row under which kernel tap (Graham et al., "3D Semantic
Segmentation with Submanifold Sparse Convolutional Networks", arXiv 1711.10275). Rows are found
by binary search in sorted keys, sums over taps by ``embedding_bag`` over rows sorted by target,
so nothing depends on the order of atomic additions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_KEY_LIMIT = 2**62


@dataclass(frozen=True)
class Rulebook:
    """Pairs of rows, grouped by kernel tap; every tensor lies on the device of the coordinates.

    Attributes:
        in_rows: (P,) int64, input row of each pair.
        out_rows: (P,) int64, output row of each pair.
        taps: ``(tap, start, end)`` of each group, only those that hold pairs.
        by_out: (P,) order of the pairs by output row, with ``out_ptr`` (N_out + 1,).
        by_in: (P,) order of the pairs by input row, with ``in_ptr`` (N_in + 1,).
        centre: tap that maps every row to itself and is in no group; ``None`` if strided.
    """

    in_rows: Tensor
    out_rows: Tensor
    taps: tuple[tuple[int, int, int], ...]
    by_out: Tensor
    out_ptr: Tensor
    by_in: Tensor
    in_ptr: Tensor
    centre: int | None


def _strides(sizes: Sequence[int]) -> list[int]:
    """Row-major strides of a (B, D, H, W) grid; raises where its cells outnumber int64 keys."""
    strides = [1]
    for size in reversed(sizes):
        strides.insert(0, strides[0] * size)
    if strides[0] >= _KEY_LIMIT:
        raise ValueError(f'a grid of {tuple(sizes)} cells (batch, z, y, x) overflows int64 keys')
    return strides[1:]


def _row_pointers(sorted_rows: Tensor, num_rows: int) -> Tensor:
    bounds = torch.arange(num_rows + 1, device=sorted_rows.device)
    return torch.searchsorted(sorted_rows, bounds)


def _groups(taps: Sequence[int], counts: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    groups, start = [], 0
    for tap, count in zip(taps, counts, strict=True):
        if count:
            groups.append((tap, start, start + count))
        start += count
    return tuple(groups)


def submanifold_rules(
    indices: Tensor, batch_size: int, spatial_shape: Sequence[int], kernel_size: Sequence[int]
) -> Rulebook:
    """Rules of a submanifold convolution (odd kernel, stride 1, outputs = inputs).

    Args:
        indices: (N, 4) integers b, z, y, x, each cell at most once.
        batch_size: number of samples B.
        spatial_shape: D, H, W of the grid.
        kernel_size: odd sizes kd, kh, kw.

    Raises:
        ValueError: B * D * H * W does not fit int64 keys.
    """
    device, num = indices.device, indices.shape[0]
    reach = [k // 2 for k in kernel_size]
    # the margin keeps a neighbour beyond one row's end from being the next row's first cell
    sizes = [batch_size, *(s + r for s, r in zip(spatial_shape, reach, strict=True))]
    strides = _strides(sizes)
    cells = indices.long()
    keys, rows = torch.sort((cells * torch.tensor(strides, device=device)).sum(1))
    ended = torch.cat([keys, keys.new_full((1,), _KEY_LIMIT)])
    hits, found, taps = [], [], []
    kernel_volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
    for tap in range(kernel_volume // 2 + 1, kernel_volume):  # the other half mirrors this one
        z, y, x = (
            tap // (kernel_size[1] * kernel_size[2]) - reach[0],
            tap // kernel_size[2] % kernel_size[1] - reach[1],
            tap % kernel_size[2] - reach[2],
        )
        wanted = keys + (z * strides[1] + y * strides[2] + x)
        place = torch.searchsorted(keys, wanted)
        hits.append(ended[place] == wanted)
        found.append(place)
        taps.append(tap)
    hit = torch.stack(hits)
    which, target = hit.nonzero(as_tuple=True)
    source = rows[torch.stack(found)[which, target]]
    target = rows[target]
    counts = hit.sum(1).tolist()
    # a pair (source -> target) under a tap is a pair (target -> source) under the mirrored tap
    in_rows, out_rows = torch.cat([source, target]), torch.cat([target, source])
    mirrored = [kernel_volume - 1 - tap for tap in taps]
    by_out_rows, by_out = torch.sort(out_rows)
    ptr = _row_pointers(by_out_rows, num)
    half = source.shape[0]
    # pair i and pair i + half are each other's transpose, hence one order serves both ways
    by_in = torch.where(by_out < half, by_out + half, by_out - half)
    groups = _groups(taps + mirrored, counts * 2)
    return Rulebook(in_rows, out_rows, groups, by_out, ptr, by_in, ptr, kernel_volume // 2)


def strided_rules(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    out_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Rulebook]:
    """Rules of a strided convolution: an output is active where any input meets its window.

    Args:
        indices: (N, 4) integers b, z, y, x.
        batch_size: number of samples B.
        spatial_shape: D, H, W of the input grid.
        out_shape: D, H, W of the output grid.
        kernel_size: kd, kh, kw.
        stride: sz, sy, sx.
        padding: pz, py, px.

    Returns:
        (N_out, 4) int32 coordinates of the outputs, sorted, and the rules.

    Raises:
        ValueError: the output grid does not fit int64 keys.
    """
    device, num = indices.device, indices.shape[0]
    strides = _strides([batch_size, *out_shape])
    cells = indices.long()
    key, valid = cells[:, :1] * strides[0], torch.ones_like(cells[:, :1], dtype=torch.bool)
    for axis in range(3):
        tap = torch.arange(kernel_size[axis], device=device)
        moved = cells[:, axis + 1, None] + padding[axis] - tap
        place = torch.div(moved, stride[axis], rounding_mode='floor')
        fits = (place * stride[axis] == moved) & (place >= 0) & (place < out_shape[axis])
        key = (key[:, :, None] + (place * strides[axis + 1])[:, None]).flatten(1)
        valid = (valid[:, :, None] & fits[:, None]).flatten(1)
    valid = valid.t()
    tap_of, in_rows = valid.nonzero(as_tuple=True)
    counts = valid.sum(1).tolist()
    sorted_keys, by_out = torch.sort(key[in_rows, tap_of])
    out_keys, inverse, number = torch.unique_consecutive(
        sorted_keys, return_inverse=True, return_counts=True
    )
    out_rows = torch.empty_like(by_out)
    out_rows[by_out] = inverse
    out_ptr = F.pad(number.cumsum(0), (1, 0))
    by_in_rows, by_in = torch.sort(in_rows)
    columns, rest = [], out_keys
    for step in strides:
        columns.append(torch.div(rest, step, rounding_mode='floor'))
        rest = rest - columns[-1] * step
    groups = _groups(range(len(counts)), counts)
    rules = Rulebook(
        in_rows, out_rows, groups, by_out, out_ptr, by_in, _row_pointers(by_in_rows, num), None
    )
    return torch.stack(columns, 1).int(), rules


class _RulebookConv(torch.autograd.Function):
    """out[o] = sum over pairs (i, o, tap) of weight[:, tap] @ features[i]."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        taps = weight.flatten(1, 3)  # (out, kernel volume, in)
        gathered = features.index_select(0, rules.in_rows)
        product = features.new_empty(gathered.shape[0], weight.shape[0])
        for tap, start, end in rules.taps:
            torch.mm(gathered[start:end], taps[:, tap].t(), out=product[start:end])
        out = _sum_rows(product, rules.by_out, rules.out_ptr)
        if rules.centre is not None:
            out.addmm_(features, taps[:, rules.centre].t())
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        rules, taps = ctx.rules, weight.flatten(1, 3)
        grad_out = grad_out.contiguous()
        grad_features = grad_weight = None
        grad_rows = grad_out.index_select(0, rules.out_rows)
        if ctx.needs_input_grad[0]:
            product = features.new_empty(grad_rows.shape[0], features.shape[1])
            for tap, start, end in rules.taps:
                torch.mm(grad_rows[start:end], taps[:, tap], out=product[start:end])
            grad_features = _sum_rows(product, rules.by_in, rules.in_ptr)
            if rules.centre is not None:
                grad_features.addmm_(grad_out, taps[:, rules.centre])
        if ctx.needs_input_grad[1]:
            grad_taps = torch.zeros_like(taps)
            gathered = features.index_select(0, rules.in_rows)
            for tap, start, end in rules.taps:
                grad_taps[:, tap] = grad_rows[start:end].t() @ gathered[start:end]
            if rules.centre is not None:
                grad_taps[:, rules.centre] = grad_out.t() @ features
            grad_weight = grad_taps.view_as(weight)
        return grad_features, grad_weight, None


def _sum_rows(rows: Tensor, order: Tensor, pointers: Tensor) -> Tensor:
    """Row j of the result is the sum of ``rows[order[pointers[j]:pointers[j + 1]]]``."""
    if not rows.shape[0]:
        return rows.new_zeros(pointers.shape[0] - 1, rows.shape[1])
    return F.embedding_bag(order, rows, pointers, mode='sum', include_last_offset=True)


def rulebook_conv(features: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
    """Sparse convolution by a rulebook, differentiable in features and weight.

    Args:
        features: (N_in, C_in) floats.
        weight: (C_out, kd, kh, kw, C_in), spconv 2.x's layout.
        rules: of :func:`submanifold_rules` or :func:`strided_rules`.

    Returns:
        (N_out, C_out).
    """
    return _RulebookConv.apply(features, weight, rules)
