"""Features on disk, found again by a hash of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

# make(shape, dtype) -> array
Maker = Callable[[tuple[int, ...], Any], NDArray[Any]]
# compute(kind -> maker) -> kind -> filled array
Compute = Callable[[dict[str, Maker]], Mapping[str, NDArray[np.float16]]]


class FeatureCache:
    """Half-precision feature files ``features_<hash>.npy``, memory-mapped.

    The hash is of a description: weights, transform, files with sizes and times, precision,
    layers. Whatever changes gives another file, so a stale one is never read; it stays until it
    is deleted. ``features_<hash>.json`` beside it says what it is of.

    Args:
        folder: Where files lie; None keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.hits = self.misses = 0

    def get(
        self, descriptions: Mapping[str, Mapping[str, Any]], count: int, compute: Compute
    ) -> dict[str, NDArray[np.float16]]:
        """Features as described, from the cache or computed into it.

        Args:
            descriptions: Kind -> all that these features depend on, JSON-ready.
            count: N.
            compute: Given a maker for each kind that isn't there, fills an array from each.

        Returns:
            Kind -> (N, ...) float16, read-only if it lies in the cache.

        Raises:
            ValueError: If the disk hasn't the room; says how much is needed.
        """
        if self.folder is None:
            self.misses += len(descriptions)
            return dict(compute(dict.fromkeys(descriptions, np.empty)))
        texts = {
            kind: json.dumps(one, indent=2, sort_keys=True, default=str)
            for kind, one in descriptions.items()
        }
        paths = {
            kind: self.folder / f'features_{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy'
            for kind, text in texts.items()
        }
        missing = {kind: path for kind, path in paths.items() if _read(path, count) is None}
        self.hits += len(paths) - len(missing)
        self.misses += len(missing)
        if missing:
            self._write(missing, texts, compute)
        found = {kind: _read(path, count) for kind, path in paths.items()}
        return {kind: array for kind, array in found.items() if array is not None}

    def _write(self, paths: Mapping[str, Path], texts: Mapping[str, str], compute: Compute) -> None:
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary: dict[str, str] = {}
        try:
            for kind in paths:
                handle, temporary[kind] = tempfile.mkstemp(dir=self.folder, suffix='.part')
                os.close(handle)
            made = compute({kind: partial(_make, name) for kind, name in temporary.items()})
            for kind, path in paths.items():
                array = made[kind]
                assert isinstance(array, np.memmap)
                array.flush()
                path.with_suffix('.json').write_text(texts[kind] + '\n')
                os.replace(temporary[kind], path)
        finally:
            for name in temporary.values():
                Path(name).unlink(missing_ok=True)


def _make(name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    folder = Path(name).parent
    needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'{folder}: features need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free; name '
            'another --cache-dir, or take fewer samples'
        )
    return np.lib.format.open_memmap(name, 'w+', np.dtype(dtype), shape)


def _read(path: Path, count: int) -> NDArray[np.float16] | None:
    if not path.is_file():
        return None
    try:
        array = np.load(path, mmap_mode='r')
    except (ValueError, OSError, EOFError):
        array = None
    if array is None or len(array) != count or array.dtype != np.float16:
        print_log(f'{path} is damaged: features are computed again', 'current', level=30)
        return None
    return array
