"""What an average-precision evaluation returns, and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class APResult:
    """Average precision of a detector.

    Attributes:
        metrics: figures by name; the function that made it says which.
        table: the same for reading.
        notes: what to know before trusting the figures, in words.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    table: str = ''
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Table and notes for the terminal."""
        return '\n\n'.join([self.table, *(f'note: {note}' for note in self.notes)])


def text_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """Rows of figures under a header.

    Args:
        title: above the names of the rows.
        columns: names of the columns.
        rows: figures by the row's name; whole numbers are printed as such.
    """
    first = max(len(name) for name in (title, *rows))
    widths = [max(8, len(column)) for column in columns]
    lines = [_line(title, columns, first, widths)]
    lines += [
        _line(name, [f'{v:d}' if isinstance(v, int) else f'{v:.2f}' for v in values], first, widths)
        for name, values in rows.items()
    ]
    return '\n'.join(lines)


def _line(name: str, cells: Sequence[str], first: int, widths: Sequence[int]) -> str:
    padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return '  '.join([name.ljust(first), *padded])
