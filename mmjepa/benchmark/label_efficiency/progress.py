"""How long things took, and how long the rest will take."""

import time
from collections.abc import Mapping, Sequence

from .plan import Job


class Clock:
    """Time since it was made, and an estimate from finished jobs of the same kind.

    Args:
        rates: seconds an iteration by :attr:`.Job.kind`, as far as known before.
    """

    def __init__(self, rates: Mapping[str, float] | None = None):
        self.start = time.monotonic()
        self._before = dict(rates or {})
        self._seconds: dict[str, float] = {}
        self._iterations: dict[str, int] = {}

    def learn(self, job: Job, seconds: float | None) -> None:
        """Take note of a finished job's time; None: not known."""
        if seconds is not None:
            self._seconds[job.kind] = self._seconds.get(job.kind, 0.0) + seconds
            self._iterations[job.kind] = self._iterations.get(job.kind, 0) + job.iterations

    def expected(self, job: Job) -> float | None:
        """Seconds that a job will take, None where nothing like it has run."""
        if job.kind in self._seconds:
            return self._seconds[job.kind] / self._iterations[job.kind] * job.iterations
        rate = self._before.get(job.kind)
        return None if rate is None else rate * job.iterations

    def text(
        self, waiting: Sequence[Job], running: Sequence[tuple[Job, float]], parallel: int
    ) -> str:
        """``elapsed 0:12:03, ETA 1:02:00``.

        Args:
            waiting: jobs to come.
            running: jobs, and for how many seconds.
            parallel: jobs at a time.
        """
        elapsed = f'elapsed {duration(time.monotonic() - self.start)}'
        if not waiting and not running:
            return elapsed
        times = [self.expected(job) for job in waiting]
        for job, since in running:
            expected = self.expected(job)
            times.append(None if expected is None else max(expected - since, 0.0))
        known = [t for t in times if t is not None]
        if not known:
            return f'{elapsed}, ETA after the first result'
        # one long job can hold up the rest
        left = max(sum(known) / parallel, max(known))
        least = 'at least ' if len(known) < len(times) else ''
        return f'{elapsed}, ETA {least}{duration(left)}'


def duration(seconds: float) -> str:
    """``1:02:03``."""
    whole = round(seconds)
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'
