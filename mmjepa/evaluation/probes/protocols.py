"""Probe protocols on plain feature arrays; they don't know which modality the features are of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmjepa.evaluation.functional import (
    fit_linear_selected,
    knn_predict,
    per_class_accuracy,
    standardisation,
)

PROTOCOLS = ('knn', 'linear')


@dataclass(frozen=True)
class ProtocolSettings:
    """Numbers of the protocols.

    Attributes:
        k: Neighbours of kNN.
        temperature: Of kNN's vote weights.
        l2: Penalties that the linear probe chooses from, on held-out training frames.
        linear_iterations: LBFGS iterations of a fit.
    """

    k: int = 20
    temperature: float = 0.07
    l2: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    linear_iterations: int = 100


@dataclass
class Samples:
    """Labelled features.

    Attributes:
        feats: (n, D) float32.
        labels: (n,) int64.
        groups: (n,) int64, the frame (or image) of each sample.
    """

    feats: Tensor
    labels: Tensor
    groups: Tensor

    def to(self, device: torch.device | str) -> Samples:
        """The same samples on a device."""
        return Samples(self.feats.to(device), self.labels.to(device), self.groups.to(device))


@dataclass
class ProtocolResult:
    """Accuracy of one probe.

    Attributes:
        per_class: C accuracies in [0, 1]; NaN for a class without test samples.
        mean: Their mean over the classes present.
        l2: Penalty of the linear probe, None for kNN.
    """

    per_class: list[float]
    mean: float
    l2: float | None = None

    def details(self) -> dict[str, Any]:
        """What a run reports besides its accuracies; JSON-ready."""
        return {'l2': self.l2}


def run_protocol(
    protocol: str,
    train: Samples,
    test: Samples,
    num_classes: int,
    settings: ProtocolSettings | None = None,
    standardise: bool = False,
    seed: int = 0,
) -> ProtocolResult:
    """Fit a probe on ``train`` and score it on ``test``.

    Args:
        protocol: 'knn' or 'linear'.
        train: Balanced training samples.
        test: Test samples; nothing is chosen on them.
        num_classes: Number of classes.
        settings: Numbers of the protocols.
        standardise: Bring every channel to mean 0 and std 1 of the training samples before kNN.
            The linear probe always does.
        seed: Of the linear probe's held-out part.

    Returns:
        :class:`ProtocolResult`.

    Raises:
        ValueError: On an unknown protocol.
    """
    settings = settings or ProtocolSettings()
    l2 = None
    if protocol == 'knn':
        train_feats, test_feats = train.feats, test.feats
        if standardise:
            mean, std = standardisation(train_feats)
            train_feats, test_feats = (train_feats - mean) / std, (test_feats - mean) / std
        predictions = knn_predict(
            train_feats, train.labels, test_feats, settings.k, settings.temperature, num_classes
        )
    elif protocol == 'linear':
        probe = fit_linear_selected(
            train.feats,
            train.labels,
            train.groups,
            num_classes,
            l2_choices=settings.l2,
            seed=seed,
            max_iter=settings.linear_iterations,
        )
        predictions, l2 = probe.predict(test.feats), probe.l2
    else:
        raise ValueError(f'unknown protocol {protocol!r}; there are {", ".join(PROTOCOLS)}')
    accuracy = per_class_accuracy(predictions, test.labels, num_classes)
    return ProtocolResult(accuracy.tolist(), float(accuracy.nanmean()), l2)
