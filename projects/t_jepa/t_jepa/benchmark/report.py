"""Table, CSV and JSON of a comparison, and a picture of the spread during pre-training."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmjepa.benchmark.label_efficiency.report import mean_std
from mmjepa.benchmark.label_efficiency.results import read_json, write_json, write_text
from mmjepa.engine.checkpoint import atomic_write

from .choices import ARMS, RANDOM, RAW, TJEPA, Asked
from .plan import STATE, Cell, Plan

# figure -> what it is called, digits
METRICS = {
    'accuracy': ('accuracy (%)', 2),
    'rmse': ('RMSE, standardised', 4),
    'rmse_unit': ("RMSE, target's unit", 4),
}
Row = dict[str, Any]
States = dict[tuple[str, int], dict[str, Any]]  # by data set and seed


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """A row for each finished cell, JSON-ready."""
    rows = []
    for cell in cells:
        if (result := cell.result()) is None:
            continue
        row = dict(
            dataset=cell.dataset,
            model=cell.model,
            input=cell.projection,
            arm=cell.arm,
            seed=cell.seed,
        )
        row |= {name: result['metrics'].get(name) for name in METRICS}
        fit = result['fit']
        row |= dict(fitted=fit.get('best_epoch', fit.get('trees', fit.get('penalty'))))
        rows.append(row | dict(seconds=round(result['seconds'], 2), rows=result['rows']))
    return rows


def states_of(cells: Sequence[Cell]) -> States:
    """Collapse states of the pre-trainings whose encoder was used."""
    states: States = {}
    for cell in cells:
        if cell.arm == TJEPA and cell.result() is not None:
            states[cell.dataset, cell.seed] = read_json(cell.folder.parent / STATE)
    return states


def write_report(asked: Asked, plan: Plan, failed: Mapping[Path, str]) -> list[Path]:
    """Write ``table.md``, ``results.csv``, ``results.json`` and, with states, ``spread.png``."""
    rows, states, folder = rows_of(plan.cells), states_of(plan.cells), asked.folder
    paths = [folder / name for name in ('table.md', 'results.csv', 'results.json')]
    write_text(paths[0], table_text(asked, plan, rows, states, failed))
    write_text(paths[1], csv_text(rows))
    named = [dict(dataset=name, seed=seed, **state) for (name, seed), state in states.items()]
    write_json(paths[2], dict(rows=rows, states=named))
    if states:
        paths.append(folder / 'spread.png')
        atomic_write(paths[-1], partial(spread_picture(states).savefig, format='png', dpi=110))
    return paths


def csv_text(rows: Sequence[Row]) -> str:
    """Without the numbers of rows, which ``results.json`` has."""
    stream = io.StringIO()
    names = [name for name in (rows[0] if rows else ()) if name != 'rows']
    writer = csv.DictWriter(stream, names, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def figure(values: Sequence[float], digits: int) -> str:
    """``85.20 +- 0.11``, of the seeds that are there."""
    if not len(values):
        return '-'
    mean, std = mean_std(np.array(values))
    digits = digits if abs(mean) < 1000 else 0
    return f'{mean:,.{digits}f}' + ('' if std is None else f' +- {std:,.{digits}f}')


def difference(ours: Sequence[float], theirs: Sequence[float], digits: int) -> str:
    """``+1.20 (+2.4)``: points, and units of the larger standard deviation where both have one."""
    if not len(ours) or not len(theirs):
        return '-'
    (mean, std), (other, other_std) = (mean_std(np.array(v)) for v in (ours, theirs))
    digits = digits if abs(other) < 1000 else 0
    spread = None if std is None or other_std is None else max(std, other_std)
    units = f' ({(mean - other) / spread:+.1f})' if spread else ''
    return f'{mean - other:+,.{digits}f}{units}'


def table_text(
    asked: Asked,
    plan: Plan,
    rows: Sequence[Row],
    states: States,
    failed: Mapping[Path, str],
) -> str:
    """The report in Markdown."""
    lines = ['# T-JEPA on tables', '', _about(asked)]
    for name in asked.configs:
        own = [row for row in rows if row['dataset'] == name]
        lines += ['', f'## {name}', '', *_figures(asked, plan, name, own)]
        lines += _collapse(name, states)
    done = len(rows)
    if done < len(plan.cells):
        lines += ['', f'{done} of {len(plan.cells)} cells are finished.']
    lines += [f'- no result: {folder}: {why}' for folder, why in failed.items()]
    return '\n'.join(lines) + '\n'


def _about(asked: Asked) -> str:
    b, trees = asked.budget, asked.trees
    return (
        'Mean +- standard deviation (n - 1) over seeds, on the whole test part; a seed is one '
        "pre-training, untrained encoder and head. Differences in the figure's unit and, in "
        'brackets, in the larger of the two standard deviations; RMSE: lower is better. The same '
        f'heads in all arms: sizes `{asked.head_size}`, AdamW, batch {b.batch_size}, at most '
        f'{b.max_epochs} epochs of a cosine schedule, ended after {b.patience} epochs without a '
        f'lower validation loss, best weights; trees: at most {trees.trees}, rate {trees.lr:g}, '
        f'depth {trees.depth}, ended after {trees.patience}; XGBoost sees 80 % of the rows a tree. '
        f'`{asked.encoder}` encoder, frozen, representation '
        f'{"standardised by the training part" if asked.scale else "as it is"}; trees and linear '
        f'models see its tokens as {asked.flat}.'
    )


def _figures(asked: Asked, plan: Plan, name: str, rows: Sequence[Row]) -> Iterator[str]:
    arms = [arm for arm in ARMS if arm in asked.arms]
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        for metric in METRICS:
            if row[metric] is not None:
                found[row['model'], row['input'], row['arm'], metric].append(row[metric])
    compared = [other for other in (RANDOM, RAW) if other in arms and TJEPA in arms]
    heads = [*arms, *(f'{TJEPA} - {other}' for other in compared)]
    if rows:
        counts = ', '.join(f'{count:,} {part}' for part, count in rows[0]['rows'].items())
        length = plan.pretraining.get(name)
        yield from (f'Rows: {counts}.{f" Pre-training: {length}." if length else ""}', '')
    yield f'| model | input | figure | seeds | {" | ".join(heads)} |'
    yield '|---|---|---|---:|' + '---:|' * len(heads)
    pairs = dict.fromkeys((c.model, c.projection) for c in plan.cells if c.dataset == name)
    for model, kind in pairs:
        if not kind and any(other == model and k for other, k in pairs):
            continue  # stands beside the others
        for metric, (label, digits) in METRICS.items():
            values = {
                arm: found.get((model, '' if arm == RAW else kind, arm, metric), []) for arm in arms
            }
            if not any(values.values()):
                continue
            cells = [figure(values[arm], digits) for arm in arms]
            cells += [difference(values[TJEPA], values[other], digits) for other in compared]
            seeds = '/'.join(str(len(values[arm])) for arm in arms)
            yield f'| {model} | {kind or "raw columns"} | {label} | {seeds} | {" | ".join(cells)} |'


def _collapse(name: str, states: States) -> Iterator[str]:
    own = {seed: state for (dataset, seed), state in states.items() if dataset == name}
    if not own:
        return
    yield from (
        '',
        'Spread over rows of the representation (standard deviation, mean over tokens and '
        'channels), its effective rank and uniformity, on validation rows; untrained -> trained. '
        "Lowest: of these and of the target encoder's on the way. Collapsed: less than a tenth of "
        'the start.',
        '',
        '| seed | spread start | lowest (step) | end | rank | uniformity | |',
        '|---:|---:|---:|---:|---:|---:|---|',
    )
    for seed, state in own.items():
        a, b, step = state['start'], state['end'], state['lowest_step']
        when = {0: 'start', -1: 'end'}.get(step, str(step))
        yield (
            f'| {seed} | {a["spread"]:.4f} | {state["lowest"]:.4f} ({when}) | {b["spread"]:.4f} | '
            f'{a["rank"]:.1f} -> {b["rank"]:.1f} | {a["uniformity"]:.4f} -> '
            f'{b["uniformity"]:.4f} | {state["verdict"]} |'
        )


def spread_picture(states: States) -> Any:
    """Spread during pre-training, a panel a data set, a line a seed."""
    from matplotlib.figure import Figure  # only with something to draw

    names = list(dict.fromkeys(name for name, _ in states))
    canvas = Figure(figsize=(5 * len(names), 4), layout='constrained')
    for ax, name in zip(canvas.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for (dataset, seed), state in states.items():
            if dataset == name and state['trajectory']:
                ax.plot(*zip(*state['trajectory'], strict=True), color=f'C{seed % 10}',
                        label=f'seed {seed}')  # fmt: skip
                ax.axhline(state['start']['spread'], color=f'C{seed % 10}', linestyle=':')
        ax.set(title=name, xlabel='step', ylabel='spread over rows', yscale='log')
        ax.grid(color='#d0d0d0', linewidth=0.5)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    return canvas
