"""Progress of long evaluations on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# what is done, how many are done, of how many
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """A progress report that nobody wants."""


class TerminalProgress:
    """A line for each stage: rewritten on a terminal, else printed every few seconds.

    Args:
        stream: Where to write; standard error by default, so that tables stay clean.
        interval: Least seconds between two reports of a stage.
    """

    def __init__(self, stream: TextIO | None = None, interval: float | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty()
        self.interval = interval if interval is not None else (0.1 if self.live else 5.0)
        self._stage = ''
        self._start = self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report a stage; the first call of a stage starts its clock."""
        now = time.monotonic()
        if what != self._stage:
            self._stage, self._start, self._last = what, now, now
        finished = done >= total
        if not finished and now - self._last < self.interval:
            return
        self._last = now
        spent = now - self._start
        left = f', {spent * (total - done) / done:.0f} s left' if 0 < done < total else ''
        text = f'{what}: {done}/{total} ({spent:.0f} s{left})'
        if self.live:
            self.stream.write(f'\r\033[K{text}' + ('\n' if finished else ''))
        else:
            self.stream.write(text + '\n')
        self.stream.flush()
        if finished:
            self._stage = ''
