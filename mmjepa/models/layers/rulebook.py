"""Sparse 3D convolution in plain torch: sorted integer keys, gathers, matrix products.

The fallback where spconv is not installed and the second opinion in tests. A rulebook says which
input row meets which output row under which kernel tap (Graham et al., "3D Semantic Segmentation
with Submanifold Sparse Convolutional Networks", arXiv 1711.10275). Under one tap a row has at
most one partner, so no two additions race and results are the same in every run.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rulebook(NamedTuple):
    """Pairs of rows by tap.

    Attributes:
        taps: taps that hold pairs; a centre tap that maps each row to itself is not among them.
        inputs: for each of these taps the input rows, int64.
        outputs: the output row that each of them feeds, int64.
        num_out: output rows.
        centre: that centre tap of a submanifold convolution, ``None`` for a strided one.
    """

    taps: list[int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    num_out: int
    centre: int | None


def _strides(sizes: Sequence[int]) -> tuple[list[int], torch.dtype]:
    """Row-major strides of a (B, D, H, W) grid, and the smallest type that numbers its cells."""
    strides = [1]
    for size in reversed(sizes):
        strides.insert(0, strides[0] * size)
    if strides[0] >= 2**62:
        raise ValueError(f'a grid of {tuple(sizes)} cells (batch, z, y, x) overflows int64 keys')
    # half of each type's range is left for the neighbours of the last cells
    return strides[1:], torch.int32 if strides[0] < 2**30 else torch.int64


def submanifold_rules(
    indices: Tensor,
    batch_size: int,
    spatial_shape: Sequence[int],
    kernel_size: Sequence[int],
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
    num, (depth, height, width) = len(indices), kernel_size
    # the margin keeps a neighbour beyond one row's end from being the next row's first cell
    margins = [size + k // 2 for size, k in zip(spatial_shape, kernel_size, strict=True)]
    strides, key_type = _strides([batch_size, *margins])
    batch, z, y, x = indices.to(key_type).unbind(1)
    keys, rows = ((batch * strides[0] + z * strides[1]) + y * strides[2]) + x, None
    if keys.is_cuda or bool((keys[1:] <= keys[:-1]).any()):  # on CUDA a look costs more
        keys, rows = torch.sort(keys)
    ended = F.pad(keys, (0, 1), value=torch.iinfo(key_type).max)
    centre = depth * height * width // 2
    hits, places = [], []
    for line in range(depth * height // 2, depth * height):  # along x; the other half mirrors it
        start = max(line * width, centre + 1)
        shift = (line // height - depth // 2) * strides[1]
        shift += (line % height - height // 2) * strides[2] + start % width - width // 2
        wanted = keys + shift
        if start == centre + 1:  # right behind each cell itself
            place = torch.arange(1, num + 1, dtype=torch.int32, device=keys.device)
        else:
            place = torch.searchsorted(keys, wanted, out_int32=True)
        for _ in range(start, (line + 1) * width):
            hit = ended.index_select(0, place) == wanted
            hits.append(hit)
            places.append(place)
            place, wanted = place + hit, wanted + 1
    if not hits:  # a kernel of one tap
        return Rulebook([], (), (), num, centre)
    sizes = torch.stack(hits).sum(1).tolist()
    flat = torch.cat(hits).nonzero().view(-1)
    neighbour = torch.cat(places).index_select(0, flat).long()
    own = flat % num
    if rows is not None:
        own, neighbour = rows.index_select(0, own), rows.index_select(0, neighbour)
    # the neighbour feeds the cell under a tap, the cell the neighbour under the mirrored tap
    own_rows, neighbour_rows = own.split(sizes), neighbour.split(sizes)
    steps = range(1, len(hits) + 1)
    taps = [centre + step for step in steps] + [centre - step for step in steps]
    inputs, outputs = neighbour_rows + own_rows, own_rows + neighbour_rows
    return Rulebook(taps, inputs, outputs, num, centre)


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
    flat = valid.view(-1).nonzero().view(-1)
    out_keys, out_rows = torch.unique(key.view(-1).index_select(0, flat), return_inverse=True)
    sizes = valid.sum(1).tolist()
    inputs = (flat % len(indices)).split(sizes)
    taps = list(range(len(sizes)))
    rules = Rulebook(taps, inputs, out_rows.split(sizes), len(out_keys), None)
    columns, rest = [], out_keys
    for step in strides:
        columns.append(torch.div(rest, step, rounding_mode='floor'))
        rest = rest - columns[-1] * step
    return torch.stack(columns, 1).int(), rules


class _Gather:
    """Some rows of a matrix, below them leftovers up to a multiple of ``STEP``, in one buffer."""

    STEP = 256  # few shapes for kernels that are compiled by shape

    def __init__(self, matrix: Tensor, rules: Rulebook) -> None:
        self._matrix = matrix
        longest = max((len(rows) for rows in rules.inputs), default=0)
        self._buffer = matrix.new_zeros(longest + self.STEP, matrix.shape[1])

    def __call__(self, rows: Tensor) -> Tensor:
        """(n rounded up, C); valid until the next call."""
        torch.index_select(self._matrix, 0, rows, out=self._buffer[: len(rows)])
        return self._buffer[: -(-len(rows) // self.STEP) * self.STEP]


# What torch.compile calls on CPU. MKL, behind ``mm``, keeps to AVX2 on AMD's processors: half
# the speed of this one, which compiles its code for every new shape.
_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, '_linear_pointwise', None)


def _linear(rows: Tensor, num: int, weight: Tensor) -> Tensor:
    """(num, out): the first rows of (n, in) times (out, in) transposed."""
    large = num >= 512 and weight.numel() >= 1024
    if large and _ONEDNN_LINEAR and not rows.is_cuda and rows.dtype == torch.float32:
        return _ONEDNN_LINEAR(rows, weight, None, 'none', [], '')[:num]
    return rows[:num] @ weight.t()


def _add_rows(out: Tensor, rows: Tensor, values: Tensor) -> None:
    """Adds values (n, C) to n different rows; ``index_add_`` takes four times as long on CPU."""
    out.scatter_add_(0, rows[:, None].expand_as(values), values)


class _RulebookConv(torch.autograd.Function):
    """out[o] = sum over pairs (i, o, tap) of weight[:, tap] @ features[i]."""

    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, rules: Rulebook) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.rules = rules
        taps = weight.flatten(1, 3).transpose(0, 1).contiguous()  # (taps, out, in)
        if rules.centre is None:
            out = features.new_zeros(rules.num_out, weight.shape[0])
        else:
            out = features @ taps[rules.centre].t()
        gather = _Gather(features, rules)
        for tap, i, o in zip(rules.taps, rules.inputs, rules.outputs, strict=True):
            _add_rows(out, o, _linear(gather(i), len(i), taps[tap]))
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        rules, (need_features, need_weight) = ctx.rules, ctx.needs_input_grad[:2]
        grad_out = grad_out.contiguous()
        taps = weight.flatten(1, 3).permute(1, 2, 0).contiguous()  # (taps, in, out)
        grad_taps = weight.new_zeros(len(taps), weight.shape[0], weight.shape[-1])
        grad_features = torch.zeros_like(features) if need_features else None
        if rules.centre is not None:
            if need_weight:
                torch.mm(grad_out.t(), features, out=grad_taps[rules.centre])
            if grad_features is not None:
                torch.mm(grad_out, taps[rules.centre].t(), out=grad_features)
        gather, gather_grad = _Gather(features, rules), _Gather(grad_out, rules)
        for tap, i, o in zip(rules.taps, rules.inputs, rules.outputs, strict=True):
            grad = gather_grad(o)
            if need_weight:
                torch.mm(grad[: len(o)].t(), gather(i)[: len(i)], out=grad_taps[tap])
            if grad_features is not None:
                _add_rows(grad_features, i, _linear(grad, len(i), taps[tap]))
        grad_weight = grad_taps.transpose(0, 1).reshape(weight.shape) if need_weight else None
        return grad_features, grad_weight, None


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
