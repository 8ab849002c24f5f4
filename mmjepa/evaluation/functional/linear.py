"""Linear probe: class-balanced multinomial logistic regression on standardised features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .knn import mean_class_accuracy

DEFAULT_L2 = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass
class LinearProbe:
    """A fitted linear classifier.

    Attributes:
        mean, std: (D,) standardisation of the training features.
        weight: (C, D) on standardised features.
        bias: (C,).
        l2: The penalty it was fitted with.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    l2: float

    def logits(self, feats: Tensor) -> Tensor:
        """(M, D) features to (M, C) logits."""
        return (feats.float() - self.mean) / self.std @ self.weight.T + self.bias

    def predict(self, feats: Tensor) -> Tensor:
        """(M, D) features to (M,) int64 classes."""
        return self.logits(feats).argmax(dim=1)


def standardisation(feats: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each channel; channels that don't vary get std 1.

    Args:
        feats: (N, D).

    Returns:
        Two (D,) float32 tensors.
    """
    feats = feats.float()
    mean = feats.mean(dim=0)
    std = feats.std(dim=0, unbiased=False)
    # relative to the mean: a constant channel has a std of rounding errors
    return mean, torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, torch.ones_like(std))


def fit_linear(
    feats: Tensor,
    labels: Tensor,
    num_classes: int,
    l2: float = 1e-3,
    max_iter: int = 100,
    balanced: bool = True,
) -> LinearProbe:
    """Minimise weighted cross-entropy + l2/2 * |weight|^2 with LBFGS on standardised features.

    Args:
        feats: (N, D).
        labels: (N,) int64 in [0, num_classes).
        num_classes: C.
        l2: Penalty of the weights (not of the bias).
        max_iter: LBFGS iterations.
        balanced: Weight samples so that every class present counts the same.

    Returns:
        :class:`LinearProbe` on the features' device.

    Raises:
        ValueError: On shapes that don't fit, no sample, a negative penalty, or features that
            aren't finite.
    """
    if feats.ndim != 2 or labels.shape != feats.shape[:1] or feats.shape[0] == 0:
        raise ValueError(
            'a linear probe needs features (N, D) and labels (N,) with N > 0, got '
            f'{tuple(feats.shape)} and {tuple(labels.shape)}'
        )
    if l2 < 0:
        raise ValueError(f'l2 must not be negative, got {l2}')
    feats = feats.detach().float()
    if not bool(feats.isfinite().all()):
        raise ValueError('a linear probe needs finite features; some are NaN or Inf')
    mean, std = standardisation(feats)
    x = (feats - mean) / std
    class_weight = None
    if balanced:
        counts = torch.bincount(labels, minlength=num_classes).float()
        class_weight = torch.where(counts > 0, len(labels) / counts.clamp_min(1), 0.0)
    weight = x.new_zeros(num_classes, x.shape[1]).requires_grad_()
    bias = x.new_zeros(num_classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, line_search_fn='strong_wolfe', tolerance_grad=1e-5
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels, weight=class_weight)
        loss = loss + 0.5 * l2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return LinearProbe(mean, std, weight.detach(), bias.detach(), l2)


def split_by_group(groups: Tensor, share: float, seed: int) -> Tensor:
    """Choose whole groups (frames, images) for a held-out part.

    Args:
        groups: (N,) int64 group of each sample.
        share: Wanted share of groups to hold out; at least one, never all.
        seed: Of the random choice.

    Returns:
        (N,) bool, True = held out.

    Raises:
        ValueError: With fewer than two groups.
    """
    unique = groups.unique()
    if len(unique) < 2:
        raise ValueError('a held-out part needs samples from at least two groups (frames)')
    count = min(max(round(len(unique) * share), 1), len(unique) - 1)
    order = torch.randperm(len(unique), generator=torch.Generator().manual_seed(seed))
    return torch.isin(groups, unique[order[:count].to(unique.device)])


def fit_linear_selected(
    feats: Tensor,
    labels: Tensor,
    groups: Tensor,
    num_classes: int,
    l2_choices: Sequence[float] = DEFAULT_L2,
    held_out: float = 0.2,
    seed: int = 0,
    max_iter: int = 100,
) -> LinearProbe:
    """Fit with the penalty that does best on held-out groups of the training samples.

    The held-out part takes whole groups, since cells of one frame look alike. After the choice,
    the probe is fitted again on all training samples.

    Args:
        feats: (N, D).
        labels: (N,) int64.
        groups: (N,) int64, the frame of each sample.
        num_classes: C.
        l2_choices: Penalties to try; with a single one nothing is held out.
        held_out: Share of groups held out.
        seed: Of the split.
        max_iter: LBFGS iterations per fit.

    Returns:
        :class:`LinearProbe`.

    Raises:
        ValueError: Without a penalty, or with fewer than two groups.
    """
    if not l2_choices:
        raise ValueError('l2_choices is empty; give at least one penalty')
    best = float(l2_choices[0])
    if len(l2_choices) > 1:
        test = split_by_group(groups, held_out, seed)
        best_score = -1.0
        for l2 in l2_choices:
            probe = fit_linear(feats[~test], labels[~test], num_classes, l2, max_iter)
            score = float(
                mean_class_accuracy(probe.predict(feats[test]), labels[test], num_classes)
            )
            if score > best_score:
                best, best_score = float(l2), score
    return fit_linear(feats, labels, num_classes, best, max_iter)
