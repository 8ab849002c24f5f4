"""Weighted nearest-neighbour classification of frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(train_feats: Tensor, train_labels: Tensor, test_feats: Tensor, k: int) -> None:
    if train_feats.ndim != 2 or test_feats.ndim != 2:
        raise ValueError(
            'train and test features must be (N, D) and (M, D), got '
            f'{tuple(train_feats.shape)} and {tuple(test_feats.shape)}'
        )
    if train_feats.shape[1] != test_feats.shape[1]:
        raise ValueError(
            f'train features have {train_feats.shape[1]} channels, '
            f'test features {test_feats.shape[1]}'
        )
    if train_labels.shape != train_feats.shape[:1]:
        raise ValueError(
            f'{train_feats.shape[0]} train features need as many labels, '
            f'got shape {tuple(train_labels.shape)}'
        )
    if train_feats.shape[0] == 0:
        raise ValueError('kNN needs at least one training feature')
    if k < 1:
        raise ValueError(f'k must be at least 1, got {k}')


@torch.no_grad()
def knn_predict(
    train_feats: Tensor,
    train_labels: Tensor,
    test_feats: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk_size: int = 2048,
) -> Tensor:
    """Classes by a vote of the k nearest training features under cosine similarity.

    Each neighbour votes with weight exp(similarity / temperature). The test features go through
    in chunks, so memory stays at ``chunk_size`` x N floats.

    Args:
        train_feats: (N, D) floating.
        train_labels: (N,) int64 in [0, num_classes).
        test_feats: (M, D) floating.
        k: Neighbours; all N when there are fewer.
        temperature: Of the vote weights.
        num_classes: Number of classes; the largest label + 1 by default.
        chunk_size: Test rows at a time.

    Returns:
        (M,) int64 predicted classes.

    Raises:
        ValueError: On shapes that don't fit, no training feature, k < 1.

    Source: Wu et al., arXiv 1805.01978; k and temperature as in DINO and AD-L-JEPA.
    """
    found = knn_predict_each(
        train_feats, train_labels, test_feats, (k,), temperature, num_classes, chunk_size
    )
    return found[k]


@torch.no_grad()
def knn_predict_each(
    train_feats: Tensor,
    train_labels: Tensor,
    test_feats: Tensor,
    ks: Sequence[int],
    temperature: float = 0.07,
    num_classes: int | None = None,
    chunk_size: int = 2048,
) -> dict[int, Tensor]:
    """:func:`knn_predict` for several numbers of neighbours, which are searched for once.

    Args:
        train_feats: (N, D) floating.
        train_labels: (N,) int64 in [0, num_classes).
        test_feats: (M, D) floating.
        ks: Numbers of neighbours, each at most N or taken as N.
        temperature: Of the vote weights.
        num_classes: Number of classes; the largest label + 1 by default.
        chunk_size: Test rows at a time.

    Returns:
        k -> (M,) int64 predicted classes.

    Raises:
        ValueError: As :func:`knn_predict`; no k.
    """
    if not ks:
        raise ValueError('ks is empty; give at least one number of neighbours')
    _check(train_feats, train_labels, test_feats, min(ks))
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1
    train_DN = F.normalize(train_feats.float(), dim=1).T.contiguous()
    most = min(max(ks), train_DN.shape[1])
    predictions: dict[int, list[Tensor]] = {k: [] for k in ks}
    for chunk in test_feats.split(chunk_size):
        if not len(chunk):
            continue
        similarity, index = (F.normalize(chunk.float(), dim=1) @ train_DN).topk(most, dim=1)
        # shifting by the largest similarity changes no vote and cannot overflow
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        for k in predictions:
            votes = similarity.new_zeros(chunk.shape[0], num_classes)
            votes.scatter_add_(1, train_labels[index[:, :k]], weights[:, :k])
            predictions[k].append(votes.argmax(dim=1))
    return {
        k: torch.cat(parts) if parts else train_labels.new_zeros(0)
        for k, parts in predictions.items()
    }


def per_class_accuracy(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class's samples that were predicted right (recall).

    Args:
        predictions: (M,) int64.
        labels: (M,) int64 in [0, num_classes).
        num_classes: Number of classes C.

    Returns:
        (C,) float64; NaN for a class without samples.

    Raises:
        ValueError: If the shapes differ.
    """
    if predictions.shape != labels.shape or labels.ndim != 1:
        raise ValueError(
            'predictions and labels must both be (M,), got '
            f'{tuple(predictions.shape)} and {tuple(labels.shape)}'
        )
    total = torch.bincount(labels, minlength=num_classes).double()
    right = torch.bincount(labels[predictions == labels], minlength=num_classes).double()
    return right / total


def mean_class_accuracy(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean of :func:`per_class_accuracy` over the classes that have samples; 0-d float64."""
    return per_class_accuracy(predictions, labels, num_classes).nanmean()
