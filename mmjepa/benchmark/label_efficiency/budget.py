"""How long an experiment will take: a few iterations of each stage, on the actual data."""

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from .choices import FINETUNE
from .plan import Job, Plan
from .results import last_lines, results_of
from .run import PAUSE, duration, kill, remaining, start, threads_of

ITERATIONS, VAL_FRAMES = 12, 8  # timed


def budget_text(plan: Plan, parallel: int) -> str:
    """Time a run of each kind; a table of what is left to do and how long it will take.

    Raises:
        ValueError: a run failed; with the end of its log.
    """
    # the largest share of labels: the most objects to paste
    order = sorted(plan.jobs, key=lambda job: (job.stage == FINETUNE, job.fraction))
    longest = {job.kind: job for job in order}
    threads = threads_of(parallel)
    rates = {kind: measure(job, plan.choices.work_dir, threads) for kind, job in longest.items()}
    left, total = remaining(plan, results_of(plan)), 0.0
    lines = [f'{"stage":<24} runs left  iterations  s/iteration    time left']
    for kind, (iteration, startup, frame) in rates.items():
        jobs = [job for job in left if job.kind == kind]
        iterations = sum(job.iterations for job in jobs)
        once = startup + frame * plan.found.finetuning.val_frames
        seconds = len(jobs) * once + iteration * iterations
        total += seconds
        lines.append(
            f'{kind:<24} {len(jobs):>9} {iterations:>11,} {iteration:>12.3f} '
            f'{duration(seconds):>12}'
        )
    lines.append(f'total: {duration(total)}, one run at a time on this machine as busy as now')
    if parallel > 1:
        lines.append(f'with --jobs {parallel}: {duration(total / parallel)} at best')
    return '\n'.join(lines)


def measure(job: Job, work_dir: Path, threads: int | None = None) -> tuple[float, float, float]:
    """Time a short run of a job's kind, from no checkpoint; see :func:`times_of`."""
    print(f'timing {ITERATIONS} iterations: {job.kind} ...')
    own = [*job.own, 'log_interval=1', f'max_iters={ITERATIONS}']  # later options win
    if job.stage == FINETUNE:
        own += [f'val_interval={ITERATIONS}', f'val_dataloader.dataset.indices={VAL_FRAMES}']
    with TemporaryDirectory(dir=work_dir, prefix='budget_') as name:
        folder, since = Path(name), time.monotonic()
        short = replace(job, folder=folder, own=tuple(own), checkpoint=None)
        process = start(short.command(), folder, threads)
        try:
            while process.poll() is None:
                time.sleep(PAUSE)
        finally:
            kill(process)
        wall = time.monotonic() - since
        if process.returncode:
            why = f'timing {job.kind} ended with exit code {process.returncode}'
            raise ValueError(f'{why}:\n{last_lines(folder)}')
        logs = [path.read_text() for path in sorted(folder.glob('*/vis_data/scalars.json'))]
    return times_of(''.join(logs), wall)


def times_of(log: str, wall: float) -> tuple[float, float, float]:
    """Seconds an iteration, to start and end, and a frame of validation.

    Args:
        log: scalars of a run that logged every iteration.
        wall: seconds of the whole run.
    """
    rows = [row for line in log.splitlines() if 'time' in (row := json.loads(line))]
    train = [row['time'] for row in rows if 'iter' in row]
    frame = next((row['time'] for row in rows if 'iter' not in row), 0.0)
    iteration = median(train[len(train) // 3 :])  # without the first ones: caches, compiling
    return iteration, max(0.0, wall - iteration * len(train) - frame * VAL_FRAMES), frame
