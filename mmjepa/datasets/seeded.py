"""Seeds for data sets that draw from the global random generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mmjepa.registry import DATASETS


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators, and put their states back after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (OpenMMLab's transforms draw from it)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Makes the augmentations of an OpenMMLab data set a function of the sample's seed.

    :class:`ResumableBatchSampler` asks for ``(index, seed)``: a run repeats itself with any number
    of workers, and a resumed run goes on as if it had not stopped. Transforms that remember what
    they drew before would stay outside of this; mmdet3d's data base of objects does, and
    :class:`mmjepa.downstream.lidar.object_database.SeededDataBaseSampler` stands in its place.

    Args:
        dataset: data set or its config.
    """

    def __init__(self, dataset: Any):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    @property
    def metainfo(self) -> dict:
        """Meta information of the data set."""
        return self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """The sample of ``(index, seed)``; a plain index is its own seed."""
        number, seed = index if isinstance(index, tuple) else (index, index)
        with global_seed(int(seed)):
            return self.dataset[int(number)]
