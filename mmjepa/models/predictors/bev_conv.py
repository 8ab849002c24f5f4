"""Convolutional predictor on BEV maps."""

import torch
from torch import Tensor, nn

from mmjepa.registry import MODELS


@MODELS.register_module()
class BEVConvPredictor(nn.Sequential):
    """``num_layers`` x [3x3 convolution, BatchNorm, ReLU], width kept (AD-L-JEPA's predictor).

    1,771,776 parameters at 256 channels and three layers. The weights lie channels-last, the
    layout in which the maps arrive.

    Args:
        channels: C of the BEV map.
        num_layers: depth.
        final_relu: the released form, which ends in a ReLU (predictions are then >= 0 and the
            distance to a Gaussian token can't fall below about 0.29); False: plain last BatchNorm.
        kernel_size: odd size of the kernel.
        norm: BatchNorm after each convolution.

    Raises:
        ValueError: ``num_layers`` below 1 or an even kernel.
    """

    def __init__(
        self,
        channels: int,
        num_layers: int = 3,
        final_relu: bool = True,
        kernel_size: int = 3,
        norm: bool = True,
    ):
        if num_layers < 1:
            raise ValueError(f'num_layers must be at least 1, got {num_layers}')
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd, got {kernel_size}')
        layers: list[nn.Module] = []
        for i in range(num_layers):
            layers.append(nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2))
            if norm:
                layers.append(nn.BatchNorm2d(channels))
            if final_relu or i + 1 < num_layers:
                layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, bev: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return super().forward(bev)
