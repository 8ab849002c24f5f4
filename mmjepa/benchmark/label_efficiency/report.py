"""Results of an experiment as CSV, Markdown and picture; written anew after every cell."""

import csv
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjepa.engine.checkpoint import atomic_write

from .choices import SCRATCH
from .plan import Plan, labels
from .results import FIELDS, Results, write_text

COLUMNS = ('Car', 'Pedestrian', 'Cyclist', 'mean')
FIGURES = tuple(f'{name}_3d_ap40_moderate' for name in COLUMNS)


# AP in percent by (fraction, multiple, arm): (seeds, columns), NaN where there is none
Summary = dict[tuple[float, float, str], np.ndarray]


def summarise(plan: Plan, results: Results) -> Summary:
    """Figures of the seeds that are there."""
    groups = defaultdict(list)
    for job in plan.cells:
        if job.folder in results:
            metrics = results[job.folder]['metrics']
            groups[job.fraction, job.multiple, job.arm].append([metrics.get(f) for f in FIGURES])
    return {group: np.array(runs, dtype=float) for group, runs in groups.items()}


def mean_std(aps: np.ndarray) -> tuple[float, float | None]:
    """Over seeds; NaN where one has none. The deviation is with n - 1, None for one seed."""
    return float(aps.mean()), float(aps.std(ddof=1)) if len(aps) > 1 else None


def figure(aps: np.ndarray) -> str:
    """``61.20 +- 0.51``."""
    mean, std = mean_std(aps)
    spread = '' if std is None else f' +- {std:.2f}'
    return '-' if math.isnan(mean) else f'{mean:.2f}{spread}'


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """``+1.20 (+2.4)``: points, and units of the larger standard deviation where both have one."""
    (mean, std), (reference, other) = mean_std(ours), mean_std(theirs)
    spread = None if std is None or other is None else max(std, other)
    units = f' ({(mean - reference) / spread:+.1f})' if spread else ''
    return '-' if math.isnan(mean - reference) else f'{mean - reference:+.2f}{units}'


def write_report(plan: Plan, results: Results, failed: Mapping[Path, str]) -> list[Path]:
    """Write ``table.md``, ``results.csv`` and, with a first result, ``curve.png``; their paths."""
    folder, summary = plan.choices.work_dir, summarise(plan, results)
    paths = [folder / 'table.md', folder / 'results.csv']
    write_text(paths[0], table_text(plan, results, failed))
    write_text(paths[1], csv_text(plan, results))
    if summary:
        paths.append(folder / 'curve.png')
        picture = curve(plan, summary)
        atomic_write(paths[2], lambda file: picture.savefig(file, format='png', dpi=110))
    return paths


def csv_text(plan: Plan, results: Results) -> str:
    """A row for each finished cell; the figures of the table first, then the others."""
    cells = [(job, results[job.folder]) for job in plan.cells if job.folder in results]
    others = (name for _, result in cells for name in result['metrics'] if '_ap' in name)
    names = list(dict.fromkeys([*FIGURES, *others]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow([*FIELDS, 'seconds', *names])
    for job, result in cells:
        figures = (result['metrics'].get(name) for name in names)
        writer.writerow([*(getattr(job, key) for key in FIELDS), result['seconds'], *figures])
    return stream.getvalue()


def table_text(plan: Plan, results: Results, failed: Mapping[Path, str]) -> str:
    """The whole report in Markdown."""
    summary, there = summarise(plan, results), sum(job.folder in results for job in plan.cells)
    lines = ['# Label efficiency', '', _about(plan), '', *_absolute(plan, summary), '']
    if differences := list(_differences(plan, summary)):
        lines += [
            'Differences in points, and in units of the larger of the two standard deviations.\n',
            _row('labels', 'difference', *COLUMNS),
            '|---:|---|' + '---:|' * len(COLUMNS),
            *differences,
            '',
        ]
    if there < len(plan.cells):
        lines += [f'{there} of {len(plan.cells)} cells are finished.', '']
    titles = {job.folder: job.title for job in plan.jobs}
    lines += [f'- no result: {titles[folder]}: {why}' for folder, why in failed.items()]
    lines += [f'- note: {note}' for note in plan.found.notes]
    return '\n'.join(lines).rstrip() + '\n'


def _row(*cells: object) -> str:
    return f'| {" | ".join(map(str, cells))} |'


def _about(plan: Plan) -> str:
    choices, finetuning = plan.choices, plan.found.finetuning
    data, config = (os.path.relpath(path) for path in (choices.data, choices.config))
    pretraining = ', '.join(
        f'{arm} {choices.pretrain_iters or stage.iterations[0]} iterations of {stage.batch_size} '
        f'on {stage.frames[0]} sweeps'
        for arm, stage in plan.found.pretraining.items()
    )
    grid = f'; grid {" ".join(choices.grid)}' if choices.grid else ''
    return (
        f'3D AP (R40, moderate, %) on the {finetuning.val_frames} validation frames of `{data}`; '
        f'mean +- standard deviation (n - 1) over seeds. Fine-tuning: `{config}`, batch '
        f'{finetuning.batch_size}, equal iterations of all arms{grid}. Pre-training: '
        f'{pretraining or "none here"}.'
    )


def _absolute(plan: Plan, summary: Summary) -> Iterator[str]:
    yield _row('labels', 'frames', 'iterations', 'arm', 'seeds', *COLUMNS)
    yield '|---:|---:|---:|---|---:|' + '---:|' * len(COLUMNS)
    # seeds share a line
    for group, job in {(job.fraction, job.multiple, job.arm): job for job in plan.cells}.items():
        aps, share = summary.get(group), labels(job.fraction, job.multiple)
        texts = ['-'] * len(COLUMNS) if aps is None else [figure(column) for column in aps.T]
        count = 0 if aps is None else len(aps)
        yield _row(share, job.frames, job.iterations, job.arm, count, *texts)


def _differences(plan: Plan, summary: Summary) -> Iterator[str]:
    """Arms against scratch at the same labels and iterations, and against scratch's longer run."""
    for fraction, multiple, arm in summary:
        for f, other, reference in summary:
            if arm != SCRATCH == reference and f == fraction and other >= multiple:
                name = f'{arm} - {SCRATCH}' + (f' x{other:g}' if other != multiple else '')
                ours, theirs = summary[fraction, multiple, arm].T, summary[f, other, SCRATCH].T
                texts = map(difference, ours, theirs)
                yield _row(labels(fraction, multiple), name, *texts)


def curve(plan: Plan, summary: Summary) -> Any:
    """Draw a panel for the mean and each class; log x, an error bar of one standard deviation."""
    from matplotlib.figure import Figure  # only with something to draw

    canvas, fractions = Figure(figsize=(15, 4.2), layout='constrained'), plan.choices.fractions
    axes = canvas.subplots(1, len(COLUMNS))
    for ax, column in zip(axes, (-1, *range(len(COLUMNS) - 1)), strict=True):
        for index, arm in enumerate(plan.choices.arms):
            for multiple in sorted({m for _, m, name in summary if name == arm.name}):
                usual = multiple == 1
                there = [f for f in fractions if (f, multiple, arm.name) in summary]
                figures = [mean_std(summary[f, multiple, arm.name][:, column]) for f in there]
                ax.errorbar(
                    [f * 1.03**index for f in there],  # error bars beside each other
                    [mean for mean, _ in figures],
                    yerr=[std or 0.0 for _, std in figures],
                    label=arm.name + ('' if usual else f', {multiple:g}x iterations'),
                    color=f'C{index}',
                    fmt='o-' if usual else 'D:',
                    markerfacecolor=f'C{index}' if usual else 'white',
                    capsize=3,
                )
        ax.set_xscale('log')
        ax.set_xticks(fractions, [labels(fraction) for fraction in fractions])
        ax.minorticks_off()
        ax.set_xlim(fractions[0] / 1.3, fractions[-1] * 1.3)
        ax.set(title=COLUMNS[column], xlabel='labelled training frames')
        ax.grid(color='#d0d0d0', linewidth=0.5)
    axes[0].set_ylabel('3D AP, R40, moderate (%)')
    axes[0].legend(fontsize=8)
    return canvas
