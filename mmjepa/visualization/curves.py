"""Training curves from the scalars that MMEngine writes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .bev import GRID_COLOUR, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# panel title -> pattern of a scalar's last name part; the first panel that fits takes it
PANELS: dict[str, str] = {
    'Losses': r'^(?!.*trivial).*loss',
    'Loss over that of the mean target': r'trivial',
    'Learning rate and momentum': r'^(base_)?lr|momentum|beta|weight_decay',
    'Rank': r'rank',
    'Standard deviation': r'std',
    'Cosine': r'cos',
    'Prediction error': r'distance|error',
    'Hinges': r'hinge',
    'Gradient norm': r'grad_norm',
    'Shares': r'dropped|data_wait|share',
    'Time (s)': r'time$',
    'Throughput (1/s)': r'per_s',
    'Memory (MB)': r'mb$|memory',
}
LOG_PANEL = 'Learning rate and momentum'
SKIPPED = ('step', 'iter', 'epoch', 'eta')
Curves = dict[str, list[tuple[int, float]]]


def scalar_files(work_dir: str | Path) -> list[Path]:
    """The ``vis_data/scalars.json`` files of a work dir, oldest run first.

    Raises:
        FileNotFoundError: If there is none.
    """
    root = Path(work_dir)
    files = sorted(root.glob('*/vis_data/scalars.json')) or sorted(root.glob('scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{root} holds no */vis_data/scalars.json: give the work dir of a training run '
            'that has logged (every log_interval iterations)'
        )
    return files


def read_scalars(work_dir: str | Path) -> Curves:
    """All scalars of a work dir by step; where a resumed run repeats a step, it wins.

    Args:
        work_dir: Of a training run.

    Returns:
        Name -> ascending list of (step, value). Values that aren't finite are left out.

    Raises:
        FileNotFoundError: Without a scalars file.
        ValueError: If no scalar can be read.
    """
    table: dict[str, dict[int, float]] = {}
    for path in scalar_files(work_dir):
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed
            step = row.get('step', row.get('iter'))
            if step is None:
                continue
            for name, value in row.items():
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if name not in SKIPPED and number and math.isfinite(value):
                    table.setdefault(name, {})[int(step)] = float(value)
    if not table:
        raise ValueError(f'no scalar could be read below {work_dir}; was a single step logged?')
    return {name: sorted(values.items()) for name, values in table.items()}


def group_scalars(names: list[str]) -> dict[str, list[str]]:
    """Names by panel; what fits no panel goes to 'Others'."""
    groups: dict[str, list[str]] = {}
    for name in names:
        # the last part: 'collapse/target_rank' is a rank
        last = name.lower().rsplit('/', 1)[-1]
        title = next((t for t, pattern in PANELS.items() if re.search(pattern, last)), 'Others')
        groups.setdefault(title, []).append(name)
    order = [*PANELS, 'Others']
    return {title: sorted(groups[title]) for title in order if title in groups}


def curves_figure(work_dir: str | Path) -> Figure:
    """One panel for each kind of scalar.

    Raises:
        FileNotFoundError, ValueError: As :func:`read_scalars`.
    """
    curves = read_scalars(work_dir)
    groups = group_scalars(list(curves))
    columns = min(3, len(groups))
    rows = math.ceil(len(groups) / columns)
    figure = new_figure(5.6 * columns, 3.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for ax, (title, names) in zip(axes[: len(groups)], groups.items(), strict=True):
        for name in names:
            steps, values = zip(*curves[name], strict=True)
            ax.plot(steps, values, marker='.' if len(steps) < 3 else '', linewidth=1.2, label=name)
        spread = [v for name in names for _, v in curves[name] if v > 0]
        if title == LOG_PANEL and spread and max(spread) / min(spread) > 100:
            ax.set_yscale('log')
        ax.set(title=title, xlabel='iteration')
        ax.grid(color=GRID_COLOUR, linewidth=0.5)
        ax.legend(fontsize=7)
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    figure.suptitle(f'Training curves: {Path(work_dir)}')
    return figure
