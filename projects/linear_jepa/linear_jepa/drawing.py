"""What the figures share: tables, axes, small PNGs."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjepa.visualization.bev import GRID_COLOUR

from . import theory

Rows = list[dict[str, Any]]
Say = Callable[[str], None]
OBJECTIVES: tuple[theory.Objective, ...] = ('jepa', 'mae')
NAMES = {'jepa': 'JEPA', 'mae': 'MAE'}
COLOURS = ('#1f5fa8', '#d9622b', '#2a8a57', '#8a5aa8', '#b0902c', '#555555')


def write_csv(path: Path, rows: Rows) -> None:
    """One line a row; columns are the keys of the first one."""
    with path.open('w', newline='', encoding='utf-8') as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        for row in rows:
            table.writerow({k: f'{v:.6g}' if isinstance(v, float) else v for k, v in row.items()})


def label_axes(ax: Any, title: str, xlabel: str, ylabel: str, **scales: str) -> None:
    """Title, labels, scales and a grid."""
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, **scales)
    ax.grid(color=GRID_COLOUR, linewidth=0.5)


def listed(order: Sequence[int]) -> str:
    """As in titles."""
    return ', '.join(map(str, order))


def save(figure: Any, path: Path) -> None:
    """Write a PNG of 64 colours, a third of the usual size."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=90)
    with Image.open(buffer) as image:
        image.convert('RGB').quantize(64).save(path, optimize=True)
