"""Losses of the baselines: functions first, thin registered modules second."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.losses import global_denominators
from mmjepa.registry import MODELS


class _OccupancyBCE(torch.autograd.Function):
    """Without a dense target or a dense intermediate that outlives the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, occupied: Tensor) -> Tensor:
        ctx.save_for_backward(logits, occupied)
        loss = F.softplus(logits.float()).sum() - logits.flatten()[occupied].float().sum()
        return loss / logits.numel()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, occupied = ctx.saved_tensors
        grad = logits.float().sigmoid().flatten()
        grad[occupied] -= 1
        grad = grad.mul_(grads[0] / logits.numel()).view_as(logits)
        return grad.to(logits.dtype), None


def occupancy_bce(logits: Tensor, occupied: Tensor) -> Tensor:
    """Binary cross-entropy of occupancy, mean over all voxels, in float32.

    Args:
        logits: of any shape, N voxels in all; contiguous.
        occupied: (M,) int64 distinct numbers of the occupied ones among the N.

    Returns:
        0-d loss.
    """
    return _OccupancyBCE.apply(logits, occupied)


def _take(points: Tensor, index: Tensor) -> Tensor:
    """(n, P, 3), (n, K) int64 -> (n, K, 3)."""
    return points.gather(1, index[..., None].expand(-1, -1, points.shape[2]))


def masked_chamfer(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Chamfer distance of matching point sets, over the target points that exist.

    Mean over predicted points of the squared distance to the nearest target, plus mean over valid
    targets of that to the nearest prediction.

    Args:
        prediction: (n, P, D).
        target: (n, K, D), without gradient.
        valid: (n, K) bool; a set without any valid point has distance 0.

    Returns:
        (n,) float32.
    """
    prediction, target = prediction.float(), target.float()
    with torch.no_grad():  # who is nearest; the distances that count are computed from that
        distance = torch.cdist(prediction, target)
        nearest_target = distance.masked_fill(~valid[:, None], torch.inf).argmin(2)
        nearest_prediction = distance.argmin(1)
    there = (prediction - _take(target, nearest_target)).square().sum(2).mean(1)
    back = (_take(prediction, nearest_prediction) - target).square().sum(2) * valid
    number = valid.sum(1)
    return torch.where(number > 0, there + back.sum(1) / number.clamp(min=1), 0.0)


@MODELS.register_module()
class CellPointLoss(nn.Module):
    """Chamfer distance of the points and smooth L1 of the density, means over masked cells.

    Args:
        points_weight: of the Chamfer distance.
        density_weight: of the smooth L1 loss.
        reduce_denominators: when distributed, divide by the cells of all ranks, so that the loss
            equals that of one process with the whole batch; False: each rank's own mean.
    """

    def __init__(
        self,
        points_weight: float = 1.0,
        density_weight: float = 1.0,
        reduce_denominators: bool = True,
    ):
        super().__init__()
        self.points_weight = points_weight
        self.density_weight = density_weight
        self.reduce_denominators = reduce_denominators

    def forward(
        self,
        predicted_points: Tensor,
        predicted_density: Tensor,
        points: Tensor,
        valid: Tensor,
        density: Tensor,
    ) -> dict[str, Tensor]:
        """Compute both parts.

        Args:
            predicted_points: (n, P, 3).
            predicted_density: (n,).
            points: (n, K, 3) targets.
            valid: (n, K) bool.
            density: (n,) target.
        """
        count = density.new_full((1,), len(density))
        number = global_denominators(count, self.reduce_denominators)[0]
        distance = masked_chamfer(predicted_points, points, valid).sum() / number
        smooth_l1 = F.smooth_l1_loss(predicted_density.float(), density, reduction='sum') / number
        return dict(
            loss_points=self.points_weight * distance,
            loss_density=self.density_weight * smooth_l1,
        )
