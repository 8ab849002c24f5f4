"""Carrying out a plan: several jobs at a time, what is finished skipped, failures kept apart."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from statistics import mean

from .choices import FINETUNE
from .plan import Job, Plan
from .report import COLUMNS, FIGURES, write_report
from .results import LOG, Result, Results, claim, last_lines, note_run, result_of, results_of

GRACE = 120.0  # seconds in which jobs that are told to stop save their state
PAUSE = 0.5  # seconds between looks at the processes


def threads_of(parallel: int) -> int | None:
    """One each, where several processes on few cores would wait for each other's threads."""
    return 1 if parallel > 1 else None


def start(words: Sequence[str], folder: Path, threads: int | None = None) -> subprocess.Popen:
    """Start ``python WORDS`` in a session of its own, its output appended to the folder's log.

    It gets no Ctrl-C from the terminal: who started it says when to stop. The lock in the folder
    lives as long as it does, also when the one who started it was killed. ``threads`` counts where
    ``OMP_NUM_THREADS`` isn't set.

    Raises:
        BlockingIOError: the lock is held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as lock, (folder / LOG).open('ab') as log:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
            env=({} if threads is None else {'OMP_NUM_THREADS': str(threads)}) | os.environ,
        )


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for a process that still runs, and its loaders' workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class PlanRun:
    """Runs the jobs of a plan, ``parallel`` at a time; their folders were checked.

    Attributes:
        results: of finished jobs, by folder.
        failed: why others have none, by folder.
    """

    def __init__(self, plan: Plan, parallel: int = 1):
        self.plan, self.parallel = plan, parallel
        self.results: dict[Path, Result] = {}
        self.failed: dict[Path, str] = {}
        self._waiting: list[Job] = []
        self._running: list[tuple[Job, subprocess.Popen, float]] = []  # since when
        self._began = time.monotonic()

    def run(self) -> None:
        """Run what isn't finished; the report is written anew after every cell.

        Raises:
            KeyboardInterrupt: after the running jobs have saved and ended.
        """
        self.results = results_of(self.plan)
        self._waiting = remaining(self.plan, self.results)
        if self.results:
            print(f'{len(self.results)} of {len(self.plan.jobs)} runs are finished already')
        write_report(self.plan, self.results, self.failed)
        self._work()

    def _work(self) -> None:
        """Start what is ready and look after what runs, until nothing is left."""
        try:
            while self._waiting or self._running:
                self._check_ready()
                self._start_ready()
                time.sleep(PAUSE)
                for job, process, since in list(self._running):
                    if process.poll() is not None:
                        self._running.remove((job, process, since))
                        self._ended(job, process.returncode, time.monotonic() - since)
        except BaseException:
            self._stop()
            raise

    def _check_ready(self) -> None:
        """Called before runs are started; nothing to check here."""

    def _start_ready(self) -> None:
        threads = threads_of(self.parallel)
        for job in list(self._waiting):
            if job.needs in self.failed:
                self._waiting.remove(job)
                self._fail(job, 'its pre-training has no result')
            elif len(self._running) < self.parallel and job.needs in (None, *self.results):
                self._waiting.remove(job)
                claim(job)
                try:
                    process = start(job.command(), job.folder, threads)
                except BlockingIOError:
                    self._fail(job, f'another process is at work in {job.folder}')
                else:
                    self._running.append((job, process, time.monotonic()))
                    self._tell('start', job, f'{job.iterations:,} iterations, {job.folder}')

    def _ended(self, job: Job, code: int, seconds: float) -> None:
        note_run(job, code, seconds)
        result = result_of(job)
        if result is not None:
            self.results[job.folder] = result
            pairs = zip(COLUMNS, map(result['metrics'].get, FIGURES), strict=True)
            figures = ''.join(f'{name} {ap:.2f}, ' for name, ap in pairs if ap is not None)
            self._tell('done', job, f'{figures}took {duration(seconds)}')
        elif code:
            self._fail(job, f'exit code {code}, see {job.folder / LOG}')
            print(last_lines(job.folder))
        else:
            self._fail(job, f'stopped before its end; the same command goes on ({job.folder})')
        write_report(self.plan, self.results, self.failed)

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.folder] = why
        self._tell('FAILED', job, why)

    def _tell(self, what: str, job: Job, text: str) -> None:
        ended, jobs = len(self.results) + len(self.failed), len(self.plan.jobs)
        print(f'[{ended:>2}/{jobs}] {what:<6} {job.title}: {text}  ({self._times()})')

    def _times(self) -> str:
        """``elapsed 0:12:03, ETA 1:02:00``, from finished jobs of the same kind."""
        now, took = time.monotonic(), defaultdict(list)
        for job in self.plan.jobs:
            seconds = self.results.get(job.folder, {}).get('seconds')
            if seconds is not None:
                took[job.kind].append(seconds / job.iterations)
        left = [(job, 0.0) for job in self._waiting]
        left += [(job, now - since) for job, _, since in self._running]
        known = [
            max(mean(took[job.kind]) * job.iterations - since, 0.0)
            for job, since in left
            if job.kind in took
        ]
        elapsed = f'elapsed {duration(now - self._began)}'
        if not known:
            return f'{elapsed}, ETA after the first result' if left else elapsed
        # one long job can hold up the rest
        seconds = max(sum(known) / self.parallel, max(known))
        return f'{elapsed}, ETA {"at least " * (len(known) < len(left))}{duration(seconds)}'

    def _stop(self) -> None:
        """Let running jobs save; a second Ctrl-C ends them at once."""
        processes, until = [process for _, process, _ in self._running], time.monotonic() + GRACE
        try:
            if processes:
                print(
                    f'\nwaiting until {len(processes)} runs have saved their state (at most '
                    f'{GRACE:.0f} s; Ctrl-C again ends them at once)'
                )
            for process in processes:
                process.terminate()
            while time.monotonic() < until and any(p.poll() is None for p in processes):
                time.sleep(PAUSE)
        finally:
            for job, process, since in self._running:
                kill(process)
                note_run(job, process.returncode, time.monotonic() - since)


def remaining(plan: Plan, results: Results) -> list[Job]:
    """Jobs without a result, in order; no pre-trainings that nobody needs any more."""
    left = [job for job in plan.jobs if job.folder not in results]
    needed = {job.needs for job in left}
    return [job for job in left if job.stage == FINETUNE or job.folder in needed]


def commands(plan: Plan) -> list[list[str]]:
    """Words after ``python`` of what isn't finished; pre-training before what needs it.

    The settings are left in the folders, so that results which such commands make are recognised.
    """
    left = remaining(plan, results_of(plan))
    for job in left:
        claim(job)
    return [job.command() for job in left]


def duration(seconds: float) -> str:
    """``1:02:03``."""
    return str(timedelta(seconds=round(seconds)))
