"""Jobs as processes of their own."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from .files import PlanError
from .results import LOG

LOCK = 'lock'


class BusyError(PlanError):
    """Another process is at work in the folder."""


class Running(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Exit code, None while it runs."""

    def stop(self) -> None:
        """Ask it to save and leave."""

    def kill(self) -> None:
        """End it and its helpers at once."""


class Launch(Protocol):
    """Starts a command in a job's folder."""

    def __call__(self, command: Sequence[str], folder: Path) -> Running:
        """Start; raises BusyError where another process is at work."""


class PythonProcess:
    """``python COMMAND``, its output appended to the folder's log.

    It gets no Ctrl-C from the terminal: who started it says when to stop. A lock in the folder
    lives as long as the process, also when the one that started it was killed.

    Args:
        command: words after ``python``.
        folder: work dir of the run.
        environment: added to this process's.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / LOCK).open('w')
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BusyError(f'another process is at work in {folder}') from None
        with (folder / LOG).open('ab') as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(self._lock.fileno(),),
                env={**os.environ, **environment},
            )

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        code = self._process.poll()
        if code is not None:
            self._lock.close()
        return code

    def stop(self) -> None:
        """SIGTERM: a training saves and leaves."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for the process and its loaders' workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._lock.close()


def launcher(jobs: int) -> Launch:
    """Starts processes that share the machine with ``jobs - 1`` others.

    Beside each other they take a thread each, unless ``OMP_NUM_THREADS`` is set: threads of
    several processes on few cores wait for each other.
    """
    threads = {'OMP_NUM_THREADS': '1'} if jobs > 1 and 'OMP_NUM_THREADS' not in os.environ else {}

    def launch(command: Sequence[str], folder: Path) -> Running:
        return PythonProcess(command, folder, threads)

    return launch
