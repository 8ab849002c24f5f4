"""Loss functions on rows of embeddings."""

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor


def cosine_distance(prediction_ND: Tensor, target_ND: Tensor) -> Tensor:
    """1 - cosine of matching rows, in float32.

    Args:
        prediction_ND: (N, D).
        target_ND: (N, D) or (1, D).

    Returns:
        (N,) values in [0, 2].
    """
    return 1 - F.cosine_similarity(prediction_ND.float(), target_ND.float(), dim=1)


def variance_hinge(
    rows_ND: Tensor, sample_N: Tensor, batch_size: int, gamma: float, eps: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Hinge on the per-channel standard deviation of each sample's rows (VICReg's variance term).

    ``mean_c relu(gamma - sqrt(var_unbiased(rows of sample b)_c + eps))``. A sample with fewer than
    two rows has no variance: its hinge is 0 and it doesn't count.

    Args:
        rows_ND: (N, D) unit rows.
        sample_N: (N,) int64 sample of each row.
        batch_size: B.
        gamma: wanted standard deviation, at most 1 / sqrt(D) for unit rows.
        eps: added to the variance.

    Returns:
        (B,) hinge of each sample and (B,) bool, True where it is defined.
    """
    with torch.autocast(rows_ND.device.type, enabled=False):
        rows_ND = rows_ND.float()
        # matrix products for sums over samples and back: an index's gradient adds by atomics, in
        # another order every time, on CPU too
        member = F.one_hot(sample_N, batch_size).to(rows_ND.dtype).t()
        count = member.sum(1, keepdim=True)
        centred = rows_ND - member.t() @ (member @ rows_ND / count.clamp(min=1))
        variance = member @ centred.square() / (count - 1).clamp(min=1)
        hinge = F.relu(gamma - (variance + eps).sqrt()).mean(1)
    valid = count[:, 0] >= 2
    return torch.where(valid, hinge, 0.0), valid


def global_denominators(counts: Tensor, reduce: bool) -> Tensor:
    """Denominators that make the DDP average of the ranks' losses the loss of the whole batch.

    Args:
        counts: (K,) float counts on this rank.
        reduce: sum them over ranks; otherwise each rank takes its own mean.

    Returns:
        (K,) float, at least 1 (an empty sum over 1 is 0); divided by the world size when reduced,
        since DDP averages gradients over ranks.
    """
    world_size = get_world_size()
    if not reduce or world_size == 1:
        return counts.clamp(min=1)
    total = counts.clone()
    torch.distributed.all_reduce(total)
    return total.clamp(min=1) / world_size
