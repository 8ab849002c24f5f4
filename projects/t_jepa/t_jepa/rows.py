"""Rows of numbers in memory; batches in one go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mmjepa.registry import DATASETS

from .tables import TableError

Index = int | tuple[int, int]


class RowSamples:
    """``data_samples`` of a batch of rows: a dict a row, made when it is asked for.

    Args:
        table: name of the table.
        rows: (B,) numbers of rows in the table.
        seeds: (B,) sample seeds.
    """

    def __init__(self, table: str, rows: NDArray[np.int64], seeds: Tensor) -> None:
        self.table, self.rows, self.seeds = table, rows, seeds

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RowSamples) and list(self) == list(other)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = int(self.rows[i])
        return dict(sample_seed=int(self.seeds[i]), index=row, path=f'{self.table}, row {row}')


class Rows(Dataset):
    """Rows in memory; batches in one go.

    The DataLoader fetches a batch by :meth:`__getitems__`, and ``jepa_collate`` passes it on: one
    gather, so ``num_workers=0`` is fastest.
    """

    rows: Tensor  # (N, D) float32
    row_numbers: NDArray[np.int64]  # (N,) in the table
    table: str

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __getitems__(self, indices: Sequence[Index]) -> dict[str, Any]:
        """A batch in one go; what the DataLoader calls.

        Args:
            indices: (index, sample_seed) each, or an index, which is its own seed then.

        Returns:
            ``inputs``: ``rows`` (B, D) float32 and ``seeds`` (B,) int64; ``data_samples``: one
            dict a row.
        """
        pairs = [i if isinstance(i, tuple) else (i, i) for i in indices]
        numbers, seeds = torch.tensor(pairs, dtype=torch.int64).unbind(1)
        samples = RowSamples(self.table, self.row_numbers[numbers.numpy()], seeds)
        inputs = dict(rows=self.rows[numbers], seeds=seeds.contiguous())
        return dict(inputs=inputs, data_samples=samples)

    def __getitem__(self, index: Index) -> dict[str, Any]:
        """One row, packed as ``PackJEPAInputs`` does: ``rows`` (D,)."""
        batch = self.__getitems__([index])
        inputs = dict(rows=batch['inputs']['rows'][0])
        return dict(inputs=inputs, data_samples=batch['data_samples'][0])


@DATASETS.register_module()
class RowFileDataset(Rows):
    """Rows that :class:`TableTransform` made, from a ``.npy`` file.

    Args:
        file: (N, D) float32.

    Raises:
        FileNotFoundError: no such file.
        TableError: not such an array.
    """

    def __init__(self, file: str | Path) -> None:
        if not Path(file).is_file():
            raise FileNotFoundError(f'rows {file}: no such file')
        rows = np.load(file, allow_pickle=False)
        if rows.ndim != 2 or rows.dtype != np.float32 or not len(rows):
            raise TableError(f'rows {file}: (N, D) float32, got {rows.shape} {rows.dtype}')
        self.rows, self.row_numbers = torch.from_numpy(rows), np.arange(len(rows))
        self.table = Path(file).name
