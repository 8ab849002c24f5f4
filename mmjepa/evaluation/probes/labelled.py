"""Labelled samples that a probe is fitted and scored on, of whatever kind."""

from __future__ import annotations

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

TEST_NAMES = ('test', 'val', 'validation')


class LabelledSplit(ABC):
    """Samples of one split, in a fixed order.

    Args:
        name: Of the split.
        labels: (N,) int64.
        classes: Their names.

    Attributes:
        kind: What the samples are, in the plural; says what results are of.
        views: Crops of a sample, each the same number of clips.
    """

    kind = 'samples'
    views = 1

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

    def training_loader(
        self, settings: Mapping[str, Any], batch_size: int, seed: int, epoch: int
    ) -> Iterable[dict[str, Any]]:
        """Batches of one epoch in random order, augmented; the tail that fills none is left out.

        Args:
            settings: The config's ``train_dataloader``.
            batch_size: Samples at a time.
            seed: Of order and augmentation, which differ between epochs.
            epoch: Number of the epoch, from 0.

        Raises:
            ValueError: If such samples aren't for fine-tuning.
        """
        raise ValueError(f'{self.kind} are probed frozen: leave out --protocol finetune')


def files_described(data: Any) -> dict[str, Any]:
    """Count, and a hash of paths, sizes and times of a data set's files (``get_path(i)``)."""
    digest = hashlib.sha256()
    for i in range(len(data)):
        path = data.get_path(i)
        info = os.stat(path)
        digest.update(f'{path}\0{info.st_size}\0{info.st_mtime_ns}\0'.encode())
    return {'count': len(data), 'sha256': digest.hexdigest()}


def make_loader(
    data: Any,
    steps: Sequence[Mapping[str, Any]],
    key: str,
    settings: Mapping[str, Any],
    **batching: Any,
) -> DataLoader:
    """Batches of a data set with a pipeline of these steps.

    Args:
        data: A :class:`SampleDataset`; stays as it is.
        steps: Configs of transforms, without packing.
        key: The input that they make, stacked.
        settings: The config's ``train_dataloader``.
        **batching: ``batch_size``, or ``batch_sampler``.
    """
    from mmengine.registry import DefaultScope

    from mmjepa.datasets import jepa_collate
    from mmjepa.registry import TRANSFORMS

    data = copy.copy(data)
    with DefaultScope.overwrite_default_scope('mmjepa'):
        packed = [*steps, dict(type='PackJEPAInputs', keys=[key])]
        data.pipeline = [TRANSFORMS.build(step) for step in packed]
    return DataLoader(
        data,
        **batching,
        num_workers=settings.get('num_workers', 0),
        pin_memory=torch.cuda.is_available(),
        collate_fn=partial(jepa_collate, stack=[key]),
        generator=torch.Generator(),  # seeds of workers: not from the global one
    )


def check_classes(classes: Sequence[str], where: str) -> None:
    """Refuse data that cannot be classified.

    Raises:
        ValueError: With fewer than two classes.
    """
    if len(classes) < 2:
        told = f'one class ({classes[0]})' if classes else 'no class folders'
        raise ValueError(f'{where}: {told}; a probe needs at least two class folders with samples')
