"""AD-L-JEPA's loss on rows of BEV embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS

from .functional import cosine_distance, global_denominators, variance_hinge


@MODELS.register_module()
class BEVJEPALoss(nn.Module):
    """Cosine prediction loss at masked cells plus a variance hinge (arXiv 2501.04969).

    ``jepa_weight * (occupied_weight * mean_TO + empty_weight * mean_TE of (1 - cos))
    + variance_weight * (mean_b hinge(context rows) + mean_b hinge(predicted rows))``.

    Args:
        occupied_weight: weight of masked occupied cells (alpha in the paper).
        empty_weight: weight of masked empty cells.
        pool_cells: one mean over all masked cells instead of the two weighted ones (ablation).
        jepa_weight: lambda_jepa.
        variance_weight: lambda_reg; the released configs hold 1 on KITTI and 10 on Waymo.
        gamma: wanted standard deviation; None: 1 / sqrt(D), its supremum for unit vectors.
        eps: added to the variance under the root.
        reduce_denominators: when distributed, divide by the counts of all ranks, so that the
            loss equals that of one process with the whole batch; False: each rank's own mean,
            as released.
    """

    def __init__(
        self,
        occupied_weight: float = 0.75,
        empty_weight: float = 0.25,
        pool_cells: bool = False,
        jepa_weight: float = 1.0,
        variance_weight: float = 1.0,
        gamma: float | None = None,
        eps: float = 1e-4,
        reduce_denominators: bool = True,
    ):
        super().__init__()
        self.occupied_weight = occupied_weight
        self.empty_weight = empty_weight
        self.pool_cells = pool_cells
        self.jepa_weight = jepa_weight
        self.variance_weight = variance_weight
        self.gamma = gamma
        self.eps = eps
        self.reduce_denominators = reduce_denominators

    def forward(
        self,
        context_rows: Tensor,
        context_sample: Tensor,
        predicted_occupied: Tensor,
        occupied_sample: Tensor,
        target_occupied: Tensor,
        predicted_empty: Tensor,
        target_empty: Tensor,
        batch_size: int,
    ) -> dict[str, Tensor]:
        """Compute the loss parts.

        Args:
            context_rows: (n_CO, D) unit context embeddings at visible occupied cells.
            context_sample: (n_CO,) sample of each.
            predicted_occupied: (n_TO, D) raw predictions at masked occupied cells.
            occupied_sample: (n_TO,) sample of each.
            target_occupied: (n_TO, D) targets there, without gradient.
            predicted_empty: (n_TE, D) raw predictions at masked empty cells.
            target_empty: (1, D) empty token, without gradient.
            batch_size: B.

        Returns:
            Optimised terms (names contain ``loss``) and detached monitors.
        """
        gamma = context_rows.shape[1] ** -0.5 if self.gamma is None else self.gamma
        unit_occupied = F.normalize(predicted_occupied.float(), dim=1)
        occupied = cosine_distance(unit_occupied, target_occupied).sum()
        empty = cosine_distance(predicted_empty, target_empty).sum()
        hinge_context, valid_context = variance_hinge(
            context_rows, context_sample, batch_size, gamma, self.eps
        )
        hinge_prediction, valid_prediction = variance_hinge(
            unit_occupied, occupied_sample, batch_size, gamma, self.eps
        )

        local = torch.stack(
            [
                occupied.new_full((), len(predicted_occupied)),
                occupied.new_full((), len(predicted_empty)),
                valid_context.sum().to(occupied.dtype),
                valid_prediction.sum().to(occupied.dtype),
            ]
        )
        n_occupied, n_empty, n_context, n_prediction = global_denominators(
            local, self.reduce_denominators
        )
        if self.pool_cells:
            n_pooled = global_denominators(local[0] + local[1], self.reduce_denominators)
            loss_occupied, loss_empty = occupied / n_pooled, empty / n_pooled
        else:
            loss_occupied = self.occupied_weight * occupied / n_occupied
            loss_empty = self.empty_weight * empty / n_empty
        return dict(
            loss_occupied=self.jepa_weight * loss_occupied,
            loss_empty=self.jepa_weight * loss_empty,
            loss_variance=self.variance_weight
            * (hinge_context.sum() / n_context + hinge_prediction.sum() / n_prediction),
            distance_occupied=(occupied / n_occupied).detach(),
            distance_empty=(empty / n_empty).detach(),
            hinge_context=(hinge_context.sum() / n_context).detach(),
            hinge_prediction=(hinge_prediction.sum() / n_prediction).detach(),
        )
