"""Labelled samples that a probe is fitted and scored on, of whatever kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class LabelledSplit(ABC):
    """Samples of one split, in a fixed order.

    Args:
        name: Of the split.
        labels: (N,) int64.
        classes: Their names.
    """

    def __init__(self, name: str, labels: NDArray[np.int64], classes: Sequence[str]) -> None:
        self.name = name
        self.labels = labels
        self.classes = list(classes)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-ready; differs whenever the samples or how they are read do."""

    @abstractmethod
    def loader(
        self, settings: Mapping[str, Any], batch_size: int | None
    ) -> Iterable[Mapping[str, Any]]:
        """Batches for the model's preprocessor, without augmentation.

        Args:
            settings: The config's ``train_dataloader``.
            batch_size: Samples at a time; None takes the config's.
        """

    @abstractmethod
    def training_loader(
        self, settings: Mapping[str, Any], batch_size: int, seed: int, epoch: int
    ) -> Iterable[dict[str, Any]]:
        """Batches of one epoch in random order, augmented; the tail that fills none is left out.

        Args:
            settings: The config's ``train_dataloader``.
            batch_size: Samples at a time.
            seed: Of order and augmentation, which differ between epochs.
            epoch: Number of the epoch, from 0.
        """


def check_classes(classes: Sequence[str], where: str) -> None:
    """Refuse data that cannot be classified.

    Raises:
        ValueError: With fewer than two classes.
    """
    if len(classes) < 2:
        told = f'one class ({classes[0]})' if classes else 'no class folders'
        raise ValueError(f'{where}: {told}; a probe needs at least two class folders with samples')
