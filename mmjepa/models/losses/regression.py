"""Regression of target embeddings."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS


def regression_error(prediction: Tensor, target: Tensor, kind: str) -> Tensor:
    """Elementwise error in float32; ``kind`` as in :class:`RegressionLoss`."""
    prediction, target = prediction.float(), target.float()
    if kind == 'smooth_l1':
        return F.smooth_l1_loss(prediction, target, reduction='none')
    if kind == 'l1':
        return (prediction - target).abs()
    return (prediction - target).square()


@MODELS.register_module()
class RegressionLoss(nn.Module):
    """Mean error over all elements.

    Args:
        kind: ``'smooth_l1'`` (beta 1; I-JEPA's code), ``'mse'`` (its paper) or ``'l1'``.

    Raises:
        ValueError: unknown ``kind``.
    """

    def __init__(self, kind: Literal['smooth_l1', 'mse', 'l1'] = 'smooth_l1'):
        super().__init__()
        if kind not in ('smooth_l1', 'mse', 'l1'):
            raise ValueError(f"kind must be 'smooth_l1', 'mse' or 'l1', got {kind!r}")
        self.kind = kind

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Two tensors of one shape -> ``loss_prediction``."""
        if prediction.shape != target.shape:
            raise ValueError(
                f'predictions {tuple(prediction.shape)} and targets {tuple(target.shape)} differ'
            )
        with torch.autocast(prediction.device.type, enabled=False):
            return dict(loss_prediction=regression_error(prediction, target, self.kind).mean())
