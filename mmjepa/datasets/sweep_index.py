"""Lists of sweep files: scan of a folder, and split files."""

import os
from collections.abc import Sequence
from pathlib import Path

from .file_index import PathList, scan_files
from .point_files import sweep_suffix

# folders that hold no sweeps; label folders aren't even listed
_NOT_SWEEPS = ('label', 'image', 'calib', 'radar', 'cam_', 'planes')


def scan_sweeps(
    folder: Path, suffixes: Sequence[str] | None = None, cache: bool = True
) -> PathList:
    """All sweep files below a folder; see :func:`.file_index.scan_files`.

    Args:
        folder: where to look.
        suffixes: among ``SUFFIX_DIMS``; None takes all of them.
        cache: use and write the cache.

    Returns:
        Paths relative to ``folder``.
    """
    chosen = tuple(sorted(suffixes)) if suffixes else ()

    def wanted(name: str) -> bool:
        suffix = sweep_suffix(name)
        return suffix is not None and (not chosen or suffix in chosen)

    return scan_files(folder, 'sweeps', wanted, chosen, _NOT_SWEEPS, cache)


def read_split(file: Path) -> list[str]:
    """The entries of an ``ImageSets/<split>.txt``, in order, without empty lines."""
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def select_split(paths: Sequence[str], entries: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sweeps that a split names, by frame (file name) or by sequence (a folder on the path).

    Args:
        paths: relative sweep paths.
        entries: frames (``000123``) or sequences (``000076``, ``segment-....tfrecord``).

    Returns:
        The chosen paths in the order of ``paths``, and the entries that match no path.
    """
    names = {_stem(entry.split('/')[-1]) for entry in entries}
    found = set()
    chosen = []
    for path in paths:
        hits = names.intersection(_stem(part) for part in path.split(os.sep))
        if hits:
            chosen.append(path)
            found |= hits
    missing = [entry for entry in entries if _stem(entry.split('/')[-1]) not in found]
    return chosen, missing


def _stem(name: str) -> str:
    suffix = sweep_suffix(name)
    return name[: -len(suffix)] if suffix else name.removesuffix('.tfrecord')
