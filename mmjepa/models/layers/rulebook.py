"""Sparse 3D convolution in plain torch: sorted integer keys, gathers, matrix products.

The fallback where spconv is not installed and the second opinion in tests. A rulebook says which
input row meets which output row under which kernel tap (Graham et al., "3D Semantic Segmentation
with Submanifold Sparse Convolutional Networks", arXiv 1711.10275). Rows are found by binary
search in sorted keys; sums over taps are taken per target row, so nothing depends on the order
of atomic additions.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Most numbers (pairs times channels) of a block on CPU: 8 MiB of products stay in the cache
_BLOCK_NUMBERS = 2**21


class _Block(NamedTuple):
    """Pairs of the target rows ``first`` to ``last``, sorted by tap, then by target.

    ``taps`` are the taps that hold pairs and ``sizes`` their numbers of pairs; ``order`` sorts
    the pairs by target: row ``first + i`` owns ``order[pointers[i]:pointers[i + 1]]``.
    """

    first: int
    last: int
    taps: list[int]
    sizes: list[int]
    source: Tensor
    target: Tensor
    order: Tensor
    pointers: Tensor


class Rulebook:
    """How to sum over the taps, towards the outputs and back towards the inputs.

    Args:
        forward: blocks with outputs as targets and inputs as sources.
        num_out: output rows.
        centre: for a submanifold convolution the tap that maps each row to itself, in no block;
            its forward blocks serve backward with the taps counted from the other end. For a
            strided one a function that makes the backward blocks, called if they are needed.
    """

    def __init__(
        self, forward: list[_Block], num_out: int, centre: int | Callable[[], list[_Block]]
    ) -> None:
        self.forward = forward
        self.num_out = num_out
        self.centre = centre if isinstance(centre, int) else None
        self._backward = forward if isinstance(centre, int) else centre

    @property
    def backward(self) -> list[_Block]:
        """Blocks with inputs as targets and outputs as sources."""
        if callable(self._backward):
            self._backward = self._backward()
        return self._backward


def _strides(sizes: Sequence[int]) -> tuple[list[int], torch.dtype]:
    """Row-major strides of a (B, D, H, W) grid, and the smallest type that numbers its cells."""
    strides = [1]
    for size in reversed(sizes):
        strides.insert(0, strides[0] * size)
    if strides[0] >= 2**62:
        raise ValueError(f'a grid of {tuple(sizes)} cells (batch, z, y, x) overflows int64 keys')
    # half of each type's range is left for the neighbours of the last cells
    return strides[1:], torch.int32 if strides[0] < 2**30 else torch.int64


def _blocks(
    pairs: tuple[Tensor, Tensor, Tensor], num_taps: int, num_targets: int, channels: int
) -> list[_Block]:
    """Sorts pairs (tap, source, target), (P,) each, by block of target rows, tap and target."""
    if num_targets * num_taps >= 2**31:
        raise ValueError(f'{num_targets} rows times {num_taps} taps are too many for a rulebook')
    if not num_targets:
        return []
    tap, source, target = (part.int() for part in pairs)  # sorts in half the time of int64
    row_bits = max(num_targets - 1, 1).bit_length()
    if not tap.is_cuda:  # there one block
        rows = _BLOCK_NUMBERS // (channels * (len(tap) // num_targets + 1))
        row_bits = min(row_bits, max(rows, 256).bit_length() - 1)
    tap_bits = (num_taps - 1).bit_length()
    count = (num_targets - 1 >> row_bits) + 1
    # a key of few values sorts fast, and stable keeps the targets of a tap together
    group = (target >> row_bits << tap_bits) + tap
    place = torch.sort(group, stable=True)[1]
    source, target = source.index_select(0, place), target.index_select(0, place)
    order = torch.sort(target, stable=True)[1].int()
    pointers = F.pad(torch.bincount(target, minlength=num_targets).cumsum(0), (1, 0)).int()
    counts = torch.bincount(group, minlength=count << tap_bits)
    blocks, start = [], 0
    for i, sizes in enumerate(counts.view(count, -1).tolist()):
        first, last = i << row_bits, min(i + 1 << row_bits, num_targets)
        part = slice(start, start + sum(sizes))
        blocks.append(
            _Block(
                first,
                last,
                [number for number, size in enumerate(sizes) if size],
                [size for size in sizes if size],
                source[part],
                target[part],
                order[part] - start,
                pointers[first : last + 1] - start,
            )
        )
        start = part.stop
    return blocks


def submanifold_rules(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
    channels: int = 64,
) -> Rulebook:
    """Rules of a submanifold convolution (odd kernel, stride 1, outputs = inputs).

    Args:
        indices: (N, 4) integers b, z, y, x, each cell at most once.
        batch_size: number of samples B.
        spatial_shape: D, H, W of the grid.
        kernel_size: odd sizes kd, kh, kw.
        channels: of the widest features to come; sets the size of the blocks, nothing else.

    Raises:
        ValueError: B * D * H * W does not fit int64 keys.
    """
    num, (depth, height, width) = len(indices), kernel_size
    # the margin keeps a neighbour beyond one row's end from being the next row's first cell
    margins = [size + k // 2 for size, k in zip(spatial_shape, kernel_size, strict=True)]
    strides, key_type = _strides([batch_size, *margins])
    batch, z, y, x = indices.to(key_type).unbind(1)
    keys, rows = ((batch * strides[0] + z * strides[1]) + y * strides[2]) + x, None
    if keys.is_cuda or bool((keys[1:] <= keys[:-1]).any()):  # on CUDA a look costs more
        keys, rows = torch.sort(keys)
    ended = F.pad(keys, (0, 1), value=torch.iinfo(key_type).max)
    volume = depth * height * width
    hits, places = [], []
    for line in range(depth * height // 2, depth * height):  # along x; the other half mirrors it
        start = max(line * width, volume // 2 + 1)
        shift = (line // height - depth // 2) * strides[1]
        shift += (line % height - height // 2) * strides[2] + start % width - width // 2
        wanted = keys + shift
        if start == volume // 2 + 1:  # right behind each cell itself
            place = torch.arange(1, num + 1, dtype=torch.int32, device=keys.device)
        else:
            place = torch.searchsorted(keys, wanted, out_int32=True)
        for _ in range(start, (line + 1) * width):
            hit = ended.index_select(0, place) == wanted
            hits.append(hit)
            places.append(place)
            place, wanted = place + hit, wanted + 1
    flat = torch.cat(hits).nonzero().view(-1)
    second = torch.cat(places).index_select(0, flat)
    flat = flat.int()
    half = torch.div(flat, num, rounding_mode='floor')
    first = flat - half * num
    if rows is not None:
        rows = rows.int()
        first, second = rows.index_select(0, first), rows.index_select(0, second)
    # the second row feeds the first under a tap, the first the second under the mirrored tap
    tap = torch.cat([half + (volume // 2 + 1), -half + (volume // 2 - 1)])
    pairs = (tap, torch.cat([second, first]), torch.cat([first, second]))
    return Rulebook(_blocks(pairs, volume, num, channels), num, volume // 2)


def strided_rules(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    out_shape: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    channels: int = 64,
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
        channels: of the widest features to come; sets the size of the blocks, nothing else.

    Returns:
        (N_out, 4) int32 coordinates of the outputs, sorted, and the rules.

    Raises:
        ValueError: the output grid does not fit int64 keys.
    """
    strides, key_type = _strides([batch_size, *out_shape])
    cells = indices.to(key_type)
    key = cells[None, :, 0] * strides[0]
    valid = torch.ones_like(key, dtype=torch.bool)
    for axis in range(3):
        tap = torch.arange(kernel_size[axis], dtype=key_type, device=indices.device)
        moved = cells[:, axis + 1] + (padding[axis] - tap)[:, None]
        place = torch.div(moved, stride[axis], rounding_mode='floor')
        fits = (place * stride[axis] == moved) & (place >= 0) & (place < out_shape[axis])
        key = (key[:, None] + place * strides[axis + 1]).flatten(0, 1)
        valid = (valid[:, None] & fits).flatten(0, 1)
    volume, num = valid.shape
    flat = valid.view(-1).nonzero().view(-1)
    out_keys, out_rows = torch.unique(key.view(-1).index_select(0, flat), return_inverse=True)
    flat = flat.int()
    tap = torch.div(flat, num, rounding_mode='floor')
    in_rows = flat - tap * num
    rules = Rulebook(
        _blocks((tap, in_rows, out_rows), volume, len(out_keys), channels),
        len(out_keys),
        lambda: _blocks((tap, out_rows, in_rows), volume, num, channels),
    )
    columns, rest = [], out_keys
    for step in strides:
        columns.append(torch.div(rest, step, rounding_mode='floor'))
        rest = rest - columns[-1] * step
    return torch.stack(columns, 1).int(), rules


class _Scratch(threading.local):
    """Buffers that CPU convolutions use again: fresh pages cost more than filling them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, like: Tensor, rows: int, columns: int) -> Tensor:
        """(rows, columns) of undefined content, valid until the next call of that name."""
        if like.device.type != 'cpu':
            return like.new_empty(rows, columns)
        size, buffer = rows * columns, self._buffers.get((name, like.dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name, like.dtype] = like.new_empty(size + size // 4)
        return buffer[:size].view(rows, columns)


_scratch = _Scratch()


class _Gather:
    """Rows of a matrix for one tap after the other of a block, in one buffer."""

    def __init__(self, name: str, matrix: Tensor, block: _Block) -> None:
        self._matrix = matrix
        self._buffer = _scratch.take(name, matrix, max(block.sizes, default=0), matrix.shape[1])

    def __call__(self, rows: Tensor) -> Tensor:
        out = self._buffer[: rows.shape[0]]
        return torch.index_select(self._matrix, 0, rows, out=out)


def _by_tap(block: _Block, *rows: Tensor) -> Iterator[tuple]:
    return zip(block.taps, *(part.split(block.sizes) for part in rows), strict=True)


class _RulebookConv(torch.autograd.Function):
    """out[o] = sum over pairs (i, o, tap) of weight[:, tap] @ features[i]."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        taps = weight.flatten(1, 3).permute(1, 2, 0).unbind()  # (in, out) each
        centre = None if rules.centre is None else taps[rules.centre]
        out = features.new_empty(rules.num_out, weight.shape[0])
        for block in rules.forward:
            products = _scratch.take('products', features, len(block.source), weight.shape[0])
            gather = _Gather('sources', features, block)
            for tap, source, product in _by_tap(block, block.source, products):
                torch.mm(gather(source), taps[tap], out=product)
            _sum_rows(products, block, features, centre, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        need_features, need_weight = ctx.needs_input_grad[:2]
        grad_out = grad_out.contiguous()
        taps = list(weight.flatten(1, 3).unbind(1))  # (out, in) each
        grad_taps = weight.new_zeros(len(taps), weight.shape[0], weight.shape[-1])
        grads_of = list(grad_taps.unbind())
        centre = None
        if ctx.rules.centre is not None:
            centre = taps[ctx.rules.centre]
            torch.mm(grad_out.t(), features, out=grads_of[ctx.rules.centre])
            taps.reverse()
            grads_of.reverse()
        grad_features = torch.empty_like(features) if need_features else None
        for block in ctx.rules.backward:
            products = _scratch.take('products', features, len(block.source), features.shape[1])
            gather = _Gather('sources', grad_out, block)
            gather_features = _Gather('targets', features, block)
            parts = _by_tap(block, block.source, block.target, products)
            for tap, source, target, product in parts:
                grad = gather(source)
                if need_weight:
                    grads_of[tap].addmm_(grad.t(), gather_features(target))
                if need_features:
                    torch.mm(grad, taps[tap], out=product)
            if grad_features is not None:
                _sum_rows(products, block, grad_out, centre, grad_features)
        grad_weight = grad_taps.transpose(0, 1).reshape(weight.shape) if need_weight else None
        return grad_features, grad_weight, None


def _sum_rows(
    products: Tensor, block: _Block, rows: Tensor, centre: Tensor | None, out: Tensor
) -> None:
    """Writes the block's target rows of ``out``: their products, plus the centre's if any."""
    out = out[block.first : block.last]
    if len(products):
        total = F.embedding_bag(
            block.order, products, block.pointers, mode='sum', include_last_offset=True
        )
    else:
        total = torch.zeros_like(out)
    if centre is None:
        out.copy_(total)
    else:
        torch.addmm(total, rows[block.first : block.last], centre, out=out)


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
