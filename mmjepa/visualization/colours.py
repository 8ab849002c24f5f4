"""Principal components of embeddings as colours."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(x_ND: Tensor, components: int = 3) -> tuple[Tensor, Tensor]:
    """Mean and leading principal axes of feature rows.

    The sign of an axis is fixed (its largest entry is positive), so that pictures of one model
    keep their colours.

    Args:
        x_ND: (N, D) features.
        components: Number of axes P, at most D.

    Returns:
        mean (D,) and axes (P, D), float64, orthonormal, by falling variance.

    Raises:
        ValueError: With fewer than two rows or too many components.
    """
    if x_ND.ndim != 2 or x_ND.shape[0] < 2:
        raise ValueError(f'principal axes need at least two rows (N, D), got {tuple(x_ND.shape)}')
    if not 1 <= components <= x_ND.shape[1]:
        raise ValueError(f'components must be in 1..{x_ND.shape[1]}, got {components}')
    x = x_ND.detach().double()
    mean = x.mean(dim=0)
    _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
    axes = vectors.T.flip(0)[:components]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return mean, axes * torch.where(largest < 0, -1.0, 1.0)


def pca_colours(
    features_CHW: Tensor,
    cells_HW: Tensor | None = None,
    background: float = 1.0,
    clip: float = 0.02,
) -> Tensor:
    """First three principal components of a feature map as red, green and blue.

    Args:
        features_CHW: (C, h, w).
        cells_HW: (h, w) bool, the cells that are analysed and painted; all by default.
        background: Grey value of the other cells.
        clip: Share of values saturated at either end of each component.

    Returns:
        (h, w, 3) float32 in [0, 1] on the CPU.

    Raises:
        ValueError: If shapes don't fit or fewer than two cells are chosen.
    """
    if features_CHW.ndim != 3:
        raise ValueError(f'features must be (C, h, w), got {tuple(features_CHW.shape)}')
    c, h, w = features_CHW.shape
    if cells_HW is None:
        cells_HW = torch.ones(h, w, dtype=torch.bool, device=features_CHW.device)
    if tuple(cells_HW.shape) != (h, w):
        raise ValueError(f'cells must be ({h}, {w}), got {tuple(cells_HW.shape)}')
    rows = features_CHW.permute(1, 2, 0)[cells_HW]
    mean, axes = principal_axes(rows, min(3, c))
    values = (rows.double() - mean) @ axes.T
    low, high = torch.quantile(
        values, torch.tensor([clip, 1 - clip], dtype=values.dtype, device=values.device), dim=0
    )
    scale = torch.where(high > low, high - low, torch.ones_like(high))
    scaled = ((values - low) / scale).clamp(0, 1)
    image = torch.full((h, w, 3), background, dtype=torch.float32)
    colours = torch.full((len(rows), 3), 0.5)
    colours[:, : scaled.shape[1]] = scaled.float().cpu()
    image[cells_HW.cpu()] = colours
    return image
