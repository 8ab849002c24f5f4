"""Files that cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PathLike = str | Path


class BadSampleError(ValueError):
    """A file that cannot be used; names the file, the reason and the remedy."""

    def __init__(self, path: PathLike, reason: str = '', remedy: str = '') -> None:
        # torch's DataLoader re-raises a worker's exception as type(error)(message)
        super().__init__(f'{path}: {reason}. {remedy}' if reason else str(path))
        self.path = str(path)
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.reason, self.remedy)


@contextmanager
def reading(path: PathLike) -> Iterator[None]:
    """Turn what the system says about a file into BadSampleError."""
    try:
        yield
    except FileNotFoundError:
        raise BadSampleError(
            path, 'no such file', 'It may have been moved after the scan; check data_root'
        ) from None
    except OSError as error:
        raise BadSampleError(
            path,
            f'cannot be read ({error.strerror or error})',
            'Check the permissions and the disk',
        ) from None
