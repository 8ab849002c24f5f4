"""Carrying out a plan, with a bar of finished cells."""

import sys
import time
from typing import Any

from mmjepa.benchmark.salt.run import Runs

from .choices import Asked
from .plan import Plan
from .report import write_report

WIDTH = 30


def bar(done: int, total: int) -> str:
    """``[##########....................] 24/72 cells``."""
    filled = WIDTH * done // max(total, 1)
    return f'[{"#" * filled}{"." * (WIDTH - filled)}] {done}/{total} cells'


class BenchmarkRuns(Runs):
    """Pre-trainings and heads of a plan; the report is written anew after every run.

    Args:
        asked: for the report.
        plan: its folders were checked, its groups written.
        parallel: runs at a time.
    """

    def __init__(self, asked: Asked, plan: Plan, parallel: int = 1):
        super().__init__(plan.jobs, parallel, lambda: write_report(asked, plan, self.failed))
        self.cells, self._shown, self._looked = plan.cells, -1, 0.0

    def _tell(self, what: str, job: Any, text: str) -> None:
        models = job.kind.startswith('heads')
        super()._tell(what, job, text.replace('iterations', 'models') if models else text)

    def _check_ready(self) -> None:
        """Called at every look at the processes."""
        super()._check_ready()
        if time.monotonic() - self._looked > 5:
            self._looked = time.monotonic()
            self.show()

    def run(self) -> None:
        """As :class:`Runs`, with a last bar."""
        super().run()
        self.show()

    def show(self) -> None:
        """The bar, where it has grown."""
        done = sum(cell.result() is not None for cell in self.cells)
        if done != self._shown:
            self._shown = done
            print(f'{bar(done, len(self.cells))}  ({self._times()})', file=sys.stderr)
