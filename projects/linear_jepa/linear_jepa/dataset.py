"""Pairs of views for the loader."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mmjepa.registry import DATASETS, FUNCTIONS

from .processes import LinearProcess, measured_process


@DATASETS.register_module()
class LinearProcessDataset(Dataset):
    """Rows (x, y) of a linear process.

    Args:
        process: a :class:`LinearProcess` or the config of one.
        exact: the 2d rows that have exactly the moments of the process, over and over: a batch of
            2d in order is the whole distribution. False: a fresh Gaussian sample each time, a
            function of the sample's seed.
        length: samples that are called an epoch.
        data_root: folder with ``pairs.npz``, your own x and y (N, d), whose moments take the place
            of ``process``.

    Raises:
        FileNotFoundError: ``data_root`` holds no ``pairs.npz``.
        ValueError: ``length`` cuts the exact rows short.
    """

    def __init__(
        self,
        process: dict | LinearProcess,
        exact: bool = True,
        length: int = 6000,
        data_root: str | None = None,
    ):
        if data_root is not None:
            process = measured_process(Path(data_root, 'pairs.npz'))
        self.process: LinearProcess = (
            FUNCTIONS.build(process) if isinstance(process, dict) else process
        )
        self.exact, self.length = exact, length
        rows = 2 * self.process.dim
        if length < 1 or (exact and length % rows):
            raise ValueError(
                f'length must be a positive multiple of the {rows} exact rows (two a feature), got '
                f'{length}'
            )

    def __len__(self) -> int:
        return self.length

    def check_batch(self, size: int) -> None:
        """Raise unless batches of ``size`` samples in order have the moments of the process."""
        rows = 2 * self.process.dim
        if self.exact and size % rows:
            raise ValueError(
                f'batch_size={size}: the moments are exact in multiples of {rows} samples (two a '
                'feature) only; exact=False draws fresh samples for any batch size'
            )

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        """Packed ``pairs`` (2d,) float64 of an index, or of (index, seed)."""
        number, seed = index if isinstance(index, tuple) else (index, index)
        row = number % (2 * self.process.dim)
        if self.exact:
            pair, path = self.process.exact_batch[row], f'exact/{row}'
        else:
            pair, path = self.process.sample(1, np.random.default_rng(seed))[0], f'seed/{seed}'
        meta = dict(sample_seed=int(seed), index=int(number), path=path)
        return dict(inputs=dict(pairs=torch.from_numpy(pair.copy())), data_samples=meta)
