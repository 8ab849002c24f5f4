"""Several views of a sample (crops, clips) as one prediction."""

from torch import Tensor


def average_views(logits: Tensor) -> Tensor:
    """Softmaxes averaged over views, as V-JEPA's multi-view test has it (arXiv 2404.08471).

    Args:
        logits: (..., V, C) of V views.

    Returns:
        (..., C) probabilities.
    """
    return logits.softmax(-1).mean(-2)
