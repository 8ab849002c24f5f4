"""Sparse 3D convolution layers; the only file that knows the backends.

spconv computes on CUDA (its default algorithm) and, with its ``Native`` kernels, on CPU; the
torch rulebook computes where spconv is not installed. The choice is made at each forward from
the device of the features, so a module may move between devices. Weights lie in spconv 2.x's
KRSC layout (out, kd, kh, kw, in) under every backend. The layers are plain ``nn.Module``: no
patch of spconv's own modules (mmdet3d makes one) touches the loading of their weights.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from .rows import gather_rows_or_zero
from .rulebook import Rulebook, rulebook_conv, strided_rules, submanifold_rules

BACKENDS = ('spconv', 'rulebook')


@functools.cache
def _spconv() -> SimpleNamespace | None:
    """The parts of spconv in use, or ``None`` where it is not installed."""
    with warnings.catch_warnings():
        # spconv 2.3.6 decorates with torch.cuda.amp.custom_fwd; nothing a user could change
        warnings.filterwarnings('ignore', r'.*torch\.cuda\.amp\.custom_', FutureWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning, module='ccimport')
        try:
            from spconv.core import ConvAlgo
            from spconv.cppconstants import CPU_ONLY_BUILD
            from spconv.pytorch import functional, ops
        except ImportError:
            return None
    return SimpleNamespace(
        algo=ConvAlgo, functional=functional, ops=ops, cpu_only=bool(CPU_ONLY_BUILD)
    )


def backend_name(device: torch.device | str) -> str:
    """``'spconv'`` where it computes on this device, else ``'rulebook'``.

    spconv's CPU-only wheel counts as absent: its backward pass asks for a CUDA stream.
    """
    kind = torch.device(device).type
    found = _spconv()
    usable = found is not None and not found.cpu_only and kind in ('cpu', 'cuda')
    return 'spconv' if usable else 'rulebook'


def native_algorithm() -> Any:
    """Spconv's name for its kernels on CPU tensors; ``None`` where spconv isn't installed."""
    found = _spconv()
    return None if found is None else found.algo.Native


class SparseTensor:
    """Features at the active cells of a (B, D, H, W) grid.

    Args:
        features: (N, C) floats.
        indices: (N, 4) int32 b, z, y, x, each cell at most once, in any order.
        spatial_shape: D, H, W in cells.
        batch_size: number of samples B.
        rules: convolution rules by key, shared by all tensors of one forward pass.

    Raises:
        ValueError: shapes do not fit together.
    """

    def __init__(
        self,
        features: Tensor,
        indices: Tensor,
        spatial_shape: Sequence[int],
        batch_size: int,
        rules: dict[tuple, Any] | None = None,
    ) -> None:
        if features.ndim != 2 or indices.shape != (features.shape[0], 4):
            raise ValueError(
                'a sparse tensor takes features (N, C) and indices (N, 4) = b, z, y, x; got '
                f'{tuple(features.shape)} and {tuple(indices.shape)}'
            )
        if len(spatial_shape) != 3 or batch_size < 1:
            raise ValueError(
                'a sparse tensor takes a spatial shape (D, H, W) and at least one sample; got '
                f'{tuple(spatial_shape)} and batch_size={batch_size}'
            )
        self.features = features
        self.indices = indices.int()
        self.spatial_shape = tuple(int(size) for size in spatial_shape)
        self.batch_size = int(batch_size)
        self.rules = {} if rules is None else rules

    def replace_feature(self, features: Tensor) -> 'SparseTensor':
        """The same cells with other features (N, C')."""
        return SparseTensor(features, self.indices, self.spatial_shape, self.batch_size, self.rules)

    def cell_numbers(self) -> Tensor:
        """(N,) int64 number of each active cell: ((b * D + z) * H + y) * W + x."""
        _, height, width = self.spatial_shape
        batch, z, y, x = self.indices.long().unbind(1)
        return ((batch * self.spatial_shape[0] + z) * height + y) * width + x

    def dense(self) -> Tensor:
        """(B, C, D, H, W), zero where no cell is active."""
        shape = (self.batch_size, *self.spatial_shape)
        rows = self.features.new_zeros(math.prod(shape), self.features.shape[1])
        rows = rows.index_copy(0, self.cell_numbers(), self.features)
        return rows.view(*shape, -1).permute(0, 4, 1, 2, 3).contiguous()


def bev_rows(x: SparseTensor, cells: Tensor) -> Tensor:
    """BEV features of some cells, without the dense map; differentiable.

    Equal to ``x.dense().flatten(1, 2)`` read at the cells: channel c * D + z, zeros where a
    cell has no active site.

    Args:
        x: sparse tensor with C channels on a (B, D, h, w) grid.
        cells: (n,) int64 cell numbers b * h * w + y * w + x, each at most once.

    Returns:
        (n, C * D).
    """
    depth, height, width = x.spatial_shape
    batch, z, row, col = x.indices.long().unbind(1)
    num = x.features.shape[0]
    # row `num` is one of zeros: what a slot without an active site reads
    slots = cells.new_full((x.batch_size * height * width * depth,), num)
    place = ((batch * height + row) * width + col) * depth + z
    slots[place] = torch.arange(num, device=cells.device)
    rows = slots.view(-1, depth)[cells]
    found = gather_rows_or_zero(x.features, rows.flatten()).view(*rows.shape, -1)
    return found.transpose(1, 2).flatten(1)


class _SparseConv(nn.Module):
    """What both convolutions share; see :class:`SubMConv3d` and :class:`SparseConv3d`."""

    # mmdet3d's loader permutes kernels of any other version; a state dict saved from here
    # therefore loads into its encoder as it is
    _version = 2
    submanifold: bool

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        bias: bool,
        indice_key: str | None,
        backend: str | None,
    ) -> None:
        super().__init__()
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f'backend must be one of {BACKENDS} or None, got {backend!r}')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _triple(kernel_size)
        self.stride = _triple(stride)
        self.padding = _triple(padding)
        self.indice_key = indice_key
        self.backend = backend
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel_size, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Spconv's default: kaiming-uniform with a = sqrt(5) over fan_in = in * kernel volume."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def out_shape(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """Grid D, H, W of the output for a grid of the input."""
        if self.submanifold:
            return tuple(spatial_shape)
        return tuple(
            (size + 2 * pad - kernel) // step + 1
            for size, pad, kernel, step in zip(
                spatial_shape, self.padding, self.kernel_size, self.stride, strict=True
            )
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolves; raises ``ValueError`` where channels or grid do not fit."""
        if x.features.shape[1] != self.in_channels:
            raise ValueError(
                f'this convolution takes {self.in_channels} channels, '
                f'the sparse tensor has {x.features.shape[1]}'
            )
        shape = self.out_shape(x.spatial_shape)
        if min(shape) < 1:
            raise ValueError(
                f'a grid of {x.spatial_shape} cells (z, y, x) is too small for kernel '
                f'{self.kernel_size}, stride {self.stride}, padding {self.padding}'
            )
        if not x.features.shape[0]:
            # zero times everything keeps it in the graph, as distributed training needs
            features = x.features.new_zeros(0, self.out_channels)
            features = features + 0 * (self.weight.sum() + x.features.sum())
            return SparseTensor(features, x.indices, shape, x.batch_size, x.rules)
        backend = self.backend or backend_name(x.features.device)
        run = _spconv_forward if backend == 'spconv' else _rulebook_forward
        features, indices = run(self, x, shape)
        if self.bias is not None:
            features = features + self.bias
        return SparseTensor(features, indices, shape, x.batch_size, x.rules)

    def extra_repr(self) -> str:
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, '
            f'stride={self.stride}, padding={self.padding}, bias={self.bias is not None}, '
            f'indice_key={self.indice_key!r}'
        )


class SubMConv3d(_SparseConv):
    """Submanifold convolution: stride 1, outputs exactly at the active inputs.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd size, one or (z, y, x).
        indice_key: layers of one forward pass that share a key share the search for
            neighbours; they must see the same cells.
        bias: add a bias per channel.
        backend: ``'spconv'``, ``'rulebook'``, or ``None`` for what fits the device.

    Raises:
        ValueError: an even kernel or an unknown backend.
    """

    submanifold = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        indice_key: str | None = None,
        bias: bool = False,
        backend: str | None = None,
    ) -> None:
        kernel = _triple(kernel_size)
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f'a submanifold convolution needs an odd kernel, got {kernel}')
        padding = [size // 2 for size in kernel]
        super().__init__(in_channels, out_channels, kernel, 1, padding, bias, indice_key, backend)


class SparseConv3d(_SparseConv):
    """Strided sparse convolution: an output is active where any input meets its window.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size or (z, y, x).
        stride: one step or (z, y, x), in cells.
        padding: one margin or (z, y, x), in cells.
        indice_key: name of this layer's rules within a forward pass.
        bias: add a bias per channel.
        backend: ``'spconv'``, ``'rulebook'``, or ``None`` for what fits the device.

    Raises:
        ValueError: an unknown backend.
    """

    submanifold = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        indice_key: str | None = None,
        bias: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, bias, indice_key, backend
        )


class SparseSequential(nn.Sequential):
    """Runs sparse layers on the sparse tensor and all others on its features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Result of the last layer."""
        for module in self:
            if isinstance(module, _SparseConv | SparseSequential | SparseBasicBlock):
                x = module(x)
            else:
                x = x.replace_feature(module(x.features))
        return x


class SparseBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over active cells (N, C) that survives N = 0.

    Raises:
        ValueError: one single active cell in training mode.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C) -> (N, C)."""
        rows = input.shape[0]
        if rows > 1 or not self.training:
            return super().forward(input)
        if rows == 1:
            raise ValueError(
                'BatchNorm cannot train on a single active cell: the whole batch holds one '
                'voxel at this stage. Use larger batches or leave such sweeps out'
            )
        return input * self.weight + self.bias  # empty; keeps the parameters in the graph


class SparseBasicBlock(nn.Module):
    """Residual block of two submanifold convolutions; keys as mmdet3d's ``SparseBasicBlock``.

    Args:
        channels: channels of input and output.
        indice_key: as in :class:`SubMConv3d`.
        backend: as in :class:`SubMConv3d`.
        eps: of the BatchNorms.
        momentum: of the BatchNorms.
    """

    def __init__(
        self,
        channels: int,
        indice_key: str | None = None,
        backend: str | None = None,
        eps: float = 1e-3,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv1 = SubMConv3d(channels, channels, 3, indice_key, backend=backend)
        self.bn1 = SparseBatchNorm1d(channels, eps=eps, momentum=momentum)
        self.conv2 = SubMConv3d(channels, channels, 3, indice_key, backend=backend)
        self.bn2 = SparseBatchNorm1d(channels, eps=eps, momentum=momentum)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Same cells and channels as ``x``."""
        out = self.conv1(x)
        out = self.conv2(out.replace_feature(self.relu(self.bn1(out.features))))
        return out.replace_feature(self.relu(self.bn2(out.features) + x.features))


def _triple(value: int | Sequence[int]) -> tuple[int, int, int]:
    if isinstance(value, int):
        return (value, value, value)
    z, y, x = value
    return (int(z), int(y), int(x))


def _shared_rules(
    conv: _SparseConv, x: SparseTensor, variant: str, build: Callable[[], Any]
) -> Any:
    """Rules made before under this layer's key for the very same cells, else new ones."""
    key = (conv.indice_key, variant, conv.kernel_size, conv.stride, conv.padding)
    cells, found = x.rules.get(key, (None, None))
    if cells is not x.indices:
        found = build()
        if conv.indice_key is not None:
            x.rules[key] = (x.indices, found)
    return found


def _rulebook_forward(
    conv: _SparseConv, x: SparseTensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    def build() -> tuple[Tensor, Rulebook]:
        grid = (x.indices, x.batch_size, x.spatial_shape)
        if conv.submanifold:
            return x.indices, submanifold_rules(*grid, conv.kernel_size)
        window = (conv.kernel_size, conv.stride, conv.padding)
        return strided_rules(*grid, shape, *window)

    indices, rules = _shared_rules(conv, x, 'rulebook', build)
    return rulebook_conv(x.features, conv.weight, rules), indices


def _spconv_forward(
    conv: _SparseConv, x: SparseTensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    spconv = _spconv()
    if spconv is None:
        raise ImportError(
            "backend='spconv' needs spconv: pip install 'mmjepa[lidar]', or leave backend unset"
        )
    run = _spconv_cuda if x.features.is_cuda else _spconv_native
    return run(spconv, conv, x)


def _spconv_native(
    spconv: SimpleNamespace, conv: _SparseConv, x: SparseTensor
) -> tuple[Tensor, Tensor]:
    """Gather-matmul-scatter kernels, the only ones that spconv has for CPU tensors."""
    algo = spconv.algo.Native
    found = _shared_rules(
        conv,
        x,
        'native',
        lambda: spconv.ops.get_indice_pairs(
            x.indices,
            x.batch_size,
            list(x.spatial_shape),
            algo,
            list(conv.kernel_size),
            list(conv.stride),
            list(conv.padding),
            [1, 1, 1],  # dilation
            [0, 0, 0],  # output padding
            conv.submanifold,
            False,  # transposed
        ),
    )
    indices, pairs, counts = found
    if conv.submanifold:
        # not spconv's view of them: the next layer knows its rules by the tensor of cells
        indices, convolve = x.indices, spconv.functional.indice_subm_conv
    else:
        convolve = spconv.functional.indice_conv
    features = x.features.contiguous()
    return convolve(features, conv.weight, pairs, counts, indices.shape[0], algo), indices


def _spconv_cuda(
    spconv: SimpleNamespace, conv: _SparseConv, x: SparseTensor
) -> tuple[Tensor, Tensor]:
    """Masked implicit GEMM, spconv's default for kernels of up to 32 taps."""
    algo = spconv.algo.MaskImplicitGemm
    train = torch.is_grad_enabled()  # without: half the rules, and no mask kept for backward
    found = _shared_rules(
        conv,
        x,
        f'implicit_train={train}',
        lambda: spconv.ops.get_indice_pairs_implicit_gemm(
            x.indices,
            x.batch_size,
            list(x.spatial_shape),
            algo,
            ksize=list(conv.kernel_size),
            stride=list(conv.stride),
            padding=list(conv.padding),
            dilation=[1, 1, 1],
            out_padding=[0, 0, 0],
            subm=conv.submanifold,
            is_train=train,
        ),
    )
    indices, _, forward, backward, mask_f, mask_b, sort_f, sort_b, masks = found
    features = spconv.functional.implicit_gemm(
        x.features.contiguous(),
        conv.weight,
        forward,
        backward,
        mask_f,
        mask_b,
        sort_f,
        sort_b,
        indices.shape[0],
        masks,
        train,
        conv.submanifold,
    )
    return features, indices
