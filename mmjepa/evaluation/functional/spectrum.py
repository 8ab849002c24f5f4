"""Measures of how much of the embedding space a set of features uses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Centred energy below this share of the raw energy is rounding noise of fp32, not spread.
_NOISE_SHARE = 1e-11


class Spectrum(NamedTuple):
    """Spectrum of a feature covariance; r = min(N, D).

    Attributes:
        singular_values: (r,) float64, descending; singular values of the covariance matrix.
        explained: (r,) float64, cumulative share of the variance, last value 1.
        auc: () float64, mean of ``explained``; near 1 when few directions carry everything.
        off_diagonal: () float64, share of the covariance's squared entries off the diagonal.
    """

    singular_values: Tensor
    explained: Tensor
    auc: Tensor
    off_diagonal: Tensor


def _check_matrix(x_ND: Tensor) -> None:
    if x_ND.ndim != 2:
        raise ValueError(f'features must have shape (N, D), got {tuple(x_ND.shape)}')


def _gram_eigenvalues(x_ND: Tensor) -> Tensor:
    """Squared singular values of (N, D) in ascending order, from the smaller Gram matrix."""
    gram = x_ND.T @ x_ND if x_ND.shape[1] <= x_ND.shape[0] else x_ND @ x_ND.T
    return torch.linalg.eigvalsh(gram).clamp_min(0)


def effective_rank(x_ND: Tensor, center: bool = True) -> Tensor:
    """Exponential of the entropy of the normalised squared singular values.

    Isotropic data of D dimensions give D, data on a line give 1. Runs in float64 on the input's
    device and never copies to the host itself (on CUDA, the eigenvalue solver may wait).

    Args:
        x_ND: (N, D) features of any floating type.
        center: Subtract the mean row first.

    Returns:
        0-d float32 tensor in [1, min(N, D)]; 1 when all rows are equal up to fp32 rounding;
        NaN without rows or with a value that isn't finite.

    Raises:
        ValueError: If ``x_ND`` isn't two-dimensional.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007, with squared singular values.
    """
    _check_matrix(x_ND)
    if x_ND.shape[0] == 0 or x_ND.shape[1] == 0:
        return torch.full((), math.nan, device=x_ND.device)
    raw = x_ND.detach().double()
    finite = raw.isfinite().all()
    raw = torch.where(finite, raw, torch.zeros_like(raw))  # eigvalsh raises on NaN
    x = raw - raw.mean(dim=0, keepdim=True) if center else raw
    energy = x.square().sum()
    noise = raw.square().sum() * _NOISE_SHARE
    values = _gram_eigenvalues(x)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.exp(-torch.special.xlogy(share, share).sum())
    rank = torch.where(energy > noise, rank, torch.ones_like(rank))
    return torch.where(finite, rank, torch.full_like(rank, math.nan)).float()


def feature_std(x_ND: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean per-dimension std of the L2-normalised rows, times sqrt(D).

    Near 1 when directions are spread over the sphere, 0 when all rows point the same way.

    Args:
        x_ND: (N, D) features.
        eps: Floor of the row norms.

    Returns:
        0-d float32 tensor in [0, ~1]; NaN with fewer than two rows.

    Raises:
        ValueError: If ``x_ND`` isn't two-dimensional.
    """
    _check_matrix(x_ND)
    if x_ND.shape[0] < 2:
        return torch.full((), math.nan, device=x_ND.device)
    unit = torch.nn.functional.normalize(x_ND.detach().float(), dim=1, eps=eps)
    return unit.std(dim=0).mean() * math.sqrt(x_ND.shape[1])


def within_share(x_ND: Tensor, groups_N: Tensor) -> Tensor:
    """Share of the variance that lies within groups, not between them.

    With one sample's tokens a group: 0 when all tokens of a sample are one vector, however much
    samples differ; 1 when samples don't differ on the whole.

    Args:
        x_ND: (N, D) features.
        groups_N: (N,) int64 numbers of the groups, on the same device.

    Returns:
        0-d float32 tensor in [0, 1]; NaN without variance or rows.

    Raises:
        ValueError: If ``x_ND`` isn't two-dimensional, or has another number of rows.
    """
    _check_matrix(x_ND)
    if groups_N.shape != x_ND.shape[:1]:
        raise ValueError(f'groups {tuple(groups_N.shape)} for {len(x_ND)} rows')
    x = x_ND.detach().float()
    x = x - x.mean(0)
    found, places, counts = groups_N.unique(return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(found), x.shape[1]).index_add_(0, places, x)
    between = (sums.square().sum(1) / counts).sum()
    return 1 - between / x.square().sum()


def covariance_spectrum(x_ND: Tensor) -> Spectrum:
    """Singular values of the feature covariance and what follows from them.

    Args:
        x_ND: (N, D) features, N >= 2.

    Returns:
        :class:`Spectrum`.

    Raises:
        ValueError: On a wrong shape, fewer than two rows, or features without any variance.

    Source: arXiv 2209.15007, equation 2 (area under the cumulative explained variance).
    """
    _check_matrix(x_ND)
    n = x_ND.shape[0]
    if n < 2:
        raise ValueError(f'a spectrum needs at least two feature rows, got {n}')
    x = x_ND.detach().double()
    if not bool(x.isfinite().all()):
        raise ValueError('a spectrum needs finite features; some are NaN or Inf')
    x = x - x.mean(dim=0, keepdim=True)
    values = _gram_eigenvalues(x).flip(0) / (n - 1)
    total = values.sum()
    if float(total) <= 0:
        raise ValueError('all feature rows are equal: the covariance has no spectrum')
    explained = values.cumsum(0) / total
    # sum of all squared entries of the covariance = sum of its squared singular values
    diagonal = (x.square().sum(0) / (n - 1)).square().sum()
    everything = values.square().sum()
    off_diagonal = (1 - diagonal / everything).clamp_min(0)
    return Spectrum(values, explained, explained.mean(), off_diagonal)
