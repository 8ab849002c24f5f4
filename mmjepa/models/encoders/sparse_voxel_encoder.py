"""Sparse-voxel LiDAR encoder with mmdet3d's ``SparseEncoder`` keys."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmjepa.models.layers.sparse_ops import (
    SparseBasicBlock,
    SparseBatchNorm1d,
    SparseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    bev_rows,
)
from mmjepa.registry import MODELS

Padding = int | Sequence[int]

_CHANNELS: dict[str, Sequence[Sequence[int]]] = {
    'conv_module': ((16,), (32, 32, 32), (64, 64, 64), (64, 64, 64)),
    'basicblock': ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
}
_PADDINGS: dict[str, Sequence[Sequence[Padding]]] = {
    'conv_module': ((1,), (1, 1, 1), (1, 1, 1), ((0, 1, 1), 1, 1)),
    'basicblock': ((0, 0, 1), (0, 0, 1), (0, 0, (0, 1, 1)), (0, 0)),
}


@MODELS.register_module()
class SparseVoxelEncoder(nn.Module):
    """SECOND's sparse backbone (VoxelBackBone8x = mmdet3d ``SparseEncoder``), 8x down in y, x.

    Twelve bias-free sparse convolutions, each with BatchNorm and ReLU; 711,872 parameters at
    four input channels. The state dict has exactly mmdet3d's 72 keys and kernel layout. BEV
    channel order is c * D_out + z. Computes in fp32 under autocast.

    As in mmdet3d, the layers without padding in z leave the topmost slice of an even grid out;
    the usual grids (D = 41 and 61, one slice more than the range holds) lose nothing by that.

    Args:
        in_channels: F of the voxel features.
        sparse_shape: D, H, W of the voxel grid (z, y, x); mmdet3d adds one slice in z.
        base_channels: width of the first convolution.
        output_channels: C of the last convolution.
        encoder_channels: widths, one tuple a stage; ``None``: the published ones.
        encoder_paddings: paddings of the same structure, an int or (z, y, x) each.
        block_type: ``'conv_module'`` (published) or ``'basicblock'`` (VoxelResBackBone8x, where
            the strided convolution closes the stage before).
        norm_eps: eps of the BatchNorms.
        norm_momentum: weight of the new batch statistics in the running ones.
        backend: ``'spconv'``, ``'rulebook'``, or ``None`` for what fits the device.

    Attributes:
        out_depth: D_out, slices left in z.
        out_channels: C_bev = output_channels * D_out.
        stride: voxels per BEV cell in y and x.
        bev_shape: (h, w) of the BEV map.

    Raises:
        ValueError: unknown ``block_type``, channels and paddings of different structure, or a
            grid too small for the strides.
    """

    def __init__(
        self,
        in_channels: int,
        sparse_shape: Sequence[int],
        base_channels: int = 16,
        output_channels: int = 128,
        encoder_channels: Sequence[Sequence[int]] | None = None,
        encoder_paddings: Sequence[Sequence[Padding]] | None = None,
        block_type: str = 'conv_module',
        norm_eps: float = 1e-3,
        norm_momentum: float = 0.01,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if block_type not in _CHANNELS:
            raise ValueError(f'block_type must be one of {tuple(_CHANNELS)}, got {block_type!r}')
        channels = encoder_channels or _CHANNELS[block_type]
        paddings = encoder_paddings or _PADDINGS[block_type]
        if [len(stage) for stage in channels] != [len(stage) for stage in paddings]:
            raise ValueError(
                f'encoder_channels {channels} and encoder_paddings {paddings} differ in structure'
            )
        if len(sparse_shape) != 3:
            raise ValueError(f'sparse_shape must be [D, H, W], got {sparse_shape}')
        self.in_channels = in_channels
        self.sparse_shape = tuple(int(size) for size in sparse_shape)
        self.block_type = block_type
        self.backend = backend
        self._norm = (norm_eps, norm_momentum)
        self.conv_input = self._block(
            SubMConv3d(in_channels, base_channels, 3, 'subm1', backend=backend)
        )
        self.encoder_layers = SparseSequential()
        width = base_channels
        for i in range(len(channels)):
            layers, width = self._stage(i, width, channels, paddings)
            self.encoder_layers.add_module(f'encoder_layer{i + 1}', SparseSequential(*layers))
        self.conv_out = self._block(
            SparseConv3d(
                width, output_channels, (3, 1, 1), (2, 1, 1), 0, 'spconv_down2', backend=backend
            )
        )
        self._derive_shapes(output_channels)

    def _block(self, conv: SubMConv3d | SparseConv3d) -> SparseSequential:
        norm = SparseBatchNorm1d(conv.out_channels, *self._norm)
        return SparseSequential(conv, norm, nn.ReLU(inplace=True))

    def _stage(
        self,
        i: int,
        width: int,
        channels: Sequence[Sequence[int]],
        paddings: Sequence[Sequence[Padding]],
    ) -> tuple[list[nn.Module], int]:
        """Layers of stage ``i`` and their output width."""
        residual = self.block_type == 'basicblock'
        layers: list[nn.Module] = []
        for j, (out, padding) in enumerate(zip(channels[i], paddings[i], strict=True)):
            if residual:
                strided = j == len(channels[i]) - 1 and i != len(channels) - 1
            else:
                strided = j == 0 and i != 0
            if strided:
                conv = SparseConv3d(
                    width, out, 3, 2, padding, f'spconv{i + 1}', backend=self.backend
                )
                layers.append(self._block(conv))
            elif residual:
                layers.append(SparseBasicBlock(out, f'subm{i + 1}', self.backend, *self._norm))
            else:
                layers.append(
                    self._block(SubMConv3d(width, out, 3, f'subm{i + 1}', backend=self.backend))
                )
            width = out
        return layers, width

    def _derive_shapes(self, output_channels: int) -> None:
        shape, strides = self.sparse_shape, [1, 1]
        for name, module in self.named_modules():
            if isinstance(module, SparseConv3d):
                shape = module.out_shape(shape)
                strides = [a * b for a, b in zip(strides, module.stride[1:], strict=True)]
                if min(shape) < 1:
                    raise ValueError(
                        f'sparse_shape {list(self.sparse_shape)} is too small: {name} would '
                        f'leave a grid of {shape} cells (z, y, x)'
                    )
        self.out_depth = shape[0]
        self.out_channels = output_channels * self.out_depth
        self.stride = strides[0]
        self.bev_shape = (shape[1], shape[2])

    def forward_sparse(self, feats: Tensor, coors: Tensor, batch_size: int) -> SparseTensor:
        """Active sites of the last convolution.

        Args:
            feats: (M, F) voxel features.
            coors: (M, 4) integers b, z, y, x within the batch and ``sparse_shape``, each voxel
                at most once; any order. Not checked on CUDA, where it would wait for the device.
            batch_size: number of samples B.

        Returns:
            Sparse tensor, features (N, output_channels), grid (D_out, h, w). M = 0 gives N = 0.

        Raises:
            ValueError: wrong number of features, or (on CPU) coordinates outside the grid.
        """
        if feats.ndim != 2 or feats.shape[1] != self.in_channels:
            raise ValueError(
                f'the encoder takes voxel features (M, {self.in_channels}), '
                f'got {tuple(feats.shape)}'
            )
        if not coors.is_cuda:
            _check_coordinates(coors, (batch_size, *self.sparse_shape))
        with torch.autocast(feats.device.type, enabled=False):
            x = SparseTensor(feats.float(), coors, self.sparse_shape, batch_size)
            return self.conv_out(self.encoder_layers(self.conv_input(x)))

    def forward(self, feats: Tensor, coors: Tensor, batch_size: int) -> Tensor:
        """BEV map (B, C_bev, h, w), zero where nothing is active; arguments as above."""
        return self.forward_sparse(feats, coors, batch_size).dense().flatten(1, 2)

    @staticmethod
    def bev_rows(sparse_out: SparseTensor, cells: Tensor) -> Tensor:
        """Features (n, C_bev) of cells b * h * w + y * w + x (n,), as the dense map holds them."""
        return bev_rows(sparse_out, cells)


def _check_coordinates(coors: Tensor, sizes: Sequence[int]) -> None:
    if not coors.shape[0]:
        return
    low, high = torch.aminmax(coors, dim=0)
    if bool((low < 0).any()) or bool((high >= high.new_tensor(sizes)).any()):
        raise ValueError(
            f'voxel coordinates (b, z, y, x) from {low.tolist()} to {high.tolist()} do not fit '
            f'{tuple(sizes)} (batch_size and sparse_shape)'
        )
