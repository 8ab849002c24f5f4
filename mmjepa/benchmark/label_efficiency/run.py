"""Carrying out a plan: several jobs at a time, what is finished skipped, failures kept apart."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .choices import FINETUNE, PRETRAIN
from .files import PlanError
from .plan import Job
from .processes import BusyError, Launch, Running
from .progress import Clock, duration
from .results import LOG, Result, claim, finish, finished, last_lines, note_run

GRACE = 120.0  # seconds in which jobs that are told to stop save their state

Say = Callable[[str], None]
Results = dict[Path, Result]


@dataclass
class Outcome:
    """How a plan went.

    Attributes:
        results: of finished jobs, by folder.
        failed: why the others have none, by folder.
    """

    results: Results = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


@dataclass
class _Started:
    job: Job
    process: Running
    command: list[str]
    since: float
    evaluating: bool


class PlanRun:
    """Runs jobs.

    Args:
        jobs: in the order in which they start; their folders were checked.
        tools: folder of ``train.py`` and ``test.py``.
        launch: starts a process.
        parallel: jobs at a time.
        on_result: called with what there is after every finished cell.
        say: prints a line.
        clock: knows how long things take.
        pause: seconds between looks at the processes.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        tools: Path,
        launch: Launch,
        parallel: int = 1,
        on_result: Callable[[Outcome], None] | None = None,
        say: Say = print,
        clock: Clock | None = None,
        pause: float = 0.5,
    ):
        self.jobs, self.tools, self.launch, self.parallel = list(jobs), tools, launch, parallel
        self.on_result, self.say, self.pause = on_result or (lambda outcome: None), say, pause
        self.clock = clock or Clock()
        self.outcome = Outcome()
        self.waiting: list[Job] = []
        self.running: list[_Started] = []

    def run(self) -> Outcome:
        """Run what isn't finished.

        Returns:
            Results and failures.

        Raises:
            KeyboardInterrupt: after the running jobs have saved and ended.
        """
        self._sort_out()
        self.on_result(self.outcome)
        try:
            while self.waiting or self.running:
                self._start_ready()
                ended = [(s, code) for s in self.running if (code := s.process.poll()) is not None]
                for started, code in ended:
                    self.running.remove(started)
                    self._ended(started, code)
                if self.running and not ended:
                    time.sleep(self.pause)
        except BaseException:
            self._stop()
            raise
        return self.outcome

    def _sort_out(self) -> None:
        """Results that are there already; pre-trainings that nobody needs any more are left out."""
        for job in self.jobs:
            result = finished(job) or self._collected(job)
            if result is not None:
                self.outcome.results[job.folder] = result
                self.clock.learn(job, result.get('seconds'))
        left = [job for job in self.jobs if job.folder not in self.outcome.results]
        needed = {job.needs for job in left}
        self.waiting = [job for job in left if job.stage == FINETUNE or job.folder in needed]
        done = sum(job.folder in self.outcome.results for job in self.jobs)
        if done:
            self.say(f'{done} of {len(self.jobs)} runs are finished already')

    def _collected(self, job: Job) -> Result | None:
        """Result of a run that somebody else carried out, by its printed command."""
        try:
            return finish(job)
        except PlanError as error:
            self._fail(job, str(error))
            return None

    def _start_ready(self) -> None:
        for job in list(self.waiting):
            if len(self.running) >= self.parallel:
                return
            if job.folder in self.outcome.failed:
                self.waiting.remove(job)
            elif job.needs in self.outcome.failed:
                self.waiting.remove(job)
                self._fail(job, 'its pre-training has no result')
            elif job.needs is None or job.needs in self.outcome.results:
                self.waiting.remove(job)
                self._start(job)

    def _start(self, job: Job) -> None:
        evaluating = job.stage == FINETUNE and job.last_checkpoint.is_file()
        command = job.evaluation(self.tools) if evaluating else job.command(self.tools)
        claim(job)
        try:
            process = self.launch(command, job.folder)
        except BusyError as error:
            self._fail(job, str(error))
            return
        self.running.append(_Started(job, process, command, time.monotonic(), evaluating))
        what = 'evaluate' if evaluating else 'start'
        self._tell(what, job, f'{job.iterations:,} iterations, {job.folder}')

    def _ended(self, started: _Started, code: int) -> None:
        job, seconds = started.job, time.monotonic() - started.since
        note_run(job, code, seconds, started.command)
        try:
            result = finish(job)
        except PlanError as error:
            self._fail(job, str(error))
            return
        if result is not None:
            self._done(job, result, seconds)
        elif code:
            self._fail(job, f'exit code {code}, see {job.folder / LOG}')
        elif job.stage == FINETUNE and job.last_checkpoint.is_file() and not started.evaluating:
            self._start(job)  # trained, but ended before its validation
        else:
            self._fail(job, f'stopped before its end; the same command goes on ({job.folder})')

    def _done(self, job: Job, result: Result, seconds: float) -> None:
        self.outcome.results[job.folder] = result
        self.clock.learn(job, result.get('seconds'))
        figures = result['metrics']
        shown = [f'{name} {_figure(figures.get(key))}' for name, key in _SHOWN if key in figures]
        self._tell('done', job, ', '.join([*shown, f'took {duration(seconds)}']))
        if job.stage == FINETUNE:
            self.on_result(self.outcome)

    def _fail(self, job: Job, why: str) -> None:
        self.outcome.failed[job.folder] = why
        self._tell('FAILED', job, why)

    def _tell(self, what: str, job: Job, text: str) -> None:
        ended = len(self.outcome.results) + len(self.outcome.failed)
        now = time.monotonic()
        running = [(s.job, now - s.since) for s in self.running]
        times = self.clock.text(self.waiting, running, self.parallel)
        self.say(f'[{ended:>2}/{len(self.jobs)}] {what:<8} {job.title}: {text}  ({times})')

    def _stop(self) -> None:
        """Let running jobs save; a second Ctrl-C ends them at once."""
        try:
            if self.running:
                self.say(
                    f'\nwaiting until {len(self.running)} runs have saved their state '
                    f'(at most {GRACE:.0f} s; Ctrl-C again ends them at once)'
                )
            for started in self.running:
                started.process.stop()
            until = time.monotonic() + GRACE
            while time.monotonic() < until and any(s.process.poll() is None for s in self.running):
                time.sleep(self.pause)
        finally:
            for started in self.running:
                started.process.kill()
                seconds = time.monotonic() - started.since
                note_run(started.job, started.process.poll() or 0, seconds, started.command)


_SHOWN = tuple(
    (name, f'{key}_3d_ap40_moderate')
    for name, key in (
        ('Car', 'Car'),
        ('Ped', 'Pedestrian'),
        ('Cyc', 'Cyclist'),
        ('mean', 'mean'),
    )
)


def _figure(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def failures(jobs: Sequence[Job], outcome: Outcome) -> str:
    """What has no result and why, with the end of each log; empty where nothing failed."""
    lines: list[str] = []
    for job in jobs:
        why = outcome.failed.get(job.folder)
        if why is not None:
            lines.append(f'{job.title}: {why}')
            lines += [f'    {line[:200]}' for line in last_lines(job)]
    return '\n'.join(lines)


def commands(jobs: Sequence[Job], tools: Path) -> list[list[str]]:
    """Commands of what isn't finished, in order; pre-training before what needs it.

    The settings are left in the folders, so that results which such commands make are recognised.
    """
    left = [job for job in jobs if finished(job) is None and finish(job) is None]
    needed = {job.needs for job in left}
    found = []
    for job in left:
        if job.stage == PRETRAIN and job.folder not in needed:
            continue
        claim(job)
        trained = job.stage == FINETUNE and job.last_checkpoint.is_file()
        found.append(job.evaluation(tools) if trained else job.command(tools))
    return found
