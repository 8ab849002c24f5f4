"""Table -> float32 rows: scaled numbers first, then the codes of categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .schema import TableSchema, as_text
from .tables import TableError, import_pandas, names_of

if TYPE_CHECKING:
    import pandas as pd

NumScaler = Literal['standard', 'minmax', 'quantile']
NUM_SCALERS = ('standard', 'minmax', 'quantile')
MISSING = ('raise', 'mean', 'median')
QUANTILES = 1000  # of the empirical distribution, at most
EDGE = 1e-7  # share that stands for the smallest and largest value: +-5.2 standard deviations


class TableTransform:
    """Scales numbers and codes categories by what the rows given to :meth:`fit` say.

    Numbers: ``'standard'`` (mean 0, variance 1), ``'minmax'`` ([0, 1]; rows seen later may lie
    outside) or ``'quantile'`` (normal distribution by rank, as scikit-learn's
    ``QuantileTransformer``; that one moves a pile of smallest or largest values to the end, here
    it takes the middle of its ranks). A constant column becomes 0. A missing number is refused,
    or filled with the column's mean or median of the fitted rows; infinite ones are always
    refused.

    Categories: codes 1..card in the schema's order; 0 stands for a category that the schema
    doesn't know, and for a missing value. :attr:`unknown` counts them.

    Args:
        schema: columns and categories.
        num_scaler: of numbers.
        missing: ``'raise'``, or what stands in for a missing number: ``'mean'`` or ``'median'``.

    Attributes:
        unknown: column -> values of the last :meth:`transform` that became code 0, if any did.

    Raises:
        TableError: an argument is out of its set.
    """

    def __init__(
        self, schema: TableSchema, num_scaler: NumScaler = 'standard', missing: str = 'raise'
    ) -> None:
        for name, value, known in (
            ('num_scaler', num_scaler, NUM_SCALERS),
            ('missing', missing, MISSING),
        ):
            if value not in known:
                raise TableError(f'{name} is one of {known}, got {value!r}')
        self.schema, self.num_scaler, self.missing = schema, num_scaler, missing
        self.unknown: dict[str, int] = {}
        self._fill: NDArray[np.float64] | None = None
        self._scale: NDArray[np.float64] = np.empty((0, 0))

    @property
    def columns(self) -> tuple[str, ...]:
        """(D,) names in token order."""
        return self.schema.columns

    @property
    def num_numeric(self) -> int:
        """Numeric columns."""
        return len(self.schema.numeric)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Codes of each categorical column, 0 included."""
        return self.schema.cardinalities

    def fit(self, df: pd.DataFrame) -> TableTransform:
        """Take scales (and what stands in for missing numbers) from these rows.

        Raises:
            TableError: no rows, missing columns, values that aren't finite numbers.
        """
        if not len(df):
            raise TableError('no rows to fit scales on')
        values = self._numbers(df)
        empty = np.isnan(values).all(0)
        if empty.any():
            raise TableError(
                f'column {self.schema.numeric[int(empty.argmax())]!r}: all values are missing; '
                'leave it out with drop'
            )
        fill = np.nanmedian(values, 0) if self.missing == 'median' else np.nanmean(values, 0)
        self._fill = fill
        values = self._filled(df, values)
        if self.num_scaler == 'quantile':
            self._scale = np.quantile(values, np.linspace(0, 1, min(QUANTILES, len(values))), 0)
            return self
        if self.num_scaler == 'standard':
            shift, width = values.mean(0), values.std(0)
        else:
            shift, width = values.min(0), np.ptp(values, 0)
        # rounding leaves a tiny spread in a constant column
        constant = np.ptp(values, 0) == 0
        shift, width = np.where(constant, values[0], shift), np.where(constant, 1.0, width)
        self._scale = np.stack([shift, width])
        return self

    def transform(self, df: pd.DataFrame) -> NDArray[np.float32]:
        """(N, D) float32 rows in token order.

        Raises:
            TableError: not fitted; missing columns; numbers that are no numbers, infinite, too
                large for float32, or missing with ``missing='raise'``; names column and row.
        """
        if self._fill is None:
            raise TableError('TableTransform is not fitted: call fit first')
        rows = np.empty((len(df), len(self.columns)), np.float32)
        numbers = self._scaled(self._filled(df, self._numbers(df)))
        self._refuse(df, np.abs(numbers) > np.finfo(np.float32).max, 'is too large for float32')
        rows[:, : self.num_numeric] = numbers
        self.unknown = {}
        for k, (name, known) in enumerate(self.schema.categorical.items(), self.num_numeric):
            codes = _codes(df[name], known)
            rows[:, k] = codes
            if not codes.all():
                self.unknown[name] = int((codes == 0).sum())
        return rows

    def fit_transform(self, df: pd.DataFrame) -> NDArray[np.float32]:
        """Fit, then transform the same rows."""
        return self.fit(df).transform(df)

    def state_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready: JSON keeps every bit of a float."""
        if self._fill is None:
            raise TableError('TableTransform is not fitted: nothing to save')
        return dict(
            schema=self.schema.to_dict(),
            num_scaler=self.num_scaler,
            missing=self.missing,
            fill=self._fill.tolist(),
            scale=self._scale.tolist(),
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TableTransform:
        """Undo of :meth:`state_dict`."""
        schema = TableSchema.from_dict(state['schema'])
        out = cls(schema, state['num_scaler'], state['missing'])
        out._fill = np.array(state['fill'], np.float64)
        out._scale = np.array(state['scale'], np.float64).reshape(
            len(state['scale']), len(schema.numeric)
        )
        return out

    def _numbers(self, df: pd.DataFrame) -> NDArray[np.float64]:
        names_of(list(df.columns), self.columns, 'table')
        return read_numbers(df, self.schema.numeric)

    def _filled(self, df: pd.DataFrame, values: NDArray[np.float64]) -> NDArray[np.float64]:
        missing = np.isnan(values)
        if self.missing == 'raise':
            self._refuse(df, missing, "is missing (NaN); fill it with missing='median' or 'mean'")
        return np.where(missing, self._fill, values)

    def _refuse(self, df: pd.DataFrame, bad: NDArray[np.bool_], why: str) -> None:
        _refuse(df, self.schema.numeric, bad, why)

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.num_scaler != 'quantile':
            shift, width = self._scale
            return (values - shift) / width
        shares = np.linspace(0, 1, len(self._scale))
        out = np.empty_like(values)
        for j, knots in enumerate(self._scale.T):
            # the middle of a stretch of equal values, not its end
            up = np.interp(values[:, j], knots, shares)
            down = np.interp(-values[:, j], -knots[::-1], -shares[::-1])
            rank = (up - down) / 2 if knots[0] < knots[-1] else np.full(len(values), 0.5)
            out[:, j] = torch.special.ndtri(torch.from_numpy(rank.clip(EDGE, 1 - EDGE))).numpy()
        return out


def read_numbers(df: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """(N, len(names)) columns as numbers, NaN where missing.

    Raises:
        TableError: a value that is no number, or infinite; names column and row.
    """
    pd, out = import_pandas(), np.empty((len(df), len(names)))
    for j, name in enumerate(names):
        column = df[name]
        numbers = pd.to_numeric(column, errors='coerce')
        bad = (numbers.isna() & column.notna()).to_numpy()
        if bad.any():
            i = int(bad.argmax())
            raise TableError(
                f'column {name!r}, row {df.index[i]}: {column.iloc[i]!r} is no number; a column '
                'of kinds belongs in categorical'
            )
        out[:, j] = numbers.to_numpy(np.float64, na_value=np.nan)
    _refuse(df, names, np.isinf(out), 'is infinite (inf)')
    return out


def _refuse(df: pd.DataFrame, names: Sequence[str], bad: NDArray[np.bool_], why: str) -> None:
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise TableError(
            f'column {names[j]!r}, row {df.index[i]}: the number {why}: {int(bad.sum())} such '
            f'cells, in columns {[names[k] for k in np.flatnonzero(bad.any(0))]}'
        )


def _codes(column: pd.Series, known: tuple[str, ...]) -> NDArray[np.int64]:
    """(N,) 1.. for known categories, 0 for all else."""
    index = import_pandas().Index(known, dtype=object)
    return index.get_indexer(as_text(column)).astype(np.int64) + 1
