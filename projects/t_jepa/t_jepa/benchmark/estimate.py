"""How long a comparison will take, from a few steps of everything on the actual data."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mmjepa.benchmark.label_efficiency.budget import ITERATIONS, times_of
from mmjepa.benchmark.label_efficiency.results import last_lines
from mmjepa.benchmark.label_efficiency.run import PAUSE, duration, kill, start, threads_of
from mmjepa.benchmark.salt.stages import Job
from mmjepa.engine.config import ConfigError

from ..heads import NETS
from ..training import Budget
from ..trees import TREES, TreeBudget
from .choices import RAW, Asked
from .data import Table, load_table
from .evaluate import fit_net, fit_tables, make_net
from .plan import Cell, Plan, Source

# what early stopping usually leaves; it can be as many as the budget says
EPOCHS, TREE_COUNT, STARTUP = 100, 500, 8.0
TIMED_BATCHES, TIMED_TREES = 6, 10


def estimate_text(asked: Asked, plan: Plan, sources: Sequence[Source], parallel: int) -> str:
    """Time a step of each kind of job that is left; a table of what is left and how long it takes.

    Raises:
        ConfigError: a pre-training failed; with the end of its log.
    """
    lines, total = [f'{"stage":<50}{"left":>6}{"seconds each":>14}{"time":>12}'], 0.0
    for kind, count, seconds in _parts(asked, plan, sources, threads_of(parallel)):
        total += count * seconds
        lines.append(f'{kind:<50}{count:>6}{seconds:>14.1f}{duration(count * seconds):>12}')
    lines.append(
        f'total: {duration(total)}, one run at a time on this machine as busy as now, with '
        f'{min(EPOCHS, asked.budget.max_epochs)} epochs of networks (at most '
        f'{asked.budget.max_epochs}) and {min(TREE_COUNT, asked.trees.trees)} trees (at most '
        f'{asked.trees.trees})'
    )
    if parallel > 1:
        lines.append(f'with --jobs {parallel}: {duration(total / parallel)} at best')
    return '\n'.join(lines)


def _parts(
    asked: Asked, plan: Plan, sources: Sequence[Source], threads: int | None
) -> Iterator[tuple[str, int, float]]:
    """Kind, runs left, seconds of each."""
    trainings = {job.folder: job for job in plan.jobs if job.folder not in plan.groups}
    kinds: dict[str, list[Job]] = defaultdict(list)
    for job in trainings.values():
        if not job.product.is_file():
            kinds[job.kind].append(job)
    for kind, jobs in kinds.items():
        each, startup = time_training(jobs[0], asked.folder, threads)
        yield kind, len(jobs), startup + each * jobs[0].iterations
    for source in sources:
        table = load_table(source.dataset, asked.device)
        left: dict[tuple[bool, str, str], list[Cell]] = defaultdict(list)
        for cell in plan.cells:
            if cell.dataset == source.name and cell.result() is None:
                left[cell.arm == RAW, cell.model, cell.projection].append(cell)
        for (raw, model, projection), cells in left.items():
            tokens = None if raw else source.tokens
            seconds = time_cell(cells[0], table, tokens)
            kind = ' '.join(filter(None, [source.name, 'raw' if raw else 'encoded', model]))
            yield f'{kind} {projection}'.strip(), len(cells), seconds
    if plan.groups:
        yield 'starting and encoding', len(plan.groups), STARTUP


def time_training(job: Job, folder: Path, threads: int | None) -> tuple[float, float]:
    """Seconds of an iteration, and to start and end.

    Raises:
        ConfigError: the run failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix='budget_') as name:
        words = list(job.words)
        words[words.index('--work-dir') + 1] = name
        own = [f'max_iters={ITERATIONS}', 'log_interval=1']  # later options win
        since = time.monotonic()
        process = start([*words, *own], Path(name), threads)
        try:
            while process.poll() is None:
                time.sleep(PAUSE)
        finally:
            kill(process)
        wall = time.monotonic() - since
        if process.returncode:
            raise ConfigError(f'timing {job.title} failed:\n{last_lines(Path(name))}')
        logs = [path.read_text() for path in sorted(Path(name).glob('*/vis_data/scalars.json'))]
    each, startup, _ = times_of(''.join(logs), wall)
    return each, startup


def time_cell(cell: Cell, table: Table, tokens: tuple[int, int] | None) -> float:
    """Seconds of a cell, on random representations (T, H) where it has one."""
    counts, seconds = table.counts(), []
    drawn = None if tokens is None else {
        part: torch.randn(count, *tokens, device=table.rows[part].device)
        for part, count in counts.items()
    }  # fmt: skip
    if cell.model in NETS:
        net, rows = make_net(cell, table, drawn)
        size = cell.settings['budget']['batch_size']
        count = min(TIMED_BATCHES * size, counts['train'])
        few = dict(train=rows['train'][:count], val=rows['val'][:size])
        targets = {part: table.targets[part][: len(few[part])] for part in few}
        for _ in range(2):  # the first one warms up
            since = time.monotonic()
            fit_net(cell, net, few, targets, table.task, Budget(size, 1, 1))
            seconds.append(time.monotonic() - since)
        epochs = min(EPOCHS, cell.settings['budget']['max_epochs'])
        return min(seconds) * counts['train'] / count * epochs
    for trees in (TIMED_TREES, 2 * TIMED_TREES):  # what all share is told from what each costs
        since = time.monotonic()
        fit_tables(cell, table, drawn, TreeBudget(trees=trees))
        seconds.append(time.monotonic() - since)
        if cell.model not in TREES:
            return seconds[0]
    each = max(seconds[1] - seconds[0], 0.0) / TIMED_TREES
    return seconds[0] + each * min(TREE_COUNT, cell.settings['budget']['trees'])
