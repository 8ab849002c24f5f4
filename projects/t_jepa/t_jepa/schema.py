"""What the columns of a table are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from .tables import TableError, import_pandas, names_of

if TYPE_CHECKING:
    import pandas as pd

Task = Literal['binclass', 'multiclass', 'regression']
TASKS = ('binclass', 'multiclass', 'regression')
MAX_CLASSES = 50  # integers with more distinct values are a regression target, when not told
ID_SHARE, ID_MIN = 0.5, 50  # of distinct strings, from which a column looks like an identifier

_NUMBERS = ('integer', 'floating', 'mixed-integer-float', 'decimal')  # in a column of objects

# names, or name -> number of categories, or name -> the categories
Categorical = Sequence[str] | Mapping[str, int | Sequence[Any]]


def as_text(column: pd.Series) -> NDArray[np.object_]:
    """(N,) values as strings, None where missing; the numbers 3 and 3.0 are one category."""
    codes, values = import_pandas().factorize(column)
    # one string more, for -1, which is missing
    texts = np.array([*map(_canonical, values), None], dtype=object)
    return texts[codes]


def _canonical(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)


@dataclass(frozen=True)
class TableSchema:
    """Columns of a table in the order of the tokens: numeric ones first, then categorical ones.

    Attributes:
        numeric: names.
        categorical: name -> the known categories, as strings, sorted.
        target: name of the label column, which is never an input.
        task: what the label is for.
    """

    numeric: tuple[str, ...]
    categorical: dict[str, tuple[str, ...]]
    target: str | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise TableError(f'task must be one of {TASKS}, got {self.task!r}')
        columns = self.columns
        if not columns:
            raise TableError('a table needs at least one numeric or categorical column')
        doubles = sorted({c for c in columns if columns.count(c) > 1})
        if doubles or self.target in columns:
            raise TableError(
                f'columns {doubles or [self.target]} have two roles; each is numeric, categorical '
                'or the target'
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """(D,) names in token order."""
        return (*self.numeric, *self.categorical)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Codes of each categorical column: its categories, and 0 for unknown ones."""
        return tuple(len(known) + 1 for known in self.categorical.values())

    @classmethod
    def infer(
        cls,
        df: pd.DataFrame,
        target: str | None = None,
        task: Task | None = None,
        numeric: Sequence[str] | None = None,
        categorical: Categorical | None = None,
        drop: Sequence[str] = (),
    ) -> TableSchema:
        """Schema of a table; what is named is taken as named, the rest by type.

        Numbers are numeric; strings, booleans and pandas' categories are categorical, with the
        categories that occur. Numbers that stand for kinds must be named in ``categorical``. With
        both ``numeric`` and ``categorical`` given, each column must be in one of them, or in
        ``drop``. A target of two distinct values is ``'binclass'``; of strings, or of up to
        50 whole numbers, ``'multiclass'``; else ``'regression'``.

        Args:
            df: (N, ...) rows; those that may be looked at (the training part).
            target: the label column; it may be absent.
            task: of the label.
            numeric: names of numeric columns.
            categorical: names; or name -> number of categories, an upper limit that sizes the
                embedding; or name -> categories.
            drop: names to leave out.

        Raises:
            TableError: unknown names, double roles, columns of no usable type, identifiers, more
                categories than the number given.
        """
        pd = import_pandas()
        there = [str(name) for name in df.columns]
        kinds = _named(there, target, numeric, categorical, drop)
        complete = numeric is not None and categorical is not None
        rest = [c for c in there if c not in kinds]
        if rest and complete:
            raise TableError(
                f'columns {rest} are neither numeric nor categorical: name them, or put them in '
                'drop'
            )
        for name in rest:
            kinds[name] = _kind(df[name], name)
        given = categorical if isinstance(categorical, Mapping) else {}
        found: dict[str, tuple[str, ...]] = {}
        for name in there:
            if kinds[name] == 'categorical':
                found[name] = _categories(df[name], name, given.get(name), name in rest)
        if target in there and task is None:
            labels = df[target].dropna()
            classes = labels.nunique()
            whole = pd.api.types.is_numeric_dtype(labels) and bool((labels % 1 == 0).all())
            if classes <= 2:
                task = 'binclass'
            elif not pd.api.types.is_numeric_dtype(labels) or (whole and classes <= MAX_CLASSES):
                task = 'multiclass'
            else:
                task = 'regression'
        numbers = tuple(name for name in there if kinds[name] == 'numeric')
        return cls(numbers, found, target, task)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> TableSchema:
        """Undo of :meth:`to_dict`."""
        known = {str(k): tuple(v) for k, v in state['categorical'].items()}
        return cls(tuple(state['numeric']), known, state.get('target'), state.get('task'))


def _named(
    there: list[str],
    target: str | None,
    numeric: Sequence[str] | None,
    categorical: Categorical | None,
    drop: Sequence[str],
) -> dict[str, str]:
    """Column -> role, of the columns that are named."""
    kinds: dict[str, str] = {}
    for what, names in (('numeric', numeric), ('categorical', categorical), ('drop', drop)):
        if isinstance(names, str):
            raise TableError(f"{what} is a list of names: ['{names}']")
        names_of(there, list(names or ()), what)
        for name in names or ():
            if name == target or kinds.get(name, what) != what:
                other = 'the target' if name == target else kinds[name]
                raise TableError(f'column {name!r} is both {what} and {other}')
            kinds[name] = what
    if target in there:
        kinds[str(target)] = 'target'
    return kinds


def _kind(column: pd.Series, name: str) -> str:
    """Role of a column by its type."""
    types = import_pandas().api.types
    if types.is_object_dtype(column) and types.infer_dtype(column) in _NUMBERS:
        return 'numeric'
    if types.is_bool_dtype(column):
        return 'categorical'
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        return 'numeric'
    if isinstance(column.dtype, types.CategoricalDtype) or types.is_string_dtype(column):
        return 'categorical'
    if types.is_object_dtype(column) and column.dropna().map(np.isscalar).all():
        return 'categorical'
    raise TableError(
        f'column {name!r} is {column.dtype}, neither numbers nor categories: turn it into numbers, '
        'or leave it out with drop'
    )


def _categories(
    column: pd.Series, name: str, given: int | Sequence[Any] | None, inferred: bool
) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TableError(f'categorical[{name!r}]: a number or a list of categories, got {given!r}')
    if given is not None and not isinstance(given, int | np.integer):
        known = [_canonical(value) for value in given]
        if len(set(known)) < len(known) or not known:
            raise TableError(f'categorical[{name!r}]: different categories, got {given}')
        return tuple(sorted(known))
    text = as_text(column)
    found = sorted(set(text[text != None]))  # noqa: E711 (elementwise)
    if given is not None and len(found) > given:
        raise TableError(
            f'column {name!r} has {len(found)} categories, the config says {given}; '
            'projects/t_jepa/tools/inspect_table.py prints the right lines'
        )
    if inferred and len(found) >= max(ID_MIN, ID_SHARE * len(column)):
        raise TableError(
            f'column {name!r} has {len(found)} different strings in {len(column)} rows, like an '
            'identifier: put it in drop, or name it in categorical if it is none'
        )
    if not found:
        print_log(f'column {name!r}: all values are missing', 'current', logging.WARNING)
    return tuple(found)
