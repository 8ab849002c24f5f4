"""How long an experiment will take: a few iterations of each stage, on the actual data."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from .choices import FINETUNE
from .files import PlanError, read_json, write_json
from .plan import Job, Plan, labels
from .processes import Launch
from .progress import duration
from .results import LOG, Result, last_lines

FILE = 'budget.json'
VAL_FRAMES = 8


@dataclass(frozen=True)
class Rate:
    """Times of a kind of job, seconds.

    Attributes:
        iteration: median, without the first ones (first batches, compiling).
        waiting: share of it that waits for data.
        start: from the start to the first iteration, and the end, together.
        evaluation: a frame of validation.
    """

    iteration: float
    waiting: float
    start: float
    evaluation: float = 0.0

    def seconds(self, job: Job, val_frames: int) -> float:
        """Of a whole job."""
        frames = val_frames if job.stage == FINETUNE else 0
        return self.start + self.iteration * job.iterations + self.evaluation * frames


def measure(
    plan: Plan, tools: Path, launch: Launch, iterations: int, say: Callable[[str], None] = print
) -> dict[str, Rate]:
    """Time a run of each kind.

    Args:
        plan: whose data and configs are timed.
        tools: folder of ``train.py``.
        launch: starts a process.
        iterations: of each run; the first third is left out.
        say: prints a line.

    Returns:
        Rates by :attr:`.Job.kind`; also written to ``budget.json``, for the ETA of later runs.

    Raises:
        PlanError: a run failed; with the end of its log.
    """
    rates: dict[str, Rate] = {}
    # the largest share of labels: the most objects to paste
    for job in sorted(plan.jobs, key=lambda job: -job.fraction):
        if job.kind not in rates:
            say(f'timing {iterations} iterations: {job.kind} ...')
            rates[job.kind] = _time(job, plan, tools, launch, iterations)
    content = {kind: asdict(rate) for kind, rate in rates.items()}
    write_json(plan.choices.work_dir / FILE, content)
    return rates


def known_rates(plan: Plan) -> dict[str, float]:
    """Seconds an iteration by kind, start and evaluation included, as timed before."""
    content = read_json(plan.choices.work_dir / FILE) or {}
    rates = {kind: Rate(**values) for kind, values in content.items()}
    val_frames = plan.found['finetuning']['val_frames']
    return {
        job.kind: rates[job.kind].seconds(job, val_frames) / job.iterations
        for job in reversed(plan.jobs)
        if job.kind in rates
    }


def _time(job: Job, plan: Plan, tools: Path, launch: Launch, iterations: int) -> Rate:
    folder = plan.choices.work_dir / 'budget' / job.kind.replace(' ', '_')
    shutil.rmtree(folder, ignore_errors=True)
    frames = min(VAL_FRAMES, plan.found['finetuning']['val_frames'])
    # later options win; no checkpoint is needed to time a fine-tuning
    own = ['log_interval=1', f'max_iters={iterations}']
    if job.stage == FINETUNE:
        own += [f'val_interval={iterations}', 'jepa_checkpoint=None']
        own += [f'val_dataloader.dataset.indices={frames}']
    short = replace(job, folder=folder, options=(*job.options, *own))
    since = time.monotonic()
    process = launch(short.command(tools), folder)
    try:
        while (code := process.poll()) is None:
            time.sleep(0.2)
    except BaseException:
        process.kill()
        raise
    wall = time.monotonic() - since
    if code:
        tail = '\n'.join(f'    {line[:200]}' for line in last_lines(short))
        raise PlanError(f'timing {job.kind} ended with exit code {code}, {folder / LOG}:\n{tail}')
    for checkpoint in folder.glob('*.pth'):
        checkpoint.unlink()
    return rate_of(list(_rows(folder)), wall, frames)


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in path.read_text(encoding='utf-8').splitlines():
            yield json.loads(line)


def rate_of(rows: Sequence[dict[str, Any]], wall: float, val_frames: int) -> Rate:
    """Times from the scalars of a run that logged every iteration.

    Args:
        rows: of its ``scalars.json``.
        wall: seconds of the whole process.
        val_frames: validated in it.

    Raises:
        PlanError: no iteration was logged.
    """
    train = [row for row in rows if 'time' in row and 'iter' in row]
    if not train:
        raise PlanError('the timed run logged no iteration; give more with --budget-iters')
    steady = train[len(train) // 3 :] if len(train) > 2 else train[-1:]
    val = [row['time'] for row in rows if 'time' in row and 'iter' not in row]
    evaluation = val[-1] if val else 0.0
    iteration = median(row['time'] for row in steady)
    waiting = median(row.get('data_time', 0.0) for row in steady)
    counted = iteration * len(train) + evaluation * (val_frames if val else 0)
    return Rate(
        iteration=iteration,
        waiting=min(1.0, waiting / max(iteration, 1e-9)),
        start=max(0.0, wall - counted),
        evaluation=evaluation,
    )


def budget_text(
    plan: Plan, rates: dict[str, Rate], results: dict[Path, Result], parallel: int
) -> str:
    """Table of what is left to do and how long it will take."""
    val_frames = plan.found['finetuning']['val_frames']
    groups: dict[str, list[Job]] = {}
    for job in plan.jobs:
        suffix = f' {labels(job.fraction, job.multiple)}' if job.stage == FINETUNE else ''
        groups.setdefault(job.kind + suffix, []).append(job)
    width = max(len(name) for name in groups)
    lines = [
        f'{"stage":<{width}}  {"runs":>5} {"left":>5} {"iterations":>11} {"s/iteration":>12} '
        f'{"for data":>9} {"start s":>8} {"val s":>7} {"time left":>11}'
    ]
    total = 0.0
    for name, jobs in sorted(groups.items(), key=lambda pair: pair[1][0].stage == FINETUNE):
        rate = rates[jobs[0].kind]
        left = [job for job in jobs if job.folder not in results]
        seconds = sum(rate.seconds(job, val_frames) for job in left)
        total += seconds
        evaluation = rate.evaluation * (val_frames if jobs[0].stage == FINETUNE else 0)
        lines.append(
            f'{name:<{width}}  {len(jobs):>5} {len(left):>5} {jobs[0].iterations:>11,} '
            f'{rate.iteration:>12.3f} {100 * rate.waiting:>7.0f} % {rate.start:>8.0f} '
            f'{evaluation:>7.0f} {duration(seconds):>11}'
        )
    lines.append(f'total: {duration(total)}, one run at a time on this machine as busy as now')
    if parallel > 1:
        lines.append(f'with --jobs {parallel}: {duration(total / parallel)} at best')
    return '\n'.join(lines)
