"""Lists of files: a scan of a folder, and the cache of scans."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

_VERSION = 1


class PathList(Sequence[str]):
    """Read-only list of strings in one bytes object.

    A million Python strings would be copied into every worker by their reference counts.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._blob = b''.join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return os.fsdecode(self._blob[self._ends[index] : self._ends[index + 1]])


def cache_dir() -> Path:
    """``$MMJEPA_CACHE``, else ``$XDG_CACHE_HOME/mmjepa``, else ``~/.cache/mmjepa``."""
    if os.environ.get('MMJEPA_CACHE'):
        return Path(os.environ['MMJEPA_CACHE'])
    base = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return Path(base) / 'mmjepa'


def cache_file(kind: str, *key: str, suffix: str = '.json') -> Path:
    """Where the cache of ``kind`` for ``key`` lies."""
    digest = hashlib.sha256('\0'.join(key).encode()).hexdigest()[:24]
    return cache_dir() / f'{kind}_{digest}{suffix}'


def atomic_write(path: Path, data: bytes) -> bool:
    """Writes beside the target, then renames; False (and a note) where that isn't possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        print_log(
            f'index not cached: {path} cannot be written ({error.strerror}); MMJEPA_CACHE names '
            'another folder',
            logger='current',
        )
        return False
    return True


def scan_files(
    folder: Path,
    kind: str,
    wanted: Callable[[str], bool],
    key: Sequence[str] = (),
    avoid: tuple[str, ...] = (),
    cache: bool = True,
) -> PathList:
    """All files of a kind below a folder, sorted by path.

    The scan is cached under the folder's path; a cached scan holds as long as no folder in it has
    changed its modification time.

    Args:
        folder: where to look; links to folders are followed.
        kind: name of the cache.
        wanted: whether a file name is one of them.
        key: what else ``wanted`` depends on.
        avoid: folders whose names start so, in small letters, aren't listed.
        cache: use and write the cache.

    Returns:
        Paths relative to ``folder``.
    """
    root = str(folder.resolve())
    file = cache_file(kind, root, *key)
    if cache:
        cached = _read_cache(file, root)
        if cached is not None:
            return PathList(cached)
    paths: list[str] = []
    folders: dict[str, int] = {}
    for relative, mtime, names in _walk(root, avoid):
        folders[relative] = mtime
        paths += [os.path.join(relative, name) for name in names if wanted(name)]
    paths.sort()
    # a folder changed just now may change again within the clock's tick
    if cache and all(mtime < time.time_ns() - 2_000_000_000 for mtime in folders.values()):
        index = {'version': _VERSION, 'root': root, 'folders': folders, 'paths': paths}
        atomic_write(file, json.dumps(index).encode())
    return PathList(paths)


def _read_cache(file: Path, root: str) -> list[str] | None:
    try:
        index = json.loads(file.read_text())
        if index['version'] != _VERSION or index['root'] != root:
            return None
        for relative, mtime in index['folders'].items():
            if os.stat(os.path.join(root, relative)).st_mtime_ns != mtime:
                return None
        paths = index['paths']
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no cache, or a damaged one: scan
    return paths if isinstance(paths, list) else None


def _walk(root: str, avoid: tuple[str, ...]) -> Iterator[tuple[str, int, list[str]]]:
    """(relative folder, mtime in ns, file names), without hidden folders and those to avoid."""
    visited = set()
    stack = ['']
    while stack:
        relative = stack.pop()
        folder = os.path.join(root, relative) if relative else root
        real = os.path.realpath(folder)
        if real in visited:  # a link back to a folder above
            continue
        visited.add(real)
        mtime = os.stat(folder).st_mtime_ns
        files: list[str] = []
        deeper: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith('.'):
                    continue
                if not entry.is_dir():
                    files.append(entry.name)
                elif not entry.name.lower().startswith(avoid):
                    deeper.append(entry.name)
        # in order: where two links lead to one folder, the first one counts
        stack += [os.path.join(relative, name) for name in sorted(deeper, reverse=True)]
        yield relative, mtime, files
