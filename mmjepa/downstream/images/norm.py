"""Normalisation of feature maps."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS


@MODELS.register_module()
class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map; ``norm_cfg=dict(type='mmjepa.LayerNorm2d', eps=1e-6)``.

    Args:
        channels: C.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2).contiguous()


NORMS = {'BN': nn.BatchNorm2d, 'SyncBN': nn.SyncBatchNorm, 'LN': LayerNorm2d}


def build_norm(kind: str, channels: int) -> nn.Module:
    """A norm of maps.

    Args:
        kind: ``'BN'``, ``'SyncBN'`` (MMEngine's runner makes it BN in a single process) or
            ``'LN'``, over channels.
        channels: C.

    Raises:
        ValueError: another kind.
    """
    if kind not in NORMS:
        raise ValueError(f'norm must be one of {", ".join(NORMS)}, got {kind!r}')
    return NORMS[kind](channels)
