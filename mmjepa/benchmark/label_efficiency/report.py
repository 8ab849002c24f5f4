"""Results of an experiment as CSV, Markdown and picture; written anew after every cell."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arms import SCRATCH
from .choices import FINETUNE
from .files import write_text
from .plan import Plan, labels
from .results import Result

COLUMNS = ('Car', 'Pedestrian', 'Cyclist', 'mean')
FIELDS = ('arm', 'fraction', 'frames', 'seed', 'iterations', 'multiple', 'checkpoint', 'seconds')


@dataclass(frozen=True)
class Figure:
    """AP in percent over seeds.

    Attributes:
        mean: over seeds; NaN where a seed has none.
        std: with n - 1; None for one seed.
        count: seeds.
    """

    mean: float
    std: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Figure':
        """Mean and sample standard deviation of at least one value."""
        mean = sum(values) / len(values)
        if len(values) < 2:
            return cls(mean, None, len(values))
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return cls(mean, math.sqrt(variance), len(values))

    def text(self) -> str:
        """``61.20 +- 0.51``."""
        if math.isnan(self.mean):
            return '-'
        return f'{self.mean:.2f}' + ('' if self.std is None else f' +- {self.std:.2f}')


@dataclass(frozen=True)
class Difference:
    """Of two means over seeds.

    Attributes:
        gain: in points.
        spread: the larger of the two standard deviations; None where a side has one seed only.
    """

    gain: float
    spread: float | None

    @classmethod
    def of(cls, arm: Figure, reference: Figure) -> 'Difference':
        """``arm`` - ``reference``."""
        stds = [std for std in (arm.std, reference.std) if std is not None]
        return cls(arm.mean - reference.mean, max(stds) if len(stds) == 2 else None)

    @property
    def spreads(self) -> float | None:
        """Gain in units of the spread; None without one."""
        return self.gain / self.spread if self.spread else None

    def text(self) -> str:
        """``+1.20 (2.4)``."""
        if math.isnan(self.gain):
            return '-'
        return f'{self.gain:+.2f}' + ('' if self.spreads is None else f' ({self.spreads:+.1f})')


Group = tuple[float, float, str]  # fraction, multiple, arm
Summary = dict[Group, dict[str, Figure]]


def summarise(results: Sequence[Result]) -> Summary:
    """Figures of every fraction, multiple and arm over the seeds that are there."""
    groups: dict[Group, list[Result]] = {}
    for result in results:
        if result['stage'] == FINETUNE:
            key = (result['fraction'], result['multiple'], result['arm'])
            groups.setdefault(key, []).append(result)
    return {
        group: {name: Figure.of([_ap(run, name) for run in runs]) for name in COLUMNS}
        for group, runs in groups.items()
    }


def _ap(result: Result, name: str) -> float:
    value = result['metrics'].get(f'{name}_3d_ap40_moderate')
    return math.nan if value is None else float(value)


def csv_text(results: Sequence[Result]) -> str:
    """A row for each finished cell; the figures of the table first, then the others."""
    cells = [result for result in results if result['stage'] == FINETUNE]
    first = [f'{name}_3d_ap40_moderate' for name in COLUMNS]
    figures_there = (name for cell in cells for name in cell['metrics'] if '_ap' in name)
    names = list(dict.fromkeys([*first, *figures_there]))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow([*FIELDS, *names])
    for cell in cells:
        figures = (cell['metrics'].get(name) for name in names)
        writer.writerow([*(cell[key] for key in FIELDS), *figures])
    return stream.getvalue()


def table_text(plan: Plan, results: Sequence[Result], failed: Mapping[Path, str]) -> str:
    """The whole report in Markdown."""
    summary = summarise(results)
    lines = ['# Label efficiency', '', _about(plan), '', *_absolute(plan, summary), '']
    if any(arm == SCRATCH for _, _, arm in summary):
        lines += [*_differences(plan, summary), '']
    cells = plan.cells
    there = sum(result['stage'] == FINETUNE for result in results)
    if there < len(cells):
        lines += [f'{there} of {len(cells)} cells are finished.', '']
    titles = {job.folder: job.title for job in plan.jobs}
    lines += [f'- no result: {titles[folder]}: {why}' for folder, why in failed.items()]
    lines += [f'- note: {note}' for note in notes(plan)]
    return '\n'.join(lines).rstrip() + '\n'


def notes(plan: Plan) -> list[str]:
    """What to know before trusting the figures."""
    found = list(plan.found['notes'])
    seeds = len(plan.choices.seeds)
    for arm in plan.choices.arms:
        if arm.checkpoint is not None and '{seed}' not in arm.checkpoint and seeds > 1:
            found.append(
                f'{arm.name}: one checkpoint for all seeds, so that the spread leaves out what '
                'pre-training adds to it'
            )
    if seeds < 2:
        found.append('one seed: no spread, so that no difference can be told from chance')
    return found


def _about(plan: Plan) -> str:
    choices, found = plan.choices, plan.found['finetuning']
    pretraining = ', '.join(
        f'{name} {jobs} iterations of {entry["batch_size"]} on {entry["frames"]} sweeps'
        for name, entry in plan.found['pretraining'].items()
        for jobs in [next(j.iterations for j in plan.jobs if j.arm == name and j.stage != FINETUNE)]
    )
    grid = f'; grid {" ".join(choices.grid)}' if choices.grid else ''
    return (
        f'3D AP (R40, moderate, %) on the {found["val_frames"]} validation frames of '
        f'`{_near(choices.data)}`; mean +- standard deviation (n - 1) over seeds. Fine-tuning: '
        f'`{_near(choices.config)}`, batch {found["batch_size"]}, equal iterations of all '
        f'arms{grid}. Pre-training: {pretraining or "none here"}.'
    )


def _near(path: Path) -> Path:
    """Relative to the current folder where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _groups(plan: Plan) -> list[tuple[float, float]]:
    """Fractions and multiples in the order of the plan."""
    return list(dict.fromkeys((job.fraction, job.multiple) for job in plan.cells))


def _absolute(plan: Plan, summary: Summary) -> list[str]:
    lines = [
        '| labels | frames | iterations | arm | seeds | ' + ' | '.join(COLUMNS) + ' |',
        '|---:|---:|---:|---|---:|' + '---:|' * len(COLUMNS),
    ]
    sizes = {(job.fraction, job.multiple): (job.frames, job.iterations) for job in plan.cells}
    for fraction, multiple in _groups(plan):
        frames, iterations = sizes[fraction, multiple]
        for arm in plan.choices.arms:
            figures = summary.get((fraction, multiple, arm.name))
            cells = [f.text() for f in figures.values()] if figures else ['-'] * len(COLUMNS)
            count = figures['mean'].count if figures else 0
            lines.append(
                f'| {labels(fraction, multiple)} | {frames} | {iterations} | {arm.name} | {count} '
                f'| {" | ".join(cells)} |'
            )
    return lines


def _differences(plan: Plan, summary: Summary) -> list[str]:
    """Arms against scratch at the same labels and iterations, and against scratch's longer run."""
    rows = []
    for fraction, multiple in _groups(plan):
        for other in dict.fromkeys([multiple, *(m for f, m in _groups(plan) if f == fraction)]):
            reference = summary.get((fraction, other, SCRATCH))
            if reference is None or other < multiple:
                continue
            against = SCRATCH if other == multiple else f'{SCRATCH} x{other:g}'
            for arm in plan.choices.arms:
                figures = summary.get((fraction, multiple, arm.name))
                if arm.name == SCRATCH or figures is None:
                    continue
                cells = [Difference.of(figures[n], reference[n]).text() for n in COLUMNS]
                rows.append(
                    f'| {labels(fraction, multiple)} | {arm.name} - {against} | '
                    f'{" | ".join(cells)} |'
                )
    if not rows:
        return []
    return [
        'Differences in points; in brackets in units of the spread, the larger of the two standard '
        'deviations.',
        '',
        '| labels | difference | ' + ' | '.join(COLUMNS) + ' |',
        '|---:|---|' + '---:|' * len(COLUMNS),
        *rows,
    ]


def write_report(
    plan: Plan, results: Mapping[Path, Result], failed: Mapping[Path, str]
) -> list[Path]:
    """Write ``results.csv``, ``table.md`` and, with a first result, ``curve.png``.

    Args:
        plan: of which the results are.
        results: of finished jobs, by folder.
        failed: why others have none.

    Returns:
        What was written, in the work dir.
    """
    folder = plan.choices.work_dir
    ordered = [results[job.folder] for job in plan.jobs if job.folder in results]
    paths = [folder / 'results.csv', folder / 'table.md']
    write_text(paths[0], csv_text(ordered))
    write_text(paths[1], table_text(plan, ordered, failed))
    summary = summarise(ordered)
    if summary:
        from .figure import save_curve  # matplotlib: only with something to draw

        paths.append(save_curve(summary, [arm.name for arm in plan.choices.arms], folder))
    return paths


def closing(plan: Plan, results: Mapping[Path, Result]) -> str:
    """One line for each arm at the smallest fraction: is it ahead of scratch?"""
    summary = summarise(list(results.values()))
    fraction = plan.choices.fractions[0]
    lines: list[Any] = []
    for arm in plan.choices.arms:
        both = [summary.get((fraction, 1.0, name)) for name in (arm.name, SCRATCH)]
        if arm.name == SCRATCH or both[0] is None or both[1] is None:
            continue
        difference = Difference.of(both[0]['mean'], both[1]['mean'])
        text = f'{labels(fraction)} labels, mean AP: {arm.name} - {SCRATCH} {difference.gain:+.2f}'
        if difference.spread is not None:
            word = 'more' if difference.gain > difference.spread else 'NOT more'
            text += f' points, {word} than the spread over seeds ({difference.spread:.2f})'
        lines.append(text)
    return '\n'.join(lines)
