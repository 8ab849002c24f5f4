"""Reading tables (CSV, parquet) and splits; every bad input is one clear error."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmjepa.engine.config import ConfigError

if TYPE_CHECKING:
    import pandas as pd

INSTALL = 'pip install -r projects/t_jepa/requirements.txt'
CSV_SUFFIXES = ('.csv', '.csv.gz', '.tsv', '.tsv.gz')
SUFFIXES = (*CSV_SUFFIXES, '.parquet')
PARTS = ('train', 'val', 'test')


class TableError(ConfigError):
    """A table, or what is asked of it, cannot be used."""


def import_pandas() -> Any:
    """pandas, or how to install it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f'tables need pandas ({error}): {INSTALL}') from error
    return pandas


def read_table(path: str | Path, hint: str = '') -> pd.DataFrame:
    """A table with named columns.

    CSV files are comma-separated (``.tsv``: by tabs) with one header line, gzipped or not; blanks
    after a separator don't count, and empty cells and pandas' usual marks (``NA``, ``nan``,
    ``null`` ...) are missing values.

    Args:
        path: ``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz`` or ``.parquet``.
        hint: how to get the file, for the error when it isn't there.

    Raises:
        FileNotFoundError: no such file.
        TableError: another format, no header, double or missing names, no rows, damaged.
        ImportError: pandas, or pyarrow for parquet, is missing.
    """
    pd, path = import_pandas(), Path(path)
    if not path.is_file():
        kind = 'a folder' if path.is_dir() else 'no such file'
        raise FileNotFoundError(f'table {path}: {kind}. {hint}'.rstrip())
    if not path.name.endswith(SUFFIXES):
        raise TableError(f'table {path}: known are {", ".join(SUFFIXES)}')
    try:
        table = _read_csv(path) if path.name.endswith(CSV_SUFFIXES) else _read_parquet(path)
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError, EOFError) as error:
        raise TableError(f'table {path} cannot be parsed: {str(error).strip()}') from None
    except pd.errors.EmptyDataError:
        raise TableError(f'table {path} is empty') from None
    if not len(table):
        raise TableError(f'table {path} has a header but no rows')
    return table


def _read_csv(path: Path) -> pd.DataFrame:
    pd = import_pandas()
    separator = '\t' if '.tsv' in path.name else ','
    options = dict(sep=separator, skipinitialspace=True)
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
    if header.isna().any():
        raise TableError(
            f'table {path}: column {int(header.isna().argmax())} has no name; an index that pandas '
            'wrote? Write it with index=False'
        )
    names = [str(name).strip() for name in header]
    if len(names) == 1 and any(mark in names[0] for mark in ',;\t'):
        raise TableError(f'table {path}: the separator is not {separator!r}: {names[0][:60]!r}')
    if pd.to_numeric(header, errors='coerce').notna().all():
        raise TableError(f'table {path}: the first line holds numbers, not names; add a header')
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise TableError(f'table {path}: double column names {doubles}')
    with warnings.catch_warnings():
        # rows that are longer than the header are neither an index nor cut
        warnings.simplefilter('error', pd.errors.ParserWarning)
        table = pd.read_csv(path, low_memory=False, index_col=False, **options)
    table.columns = names
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    pd = import_pandas()
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f'parquet tables need pyarrow ({error}): {INSTALL}') from error
    try:
        table = pd.read_parquet(path)
    except pyarrow.ArrowInvalid as error:
        raise TableError(f'table {path} is not parquet, or damaged: {error}') from None
    table.columns = [str(name) for name in table.columns]
    if table.columns.duplicated().any():
        raise TableError(f'table {path}: double names in {list(table.columns)}')
    return table.reset_index(drop=True)


def read_split(path: str | Path, count: int) -> dict[str, NDArray[np.int64]]:
    """Row numbers of the parts of a table, from an ``.npz`` file.

    Args:
        path: arrays ``train``, ``test`` and, if it has them, ``val``: 0-based row numbers.
        count: rows of the table.

    Returns:
        ``train``, ``test`` and maybe ``val``, in the file's order; rows in none of them are left
        out.

    Raises:
        FileNotFoundError: no such file.
        TableError: not such a file, other arrays, numbers out of range, a row in two parts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'split {path}: no such file')
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise TableError(f'split {path} is no .npz file of row numbers: {error}') from None
    if not {'train', 'test'} <= set(parts) <= set(PARTS):
        raise TableError(f'split {path}: has {sorted(parts)}, needs train, test and maybe val')
    for name, rows in parts.items():
        if rows.ndim != 1 or rows.dtype.kind not in 'iu' or not len(rows):
            raise TableError(
                f'split {path}, {name!r}: row numbers, (n,) integers with n > 0, got '
                f'{rows.shape} {rows.dtype}'
            )
        if rows.min() < 0 or rows.max() >= count:
            raise TableError(
                f'split {path}, {name!r}: rows {rows.min()}..{rows.max()}, but the table has '
                f'{count} (from 0); is it the split of another table?'
            )
    rows, times = np.unique(np.concatenate(list(parts.values())), return_counts=True)
    if (times > 1).any():
        raise TableError(
            f'split {path}: row {rows[times > 1][0]} and {int((times > 1).sum()) - 1} others '
            'appear twice'
        )
    return {name: rows.astype(np.int64) for name, rows in parts.items()}


def carve(
    rows: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rest, carved): a random share of rows, drawn without a look at values or labels.

    Raises:
        TableError: nothing would be left, or nothing taken.
    """
    count = round(len(rows) * share)
    if not 0 < share < 1 or not 0 < count < len(rows):
        raise TableError(
            f'a share of {share} of {len(rows)} rows: it must be in (0, 1) and leave at least one '
            'row on each side'
        )
    taken = np.zeros(len(rows), dtype=bool)
    taken[np.random.default_rng(seed).permutation(len(rows))[:count]] = True
    return rows[~taken], rows[taken]


def split_rows(
    split: str | Mapping[str, Any] | None, root: Path, count: int
) -> dict[str, NDArray[np.int64]]:
    """Row numbers of each part.

    Args:
        split: see :class:`TabularDataset`.
        root: folder of the split's file.
        count: rows of the table.

    Returns:
        ``train`` and whichever of ``val`` and ``test`` there are.

    Raises:
        FileNotFoundError: no split file.
        TableError: unknown keys, or shares that cannot be.
    """
    if split is None:
        return {'train': np.arange(count)}
    settings = dict(file=split) if isinstance(split, str) else dict(split)
    unknown = sorted(set(settings) - {'file', 'val', 'test', 'seed'})
    if unknown or not settings.keys() & {'file', 'val', 'test'}:
        raise TableError(
            f'split={split}: a file, or dict(val=0.1, test=0.2, seed=0), or dict(file=..., val=, '
            'seed=)'
        )
    seed = int(settings.get('seed', 0))
    if settings.get('file') is not None:
        if 'test' in settings:
            raise TableError(f'split={split}: the file says what is in test; leave out test')
        parts = read_split(root / settings['file'], count)
    else:
        parts = {'train': np.arange(count)}
        if settings.get('test'):
            parts['train'], parts['test'] = carve(parts['train'], settings['test'], seed)
    if settings.get('val'):
        if 'val' in parts:
            raise TableError(f'split={split}: the file has a val part; leave out val')
        # another stream than test's
        parts['train'], parts['val'] = carve(parts['train'], settings['val'], seed + 1)
    return parts


def names_of(columns: Sequence[str], wanted: Sequence[str], what: str) -> None:
    """Refuse names that aren't there.

    Raises:
        TableError: says which, and which there are.
    """
    missing = [name for name in wanted if name not in columns]
    if missing:
        shown = ', '.join(map(str, columns[:30])) + (', ...' if len(columns) > 30 else '')
        raise TableError(f'{what}: no columns {missing} in the table; there are: {shown}')
