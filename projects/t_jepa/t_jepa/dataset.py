"""A table without labels, whole in memory; batches in one go."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.datasets.sample_dataset import take
from mmjepa.registry import DATASETS

from .rows import Rows
from .schema import Categorical, TableSchema, Task, as_text
from .table_transform import NumScaler, TableTransform, read_numbers
from .tables import PARTS, TableError, names_of, read_table, split_rows


@DATASETS.register_module()
class TabularDataset(Rows):
    """Rows of a CSV or parquet table; the label column is read by :meth:`labels` alone.

    Splits: ``None`` puts all rows into train; ``'split.npz'`` names a file below ``data_root``
    with row numbers ``train``, ``test`` and maybe ``val`` (other rows are left out);
    ``dict(test=0.2, val=0.1, seed=0)`` draws parts at random, without a look at labels;
    ``dict(file='split.npz', val=0.1, seed=0)`` takes train and test from the file and carves
    validation out of train.

    Missing numbers: refused by default; ``missing='mean'`` or ``'median'`` fill them by the
    fitted rows; ``'drop'`` leaves their rows out of every part. A missing category, and one that
    the fitted rows lack, has code 0; a log line counts them.

    Args:
        data_root: folder of the table.
        table: file in it: ``.csv``, ``.tsv`` (each also ``.gz``) or ``.parquet``.
        target: label column; it may be absent from the file where ``numeric`` and
            ``categorical`` name all inputs.
        task: ``'binclass'``, ``'multiclass'`` or ``'regression'``.
        numeric: names of the numeric columns.
        categorical: names, or name -> number of categories, or name -> categories; see
            :meth:`TableSchema.infer`, which infers what isn't named.
        drop: columns to leave out.
        split: how rows are parted, see above.
        part: ``'train'``, ``'val'``, ``'test'``, or ``'all'`` of these.
        fit_on: rows that scales and categories are taken from, ``'train'`` or ``'all'``.
        num_scaler: ``'standard'``, ``'minmax'`` or ``'quantile'``; see :class:`TableTransform`.
        missing: ``'raise'``, ``'mean'``, ``'median'`` or ``'drop'``.
        indices: the first so many rows of the part, or the ones with these numbers.
        download_hint: where the table comes from, for the error when it isn't there.

    Attributes:
        rows: (N, D) float32 of the part, in token order.
        row_numbers: (N,) their places in the table.
        schema: :class:`TableSchema`; its categories are those of the fitted rows.
        transform: the fitted :class:`TableTransform`.
        part_rows: part -> numbers of its rows in the table.

    Raises:
        FileNotFoundError: no folder, table or split file.
        TableError: anything else; names the column, row or key.
    """

    def __init__(
        self,
        data_root: str | Path,
        table: str,
        target: str | None = None,
        task: Task | None = None,
        numeric: Sequence[str] | None = None,
        categorical: Categorical | None = None,
        drop: Sequence[str] = (),
        split: str | dict[str, Any] | None = None,
        part: str = 'train',
        fit_on: str = 'train',
        num_scaler: NumScaler = 'standard',
        missing: str = 'raise',
        indices: int | Sequence[int] | None = None,
        download_hint: str = '',
    ) -> None:
        if fit_on not in ('train', 'all'):
            raise TableError(f"fit_on must be 'train' or 'all', got {fit_on!r}")
        self.data_root, self.table = Path(data_root), table
        df = read_table(self.data_root / table, download_hint)
        parts = split_rows(split, self.data_root, len(df))
        self.target = target
        self._labels = df[target] if target in df.columns else None
        if target and self._labels is None and (numeric is None or categorical is None):
            # else the label under its right name would be taken for an input
            names_of(list(df.columns), [target], 'target')
        fitted = _together(parts) if fit_on == 'all' else parts['train']
        if target and self._labels is None:
            print_log(
                f'no column {target!r} in {self.table}: if the label has another name, it may be '
                f'among the inputs now: {[*(numeric or ()), *(categorical or ())]}',
                'current',
                logging.WARNING,
            )
        self.schema = TableSchema.infer(df.iloc[fitted], target, task, numeric, categorical, drop)
        _check_declared(df, self.schema, categorical)
        if missing == 'drop':
            parts, dropped = _without_missing(df, parts, self.schema.numeric)
            fitted = fitted[~dropped[fitted]]
            missing = 'raise'
        self.part_rows = parts
        self.transform = TableTransform(self.schema, num_scaler, missing).fit(df.iloc[fitted])
        # rows of no part aren't read: they may hold anything
        used = _together(parts)
        self._all = torch.zeros(len(df), len(self.schema.columns))
        self._all[torch.from_numpy(used)] = torch.from_numpy(
            self.transform.transform(df.iloc[used])
        )
        self._choose(part, indices)
        self._log(df)

    def _choose(self, part: str, indices: int | Sequence[int] | None = None) -> None:
        parts = self.part_rows
        if part != 'all' and part not in parts:
            raise TableError(
                f'part {part!r}: the split has {[*parts, "all"]}; set split, such as '
                'split=dict(test=0.2, val=0.1, seed=0)'
            )
        numbers = _together(parts) if part == 'all' else parts[part]
        self.part = part
        self.row_numbers = numbers[np.asarray(take(len(numbers), indices, 'row'))]
        self.rows = self._all[torch.from_numpy(self.row_numbers)]
        self.metainfo: dict[str, Any] = dict(
            data_root=str(self.data_root),
            layout='table',
            table=self.table,
            part=part,
            num_rows=len(self),
            transform=self.transform.state_dict(),
        )

    def with_part(self, part: str) -> TabularDataset:
        """Another part of the same table, with the same scales and codes."""
        other = copy.copy(self)
        other._choose(part)
        return other

    @property
    def class_names(self) -> list[str]:
        """The labels that occur in the parts of the table, sorted; never used in pre-training."""
        text = as_text(self._target().iloc[_together(self.part_rows)])
        return sorted({label for label in text if label is not None}, key=_by_number)

    def labels(self, class_names: Sequence[str] | None = None) -> NDArray[Any]:
        """Label of each row; never used in pre-training.

        Args:
            class_names: what the numbers mean. Default: :attr:`class_names`.

        Returns:
            (len(self),) int64 class numbers, or float64 in the table's unit for a regression.

        Raises:
            TableError: no label column; missing labels, or ones that aren't numbers or among the
                names.
        """
        column = self._target().iloc[self.row_numbers]
        if self.schema.task == 'regression':
            values = read_numbers(column.to_frame(), [str(self.target)])[:, 0]
            if np.isnan(values).any():
                raise TableError(
                    f'column {self.target!r}, row {column.index[np.isnan(values).argmax()]}: no '
                    'label'
                )
            return values
        names = self.class_names if class_names is None else list(class_names)
        number = {name: i for i, name in enumerate(names)}
        out = np.array([number.get(text, -1) for text in as_text(column)], np.int64)
        if (out < 0).any():
            i = int((out < 0).argmax())
            raise TableError(
                f'column {self.target!r}, row {self.row_numbers[i]}: the label {column.iloc[i]!r} '
                f'is not among the names {names[:20]}'
            )
        return out

    def _target(self) -> Any:
        if self._labels is None:
            raise TableError(
                f'table {self.data_root / self.table}: no label column {self.target!r}; set target'
            )
        return self._labels

    def _log(self, df: Any) -> None:
        counts = ', '.join(f'{len(self.part_rows[p])} {p}' for p in PARTS if p in self.part_rows)
        left = len(df) - len(_together(self.part_rows))
        unknown = ', '.join(f'{n} in {c!r}' for c, n in self.transform.unknown.items())
        print_log(
            f'TabularDataset: {len(self)} rows ({self.part}) of {self.data_root / self.table} '
            f'({counts}{f", {left} left out" if left else ""}); {self.transform.num_numeric} '
            f'numeric and {len(self.schema.categorical)} categorical columns'
            + (f'; unknown or missing categories, code 0: {unknown}' if unknown else ''),
            logger='current',
            level=logging.INFO,
        )


def _by_number(label: str) -> tuple[bool, float, str]:
    """Sorting key: numbers by value, before other labels."""
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def _together(parts: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Rows of all parts, in the table's order."""
    return np.sort(np.concatenate(list(parts.values())))


def _check_declared(df: Any, schema: TableSchema, declared: Categorical | None) -> None:
    """Refuse a number of categories that the whole table doesn't have.

    The fitted rows may lack a few of them; more than the table has is a mistake.
    """
    for name, count in declared.items() if isinstance(declared, Mapping) else ():
        if isinstance(count, int) and len(schema.categorical[name]) < count:
            there = df[name].nunique()
            if there < count:
                raise TableError(
                    f'column {name!r} has {there} categories, the config says {count}; '
                    'projects/t_jepa/tools/inspect_table.py prints the right lines'
                )


def _without_missing(
    df: Any, parts: Mapping[str, NDArray[np.int64]], numeric: Sequence[str]
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.bool_]]:
    """Parts without the rows in which a number is missing, and a mark at these rows."""
    missing = np.isnan(read_numbers(df, numeric)).any(1)
    kept = {part: rows[~missing[rows]] for part, rows in parts.items()}
    empty = [part for part, rows in kept.items() if not len(rows)]
    if empty:
        raise TableError(f"missing='drop' leaves no row in {empty}; fill numbers with 'median'")
    return kept, missing
