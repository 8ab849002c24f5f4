"""Carrying out trainings and probes, with the machinery of the label-efficiency experiment."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmjepa.benchmark.label_efficiency.results import (
    LOG,
    RESULT,
    RUN,
    last_lines,
    note_run,
    read_json,
    write_json,
)
from mmjepa.benchmark.label_efficiency.run import PlanRun, duration
from mmjepa.engine.checkpoint import CheckpointError

from .stages import Job


class Runs(PlanRun):
    """Runs the jobs whose product isn't there, ``parallel`` at a time; see :class:`PlanRun`.

    Args:
        jobs: in the order in which they may start; their folders were checked.
        parallel: at a time.
        after: called at the start and after each job.

    Attributes:
        results: seconds of finished jobs, by folder.
        failed: why others have none, by folder.
    """

    def __init__(
        self, jobs: Sequence[Job], parallel: int = 1, after: Callable[[], object] | None = None
    ):
        plan: Any = SimpleNamespace(jobs=tuple(jobs))
        super().__init__(plan, parallel)
        self.after = after or (lambda: None)

    def run(self) -> None:
        """Run what isn't finished.

        Raises:
            KeyboardInterrupt: after the running jobs have saved and ended.
        """
        jobs: Any = self.plan.jobs
        self.results = {job.folder: _result(job) for job in jobs if job.product.is_file()}
        left = [job for job in jobs if job.folder not in self.results]
        # a teacher whose student is there is not trained again, should its file have been removed
        first, needed = {job.needs for job in jobs}, {job.needs for job in left}
        self._waiting = [job for job in left if job.folder not in first - needed]
        if self.results:
            print(f'{len(self.results)} of {len(jobs)} runs are finished already')
        self.after()
        self._work()

    def _check_ready(self) -> None:
        """Jobs fail here when what they are to start from is wrong."""
        waiting: Any = list(self._waiting)
        for job in waiting:
            if job.check is None or job.needs not in self.results:
                continue
            if len(self._running) < self.parallel:
                try:
                    job.check()
                except (CheckpointError, FileNotFoundError) as error:
                    self._waiting.remove(job)
                    self._fail(job, str(error))

    def _ended(self, job: Any, code: int, seconds: float) -> None:
        note_run(job, code, seconds)
        if job.product.is_file():
            self.results[job.folder] = _result(job)
            self._tell('done', job, f'took {duration(seconds)}')
        elif code:
            self._fail(job, f'exit code {code}, see {job.folder / LOG}')
            print(last_lines(job.folder))
        else:
            self._fail(job, f'stopped before its end; the same command goes on ({job.folder})')
        self.after()


def _result(job: Job) -> dict[str, Any]:
    """Written beside the product, so that it is known which settings it is of."""
    path: Path = job.folder / RESULT
    result = dict(hash=job.hash, seconds=(read_json(job.folder / RUN) or {}).get('seconds'))
    if read_json(path) != result:
        write_json(path, result)
    return result
