"""AP against the share of labels."""

import os
from collections.abc import Sequence
from pathlib import Path

from .plan import labels
from .report import COLUMNS, Figure, Summary

GRID_COLOUR = '#d0d0d0'
NUDGE = 1.03  # factor between the places of two arms, so that their error bars stay apart


def save_curve(summary: Summary, arms: Sequence[str], folder: Path) -> Path:
    """Draw a panel for the mean and each class; log x, an error bar of one standard deviation.

    Args:
        summary: figures by fraction, multiple and arm.
        arms: in the order of their colours.
        folder: for ``curve.png``.

    Returns:
        The picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(15, 4.2), layout='constrained')
    FigureCanvasAgg(figure)
    fractions = sorted({fraction for fraction, _, _ in summary})
    axes = figure.subplots(1, len(COLUMNS))
    for ax, name in zip(axes, (COLUMNS[-1], *COLUMNS[:-1]), strict=True):
        for series in _series(summary, arms, name):
            _draw(ax, *series)
        ax.set_xscale('log')
        ax.set_xticks(fractions, [labels(fraction) for fraction in fractions])
        ax.minorticks_off()
        ax.set_xlim(fractions[0] / 1.3, fractions[-1] * 1.3)
        ax.set(title=name, xlabel='labelled training frames')
        ax.grid(color=GRID_COLOUR, linewidth=0.5)
    axes[0].set_ylabel('3D AP, R40, moderate (%)')
    axes[0].legend(fontsize=8)
    path, temporary = folder / 'curve.png', folder / f'.tmp{os.getpid()}.curve.png'
    try:
        figure.savefig(temporary, dpi=110)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


Series = tuple[str, str, bool, list[tuple[float, Figure]]]


def _series(summary: Summary, arms: Sequence[str], column: str) -> list[Series]:
    """Label, colour, whether it is the usual schedule, and points of each curve."""
    multiples = sorted({multiple for _, multiple, _ in summary})
    found: list[Series] = []
    for index, arm in enumerate(arms):
        place = NUDGE ** (index - (len(arms) - 1) / 2)
        for multiple in multiples:
            points = [
                (fraction * place, figures[column])
                for (fraction, m, name), figures in sorted(summary.items(), key=lambda p: p[0])
                if name == arm and m == multiple
            ]
            usual = multiple == 1
            if points:
                label = arm if usual else f'{arm}, {multiple:g}x iterations'
                found.append((label, f'C{index}', usual, points))
    return found


def _draw(ax, label: str, colour: str, usual: bool, points: list[tuple[float, Figure]]) -> None:
    ax.errorbar(
        [x for x, _ in points],
        [figure.mean for _, figure in points],
        yerr=[figure.std or 0.0 for _, figure in points],
        label=label,
        color=colour,
        marker='o' if usual else 'D',
        markerfacecolor=colour if usual else 'white',
        linestyle='-' if usual else ':',
        linewidth=1.2,
        markersize=5,
        capsize=3,
    )
