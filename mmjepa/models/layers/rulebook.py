"""Sparse 3D convolution in plain torch: sorted integer keys, gathers, matrix products.

The fallback where spconv is not installed and the second opinion in tests. A rulebook says which
input row meets which output row under which kernel tap (Graham et al., "3D Semantic Segmentation
with Submanifold Sparse Convolutional Networks", arXiv 1711.10275). Rows are found by binary
search in sorted keys; sums over taps are taken per target row, so nothing depends on the order
of atomic additions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_KEY_LIMIT = 2**62
# On CPU the pairs of 2**10 target rows are gathered at once: these buffers stay in the cache
_BLOCK_BITS = 10


class _Block(NamedTuple):
    """Pairs of the target rows ``first`` to ``last``, sorted by tap, then by target.

    ``taps`` and ``sizes`` are the taps that hold pairs and their numbers of pairs; ``order``
    sorts the pairs by target: row ``first + i`` owns ``order[pointers[i]:pointers[i + 1]]``.
    """

    first: int
    last: int
    source: Tensor
    target: Tensor
    taps: list[int]
    sizes: list[int]
    order: Tensor
    pointers: Tensor


class Rulebook(NamedTuple):
    """How to sum over the taps, towards the outputs and back towards the inputs.

    Attributes:
        forward: blocks with outputs as targets, inputs as sources.
        backward: blocks with inputs as targets, outputs as sources.
        mirrored: the backward taps count from the kernel's other end.
        num_out: output rows.
    """

    forward: list[_Block]
    backward: list[_Block]
    mirrored: bool
    num_out: int


def _strides(sizes: Sequence[int]) -> list[int]:
    """Row-major strides of a (B, D, H, W) grid; raises where its cells outnumber int64 keys."""
    strides = [1]
    for size in reversed(sizes):
        strides.insert(0, strides[0] * size)
    if strides[0] >= _KEY_LIMIT:
        raise ValueError(f'a grid of {tuple(sizes)} cells (batch, z, y, x) overflows int64 keys')
    return strides[1:]


def _blocks(
    tap: Tensor, source: Tensor, target: Tensor, num_taps: int, num_targets: int
) -> list[_Block]:
    """Sorts pairs (P,) of rows by block of target rows, tap and target."""
    row_bits = _BLOCK_BITS if tap.device.type == 'cpu' else max(num_targets - 1, 1).bit_length()
    tap_bits = (num_taps - 1).bit_length()
    count = (num_targets - 1 >> row_bits) + 1
    # small keys halve the time of the sort
    key_type = torch.int32 if count << row_bits + tap_bits < 2**31 else torch.int64
    tap, target = tap.to(key_type), target.to(key_type)
    group = (target >> row_bits << tap_bits) + tap
    key, place = torch.sort((group << row_bits) + (target & (1 << row_bits) - 1))
    target = target.index_select(0, place)
    source = source.index_select(0, place).to(key_type)
    _, order = torch.sort(target, stable=True)
    pairs = torch.bincount(target, minlength=num_targets)
    pointers = F.pad(pairs.cumsum(0), (1, 0)).to(key_type)
    groups = torch.bincount(key >> row_bits, minlength=count << tap_bits)
    blocks, start = [], 0
    for i, sizes in enumerate(groups.view(count, -1).tolist()):
        first, last = i << row_bits, min(i + 1 << row_bits, num_targets)
        part = slice(start, start + sum(sizes))
        blocks.append(
            _Block(
                first,
                last,
                source[part],
                target[part],
                [number for number, size in enumerate(sizes) if size],
                [size for size in sizes if size],
                (order[part] - start).to(key_type),
                pointers[first : last + 1] - start,
            )
        )
        start = part.stop
    return blocks


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
    num = indices.shape[0]
    depth, height, width = kernel_size
    # the margin keeps a neighbour beyond one row's end from being the next row's first cell
    margins = [size + k // 2 for size, k in zip(spatial_shape, kernel_size, strict=True)]
    strides = _strides([batch_size, *margins])
    keys, rows = torch.sort(_number(indices.long(), strides))
    ended = F.pad(keys, (0, 1), value=_KEY_LIMIT)
    volume = depth * height * width
    hits, places = [], []
    for line in range(depth * height // 2, depth * height):  # along x; the other half mirrors it
        z, y = line // height - depth // 2, line % height - height // 2
        wanted = keys + (z * strides[1] + y * strides[2] - width // 2)
        place = torch.searchsorted(keys, wanted)
        for tap in range(line * width, (line + 1) * width):
            hit = ended[place] == wanted
            if tap > volume // 2:
                hits.append(hit)
                places.append(place)
            place, wanted = place + hit, wanted + 1
    flat = torch.stack(hits).view(-1).nonzero().view(-1)
    half = torch.div(flat, num, rounding_mode='floor')
    source = rows.index_select(0, torch.stack(places).view(-1).index_select(0, flat))
    target = rows.index_select(0, flat - half * num)
    # source -> target under a tap is target -> source under the mirrored one
    tap = torch.cat([volume // 2 + 1 + half, volume // 2 - 1 - half, rows.new_full((num,), volume // 2)])
    pairs = torch.cat([source, target, rows]), torch.cat([target, source, rows])
    blocks = _blocks(tap, *pairs, volume, num)
    return Rulebook(blocks, blocks, True, num)


def _number(cells: Tensor, strides: Sequence[int]) -> Tensor:
    return sum(column * step for column, step in zip(cells.unbind(1), strides, strict=True))


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
    strides = _strides([batch_size, *out_shape])
    cells = indices.long()
    number, valid = [], torch.ones_like(cells[:, 0], dtype=torch.bool)[None]
    for axis in range(3):
        tap = torch.arange(kernel_size[axis], device=indices.device)[:, None]
        moved = cells[:, axis + 1] + (padding[axis] - tap)
        place = torch.div(moved, stride[axis], rounding_mode='floor')
        fits = (place * stride[axis] == moved) & (place >= 0) & (place < out_shape[axis])
        valid = (valid[:, None] & fits).flatten(0, 1)
        number.append((place * strides[axis + 1]).view(-1))
    num, (_, height, width) = len(cells), kernel_size
    flat = valid.view(-1).nonzero().view(-1)
    tap = torch.div(flat, num, rounding_mode='floor')
    source = flat - tap * num
    key = cells[:, 0].index_select(0, source) * strides[0]
    for axis, step in enumerate((tap // (height * width), tap // width % height, tap % width)):
        key += number[axis].index_select(0, step * num + source)
    out_keys, target = torch.unique(key, return_inverse=True)
    columns, rest = [], out_keys
    for step in strides:
        columns.append(torch.div(rest, step, rounding_mode='floor'))
        rest = rest - columns[-1] * step
    rules = Rulebook(
        _blocks(tap, source, target, len(valid), len(out_keys)),
        _blocks(tap, target, source, len(valid), num),
        False,
        len(out_keys),
    )
    return torch.stack(columns, 1).int(), rules


class _RulebookConv(torch.autograd.Function):
    """out[o] = sum over pairs (i, o, tap) of weight[:, tap] @ features[i]."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        taps = weight.flatten(1, 3).permute(1, 2, 0).unbind()  # (in, out) each
        out = features.new_empty(rules.num_out, weight.shape[0])
        for block in rules.forward:
            gathered = features.index_select(0, block.source)
            product = gathered.new_empty(gathered.shape[0], weight.shape[0])
            parts = zip(
                block.taps, gathered.split(block.sizes), product.split(block.sizes), strict=True
            )
            for tap, rows, result in parts:
                torch.mm(rows, taps[tap], out=result)
            out[block.first : block.last] = _sum_rows(product, block)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        need_features, need_weight = ctx.needs_input_grad[:2]
        taps = list(weight.flatten(1, 3).unbind(1))  # (out, in) each
        grad_features = torch.empty_like(features) if need_features else None
        grad_taps = weight.new_zeros(len(taps), weight.shape[0], weight.shape[-1])
        grads_of = list(grad_taps.unbind())
        if ctx.rules.mirrored:
            taps.reverse()
            grads_of.reverse()
        grad_out = grad_out.contiguous()
        for block in ctx.rules.backward:
            grads = grad_out.index_select(0, block.source)
            product = grads.new_empty(grads.shape[0], features.shape[1])
            grads_by_tap, rows_by_tap = grads.split(block.sizes), product.split(block.sizes)
            if need_weight:
                torch.index_select(features, 0, block.target, out=product)
                for tap, grad, rows in zip(block.taps, grads_by_tap, rows_by_tap, strict=True):
                    grads_of[tap].addmm_(grad.t(), rows)
            if grad_features is not None:
                for tap, grad, rows in zip(block.taps, grads_by_tap, rows_by_tap, strict=True):
                    torch.mm(grad, taps[tap], out=rows)
                grad_features[block.first : block.last] = _sum_rows(product, block)
        grad_weight = grad_taps.transpose(0, 1).reshape(weight.shape) if need_weight else None
        return grad_features, grad_weight, None


def _sum_rows(rows: Tensor, block: _Block) -> Tensor:
    """(last - first, C) sums of the pairs of each target row."""
    if not rows.shape[0]:
        return rows.new_zeros(block.last - block.first, rows.shape[1])
    return F.embedding_bag(
        block.order, rows, block.pointers, mode='sum', include_last_offset=True
    )


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
