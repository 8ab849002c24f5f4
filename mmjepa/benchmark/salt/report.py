"""What both stages cost; and the comparison as table, CSV, JSON and pictures."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isnan
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from mmjepa.benchmark.label_efficiency.report import difference, figure, mean_std
from mmjepa.benchmark.label_efficiency.results import read_json, write_json, write_text
from mmjepa.engine.checkpoint import atomic_write
from mmjepa.evaluation.loss_accuracy import LossAccuracy, loss_accuracy_pairs, rank_correlation

from .plan import SALT, UNTRAINED, VJEPA, VPIXEL, Cell, Comparison
from .stages import Stage

PETA = 1e15
Row = dict[str, Any]


def stage_costs(stages: Sequence[Stage], steps: Sequence[int]) -> list[Row]:
    """Counted FLOPs of each stage's run by slot, and of all together in a last row."""
    rows: list[Row] = []
    for stage, count in zip(stages, steps, strict=True):
        slots = {slot: sum(both) * stage.common.gpus for slot, both in stage.flops.step.items()}
        row = dict(stage=stage.name, config=str(stage.path), steps=count, step=stage.step_flops)
        rows.append(row | dict(slots=slots, run=count * stage.step_flops))
    total = sum(row['run'] for row in rows)
    return [*rows, dict(stage='total', steps=sum(steps), run=total)]


def costs_text(rows: Sequence[Row]) -> str:
    """The costs as a table."""
    slots = 'encoder', 'predictor', 'target'
    head = ''.join(f'{slot:>12}' for slot in slots)
    lines = [
        f'{"counted FLOPs":<14}{"steps":>9}{head}{"GFLOP/step":>13}{"PFLOP/run":>13}{"share":>8}'
    ]
    for row in rows:
        cells = ''.join(
            f'{row["slots"].get(slot, 0) / 1e9:>12.2f}' if 'slots' in row else ' ' * 12
            for slot in slots
        )
        step = f'{row["step"] / 1e9:>13.2f}' if 'step' in row else ' ' * 13
        share = 100 * row['run'] / rows[-1]['run']
        run = f'{row["run"] / PETA:>13.4g}{share:>7.1f}%'
        lines.append(f'{row["stage"]:<14}{row["steps"]:>9,}{cells}{step}{run}')
    return '\n'.join(lines)


def accuracy_of(cell: Cell) -> float | None:
    """Top-1 accuracy of a finished probe, in percent."""
    results = read_json(cell.probe.product)
    if results is None:
        return None
    (arm,) = results['protocols']['attentive'].values()
    return 100 * arm['mean']


def measured(cell: Cell) -> list[LossAccuracy]:
    """Probes during the training, so far."""
    if cell.arm not in (VJEPA, SALT) or cell.training is None:
        return []
    try:
        return loss_accuracy_pairs(cell.training.folder)
    except (FileNotFoundError, ValueError):  # not yet, or without measurements
        return []


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """A row for each encoder that has a result, JSON-ready."""
    rows = []
    for cell in cells:
        if (accuracy := accuracy_of(cell)) is None:
            continue
        pairs = measured(cell)
        several = len(pairs) > 1
        row = dict(arm=cell.arm, teacher=cell.teacher, budget=cell.budget, seed=cell.seed)
        row |= dict(teacher_steps=cell.steps[0], steps=cell.steps[1])
        row |= dict(teacher_flops=cell.flops[0], flops=cell.flops[1], total_flops=cell.total)
        rank = rank_correlation(*list(zip(*pairs, strict=True))[1:]) if several else None
        row |= dict(top1=accuracy, rank_correlation=None if rank is None or isnan(rank) else rank)
        rows.append(row | dict(measured=[pair._asdict() for pair in pairs]))
    return rows


def write_report(
    asked: Comparison, cells: Sequence[Cell], failed: Mapping[Path, str]
) -> list[Path]:
    """Write ``table.md``, ``results.csv``, ``results.json`` and, with results, the pictures."""
    rows, folder = rows_of(cells), asked.folder
    paths = [folder / name for name in ('table.md', 'results.csv', 'results.json')]
    write_text(paths[0], table_text(asked, cells, rows, failed))
    write_text(paths[1], csv_text(rows))
    write_json(paths[2], rows)
    pictures = {'accuracy_flops.png': accuracy_picture, 'loss_accuracy.png': loss_picture}
    for name, draw in pictures.items():
        if (canvas := draw(cells, rows)) is not None:
            paths.append(folder / name)
            atomic_write(paths[-1], partial(canvas.savefig, format='png', dpi=110))
    return paths


def csv_text(rows: Sequence[Row]) -> str:
    """Without the probes during training, which ``results.json`` has."""
    stream = io.StringIO()
    names = [name for name in (rows[0] if rows else ()) if name != 'measured']
    writer = csv.DictWriter(stream, names, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def table_text(
    asked: Comparison, cells: Sequence[Cell], rows: Sequence[Row], failed: Mapping[Path, str]
) -> str:
    """The report in Markdown; differences are to V-JEPA of as many FLOPs."""
    found, ranks = defaultdict(list), defaultdict(list)
    for row in rows:
        key = row['budget'], row['arm'], row['teacher']
        found[key].append(row['top1'])
        ranks[key].append(row['rank_correlation'])
    lines = [
        '# SALT and V-JEPA',
        '',
        'Top-1 accuracy (%) of attentive probes, mean +- standard deviation (n - 1) over seeds. '
        'Teacher, own and total are FLOPs of pre-training, counted, in PFLOP; SALT costs what '
        f'V-JEPA does, its teacher (steps x {asked.fraction}) included. Rank correlation: of '
        'training loss and accuracy during a run, mean over seeds. Probes: '
        f'`{asked.probe or "defaults of tools/probe.py"}`.',
        '',
        '| arm | steps | teacher | own | total | seeds | top-1 | to V-JEPA | rank correlation |',
        '|---|---:|---:|---:|---:|---:|---:|---:|---:|',
    ]
    for cell in {(c.budget, c.arm, c.teacher): c for c in cells}.values():
        key = cell.budget, cell.arm, cell.teacher
        own, reference = np.array(found[key]), np.array(found[cell.budget, VJEPA, ''])
        known = [value for value in ranks[key] if value is not None]
        steps = ' + '.join(f'{n:,}' for n in cell.steps if n) or '-'
        flops = [f'{value / PETA:.4g}' if value else '-' for value in (*cell.flops, cell.total)]
        compared = len(own) and len(reference) and cell.arm == SALT
        lines.append(
            f'| {cell.name} | {steps} | {" | ".join(flops)} | {len(own)} | '
            f'{figure(own) if len(own) else "-"} | '
            f'{difference(own, reference) if compared else ""} | '
            f'{f"{mean(known):+.2f}" if known else ""} |'
        )
    lines += ['', f'Architectures: {_architectures(asked)}.', *_final_ranks(rows)]
    if len(rows) < len(cells):
        lines += ['', f'{len(rows)} of {len(cells)} probes are finished.']
    lines += [f'- no result: {folder}: {why}' for folder, why in failed.items()]
    return '\n'.join(lines) + '\n'


def _architectures(asked: Comparison) -> str:
    student = asked.student.config.model.encoder.arch
    teachers = ', '.join(f'teacher {name} {arch}' for name, arch in asked.teachers.items())
    return f'encoder {student}, {teachers}'


def _final_ranks(rows: Sequence[Row]) -> Iterator[str]:
    """Whether the last training loss ranks finished students; of one teacher, and of all."""
    last = [row for row in rows if row['arm'] == SALT and row['measured']]
    groups = {f'teacher {name}': [r for r in last if r['teacher'] == name]
              for name in dict.fromkeys(r['teacher'] for r in last)}  # fmt: skip
    for name, group in (groups | {'all': last}).items():
        if len(group) > 2:
            losses = [row['measured'][-1]['loss'] for row in group]
            rank = rank_correlation(losses, [row['top1'] for row in group])
            yield f'Last loss against top-1 over {len(group)} students, {name}: {rank:+.2f}.'


def _styles(cells: Sequence[Cell]) -> dict[str, str]:
    """A colour for each way to train an encoder; a student's teacher has its student's."""
    names = dict.fromkeys(f'{c.arm}{c.teacher}' for c in cells if c.arm in (VJEPA, SALT))
    colours = {name: f'C{i}' for i, name in enumerate(names)}
    return colours | {name.replace(SALT, VPIXEL): c for name, c in colours.items() if SALT in name}


def accuracy_picture(cells: Sequence[Cell], rows: Sequence[Row]) -> Any:
    """Accuracy against FLOPs; lines are probes during training, markers the finished encoders."""
    from matplotlib.figure import Figure  # only with something to draw

    if not rows:
        return None
    canvas, colours = Figure(figsize=(8, 5), layout='constrained'), _styles(cells)
    ax = canvas.subplots()
    groups = defaultdict(list)
    for row in rows:
        groups[row['budget'], row['arm'], row['teacher']].append(row)
    for (_, arm, teacher), own in groups.items():
        middle, spread = mean_std(np.array([row['top1'] for row in own]))
        if arm == UNTRAINED:
            ax.axhline(middle, color='0.5', linestyle=':', label=UNTRAINED)
            continue
        colour, name = colours[arm + teacher], f'{arm}, teacher {teacher}' if teacher else arm
        marker = 'x' if arm == VPIXEL else 'o'
        x = [own[0]['total_flops'] / PETA]
        ax.errorbar(
            x, [middle], yerr=[spread or 0], fmt=marker, color=colour, capsize=3, label=name
        )
        for row in own:
            each = row['flops'] / row['steps'] if row['steps'] else 0
            xs = [(row['teacher_flops'] + m['step'] * each) / PETA for m in row['measured']]
            ax.plot(xs, [100 * m['accuracy'] for m in row['measured']], color=colour, alpha=0.4)
    ax.set(xlabel='pre-training, teacher included (PFLOP)', ylabel='attentive probe, top-1 (%)')
    ax.grid(color='#d0d0d0', linewidth=0.5)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # a name once
    ax.legend(handles.values(), handles.keys(), fontsize=8)
    return canvas


def loss_picture(cells: Sequence[Cell], rows: Sequence[Row]) -> Any:
    """Accuracy against training loss, students and V-JEPA; a point a probe during training."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row['measured']]
    if not rows:
        return None
    canvas, colours = Figure(figsize=(11, 4.5), layout='constrained'), _styles(cells)
    for ax, arm in zip(canvas.subplots(1, 2), (SALT, VJEPA), strict=True):
        named = set()
        for row in (row for row in rows if row['arm'] == arm):
            name = f'teacher {row["teacher"]}' if row['teacher'] else arm
            ax.plot(
                [m['loss'] for m in row['measured']],
                [100 * m['accuracy'] for m in row['measured']],
                'o-',
                color=colours[arm + row['teacher']],
                alpha=0.6,
                linewidth=0.7,
                label=None if name in named else name,
            )
            named.add(name)
        ax.set(title=arm, xlabel='training loss', ylabel='attentive probe, top-1 (%)')
        ax.grid(color='#d0d0d0', linewidth=0.5)
        if named:
            ax.legend(fontsize=8)
    return canvas
