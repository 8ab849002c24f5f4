"""Decoders: what pre-training needs and fine-tuning drops."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from mmjepa.registry import MODELS

Stride = int | Sequence[int]


def _triple(value: Stride) -> tuple[int, int, int]:
    z, y, x = (value, value, value) if isinstance(value, int) else value
    return (z, y, x)


def _transposed(
    in_channels: int,
    out_channels: int,
    sizes: Sequence[tuple[int, int, int]],
    stride: tuple[int, int, int],
    bias: bool,
) -> nn.ConvTranspose3d:
    """Transposed convolution from grid ``sizes[0]`` to ``sizes[1]``.

    With an odd kernel k and padding (k - 1) / 2 the output is ``(in - 1) * stride + 1`` plus the
    output padding, which must be below the stride. The kernel is the smallest, from 3 on, that
    leaves no output without an input.
    """
    before, after = sizes
    extra = [o - (i - 1) * s - 1 for i, o, s in zip(before, after, stride, strict=True)]
    half = [max(1, s // 2, e) for s, e in zip(stride, extra, strict=True)]
    return nn.ConvTranspose3d(
        in_channels,
        out_channels,
        kernel_size=_triple([2 * n + 1 for n in half]),
        stride=stride,
        padding=_triple(half),
        output_padding=_triple(extra),
        bias=bias,
    )


@MODELS.register_module()
class OccupancyDecoder(nn.Sequential):
    """Transposed convolutions from the encoder's last grid to an occupancy logit per voxel.

    128 -> 32 -> 8 -> 1 channels with strides 2, (4, 2, 2), (3, 2, 2) in z, y, x, BatchNorm and
    ReLU between them. The grid before a layer is the one after it over its stride, rounded up: 41
    slices are reached from 2 by 2 -> 4 -> 14 -> 41, 61 from 3 by 3 -> 6 -> 21 -> 61.

    Args:
        in_channels: channels of the encoder's sparse output.
        in_shape: D_out, h, w of the encoder's last grid.
        out_shape: D, H, W of the voxel grid.
        channels: widths between the layers.
        strides: of the layers, one number or (z, y, x) each.
        prior: probability of occupancy that an untrained decoder says; None leaves PyTorch's
            initialisation, about 0.5, from which a run spends its first hundred steps or so on
            learning that nearly all voxels are empty.

    Raises:
        ValueError: strides that don't lead from one grid to the other, their number, or a prior
            that is no probability.
    """

    def __init__(
        self,
        in_channels: int,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        channels: Sequence[int] = (32, 8),
        strides: Sequence[Stride] = (2, (4, 2, 2), (3, 2, 2)),
        prior: float | None = None,
    ):
        if prior is not None and not 0 < prior < 1:
            raise ValueError(f'prior must lie strictly between 0 and 1, got {prior}')
        if len(strides) != len(channels) + 1:
            raise ValueError(
                f'strides needs {len(channels) + 1} entries for channels {list(channels)}, '
                f'got {strides}'
            )
        steps = [_triple(stride) for stride in strides]
        sizes = [_triple(out_shape)]
        for step in reversed(steps):
            z, y, x = (math.ceil(size / s) for size, s in zip(sizes[0], step, strict=True))
            sizes.insert(0, (z, y, x))
        if sizes[0] != tuple(in_shape):
            raise ValueError(
                f'strides {steps} lead to a voxel grid of {tuple(out_shape)} (z, y, x) from '
                f'{sizes[0]}, but the encoder ends with {tuple(in_shape)}: take another extent or '
                'voxel size (41 and 61 slices in z fit the default strides), or other strides'
            )
        widths = [in_channels, *channels, 1]
        layers: list[nn.Module] = []
        for i, step in enumerate(steps):
            last = i == len(steps) - 1
            layers.append(_transposed(widths[i], widths[i + 1], sizes[i : i + 2], step, last))
            if not last:
                layers += [
                    nn.BatchNorm3d(widths[i + 1], eps=1e-3, momentum=0.01),
                    nn.ReLU(inplace=True),
                ]
        super().__init__(*layers)
        if prior is not None:
            bias = layers[-1].get_parameter('bias')
            nn.init.constant_(bias, math.log(prior / (1 - prior)))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, D_out, h, w) -> logits (B, D, H, W)."""
        return super().forward(features)[:, 0]


@MODELS.register_module()
class CellPointDecoder(nn.Module):
    """One 3x3 convolution on the BEV map: points and a density for every cell.

    Args:
        channels: C of the BEV map.
        num_points: points a cell.

    Raises:
        ValueError: ``num_points`` below 1.
    """

    def __init__(self, channels: int, num_points: int = 20):
        super().__init__()
        if num_points < 1:
            raise ValueError(f'num_points must be at least 1, got {num_points}')
        self.num_points = num_points
        self.conv = nn.Conv2d(channels, 3 * num_points + 1, 3, padding=1)

    def forward(self, bev: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3 * num_points + 1, h, w), the density last."""
        return self.conv(bev)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (n, 3 * num_points + 1) -> points (n, num_points, 3) and density (n,)."""
        return rows[:, :-1].unflatten(1, (self.num_points, 3)), rows[:, -1]
