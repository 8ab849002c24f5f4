"""From the maps of a plain ViT, all of one size, to what dense heads take."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS

from .norm import build_norm


def _double(channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, out_channels, 2, 2)


def _check_count(maps: Sequence[Tensor], count: int, neck: nn.Module) -> None:
    if len(maps) != count:
        raise ValueError(
            f'{type(neck).__name__} takes {count} map{"s" * (count > 1)}, the backbone gives '
            f"{len(maps)}: set the backbone's out_indices"
        )


@MODELS.register_module()
class MultiLevelRescale(nn.Module):
    """Four maps of stride 16 to strides 4, 8, 16 and 32, as BEiT and iBOT do.

    Transposed convolution, norm, GELU, transposed convolution; transposed convolution; nothing;
    max-pooling. The channels stay.

    Args:
        channels: D.
        norm: of the first, see :func:`.norm.build_norm`.
    """

    def __init__(self, channels: int, norm: str = 'SyncBN'):
        super().__init__()
        up4 = nn.Sequential(
            _double(channels, channels),
            build_norm(norm, channels),
            nn.GELU(),
            _double(channels, channels),
        )
        self.levels = nn.ModuleList(
            [up4, _double(channels, channels), nn.Identity(), nn.MaxPool2d(2)]
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Four (B, D, h, w) to (B, D, 4h, 4w), (B, D, 2h, 2w), (B, D, h, w), (B, D, h/2, w/2)."""
        _check_count(maps, 4, self)
        return tuple(level(x) for level, x in zip(self.levels, maps, strict=True))


@MODELS.register_module()
class SimpleFPN(nn.Module):
    """ViTDet's pyramid (arXiv 2203.16527): five levels from one map of stride 16.

    Strides 4 (transposed convolution to D/2, norm, GELU, transposed convolution to D/4), 8
    (transposed convolution to D/2), 16 and 32 (max-pooling), each with a 1 x 1 and a 3 x 3
    convolution and their norms behind; the fifth takes every second place of the fourth.

    Args:
        in_channels: D, a multiple of 4.
        out_channels: C.
        norm: see :func:`.norm.build_norm`.
    """

    def __init__(self, in_channels: int, out_channels: int = 256, norm: str = 'LN'):
        super().__init__()
        full, half, quarter = in_channels, in_channels // 2, in_channels // 4
        up4 = [
            _double(full, half),
            build_norm(norm, half),
            nn.GELU(),
            _double(half, quarter),
        ]
        levels: list[tuple[int, list[nn.Module]]] = [
            (quarter, up4),
            (half, [_double(full, half)]),
            (full, []),
            (full, [nn.MaxPool2d(2)]),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *scale,
                nn.Conv2d(width, out_channels, 1, bias=False),
                build_norm(norm, out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                build_norm(norm, out_channels),
            )
            for width, scale in levels
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One (B, D, h, w) to (B, C, ., .) of strides 4, 8, 16, 32 and 64."""
        _check_count(maps, 1, self)
        levels = [level(maps[0]) for level in self.levels]
        return (*levels, F.max_pool2d(levels[-1], 1, 2))


@MODELS.register_module()
class ConcatLevels(nn.Module):
    """All maps side by side and BatchNorm: the input of a linear segmentation head (iBOT).

    Args:
        channels: D of each.
        count: number of maps.
        norm: see :func:`.norm.build_norm`.
    """

    def __init__(self, channels: int, count: int = 4, norm: str = 'SyncBN'):
        super().__init__()
        self.count = count
        self.norm = build_norm(norm, channels * count)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """``count`` maps of (B, D, h, w) to one of (B, count * D, h, w)."""
        _check_count(maps, self.count, self)
        return (self.norm(torch.cat(tuple(maps), 1)),)
