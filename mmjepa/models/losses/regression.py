"""Regression of target embeddings."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS


def regression_error(
    prediction: Tensor, target: Tensor, kind: str, exponent: float = 1.0
) -> Tensor:
    """Elementwise error in float32; ``kind`` and ``exponent`` as in :class:`RegressionLoss`."""
    prediction, target = prediction.float(), target.float()
    if kind == 'smooth_l1':
        return F.smooth_l1_loss(prediction, target, reduction='none')
    if kind == 'mse':
        return (prediction - target).square()
    error = (prediction - target).abs()
    return error if kind == 'l1' else error.pow(exponent) / exponent


@MODELS.register_module()
class RegressionLoss(nn.Module):
    """Mean error over all elements.

    Args:
        kind: ``'smooth_l1'`` (beta 1; I-JEPA's code), ``'mse'`` (its paper), ``'l1'`` (V-JEPA) or
            ``'power'``: |error|^exponent / exponent (V-JEPA's code).
        exponent: of ``'power'``, at least 1.

    Raises:
        ValueError: unknown ``kind``, or an exponent that is too small or not used.
    """

    def __init__(
        self,
        kind: Literal['smooth_l1', 'mse', 'l1', 'power'] = 'smooth_l1',
        exponent: float = 1.0,
    ):
        super().__init__()
        if kind not in ('smooth_l1', 'mse', 'l1', 'power'):
            raise ValueError(f"kind must be 'smooth_l1', 'mse', 'l1' or 'power', got {kind!r}")
        if exponent < 1 or (exponent != 1 and kind != 'power'):
            raise ValueError(f"exponent must be at least 1 and needs kind='power', got {exponent}")
        self.kind, self.exponent = kind, exponent

    def error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Of each element, in float32."""
        return regression_error(prediction, target, self.kind, self.exponent)

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Two tensors of one shape -> ``loss_prediction``."""
        if prediction.shape != target.shape:
            raise ValueError(
                f'predictions {tuple(prediction.shape)} and targets {tuple(target.shape)} differ'
            )
        with torch.autocast(prediction.device.type, enabled=False):
            return dict(loss_prediction=self.error(prediction, target).mean())
