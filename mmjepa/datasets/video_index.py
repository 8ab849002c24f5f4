"""Lists of videos: the references' headerless CSV, JSON lines, arrays of paths, folders."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .file_index import PathList, scan_files
from .video_backends import is_video

INDEX_SUFFIXES = ('.csv', '.txt', '.jsonl', '.npy')


class VideoIndex(NamedTuple):
    """What a list of videos says.

    Attributes:
        paths: as written: absolute, or relative to ``data_root``.
        labels: (N,) int64, or None where the list has none.
        weights: (N,) float64, or None where all videos weigh the same.
    """

    paths: PathList
    labels: NDArray[np.int64] | None
    weights: NDArray[np.float64] | None


def read_index(source: str | Path, root: str | Path = '.') -> VideoIndex:
    """The videos that a file lists, or that lie below a folder.

    * ``.csv``, ``.txt``: lines ``<path> <label>`` without header, split at the last space; a path
      may be quoted as pandas does it.
    * ``.jsonl``: lines ``{"path": ..., "label": 3, "weight": 0.5}``; label and weight may be left
      out, in all lines or in none; other keys are not read.
    * ``.npy``: an array of strings; all labels are 0.
    * a folder: every video and array below it, by path, without labels.

    Args:
        source: the file or folder; relative to ``root``.
        root: ``data_root``.

    Raises:
        FileNotFoundError: no such file, or nothing in it.
        ValueError: a line isn't of its format; names file and line.
    """
    path = Path(root) / source
    if path.is_dir():
        found = scan_files(path, 'videos', is_video)
        names = (os.path.normpath(os.path.join(source, name)) for name in found)
        index = VideoIndex(PathList(names), None, None)
    elif not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such list of videos; give a file ({", ".join(INDEX_SUFFIXES)}) or a '
            'folder, absolute or relative to data_root'
        )
    else:
        suffix = path.suffix.lower()
        if suffix not in INDEX_SUFFIXES:
            raise ValueError(f'{path}: lists of videos are {", ".join(INDEX_SUFFIXES)} files')
        readers = {'.jsonl': _read_jsonl, '.npy': _read_npy}
        index = readers.get(suffix, _read_csv)(path)
    if not len(index.paths):
        raise FileNotFoundError(f'{path}: no video in it')
    return index


def _read_csv(path: Path) -> VideoIndex:
    paths, labels = [], []
    with open(path, encoding='utf-8', errors='surrogateescape') as file:
        for number, line in enumerate(file, 1):
            name, _, label = line.strip().rpartition(' ')
            if not name and not label:
                continue
            try:
                labels.append(int(label))
            except ValueError:
                raise ValueError(
                    f'{path}, line {number}: {label!r} is no integer; lines are <path> <label>, '
                    'separated by a space, without header'
                ) from None
            name = name.strip()
            if len(name) > 1 and name[0] == name[-1] == '"':
                name = name[1:-1].replace('""', '"')
            if not name:
                raise ValueError(f'{path}, line {number}: no path before the label')
            paths.append(name)
    return VideoIndex(PathList(paths), np.array(labels, np.int64), None)


def _read_jsonl(path: Path) -> VideoIndex:
    rows = []
    with open(path, encoding='utf-8') as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                rows.append((str(row['path']), row.get('label'), row.get('weight')))
                if row.get('label') is not None and row['label'] != int(row['label']):
                    raise ValueError('label is no integer')
                if row.get('weight') is not None and not 0 <= float(row['weight']) < np.inf:
                    raise ValueError('weight must not be negative')
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(
                    f'{path}, line {number}: {type(error).__name__}: {error}; lines are '
                    '{"path": ..., "label": <integer>, "weight": <number>}'
                ) from None
    columns = []
    for name, column in (('label', 1), ('weight', 2)):
        values = [row[column] for row in rows]
        lacking = sum(value is None for value in values)
        if 0 < lacking < len(values):
            raise ValueError(
                f'{path}: {lacking} of {len(values)} lines have no {name}; give all or none one'
            )
        columns.append(None if lacking or not values else np.array(values))
    labels, weights = columns
    return VideoIndex(
        PathList(row[0] for row in rows),
        None if labels is None else labels.astype(np.int64),
        None if weights is None else weights.astype(np.float64),
    )


def _read_npy(path: Path) -> VideoIndex:
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f'{path}: numpy cannot read it ({error}); save an array of strings, as '
            'np.save(path, np.array(paths, str)): objects would need pickle, which runs code'
        ) from None
    if array.dtype.kind not in 'US' or array.ndim != 1:
        raise ValueError(
            f'{path}: an array {array.shape} of {array.dtype}; a list of videos is one of strings'
        )
    names = (os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in array)
    return VideoIndex(PathList(names), np.zeros(len(array), np.int64), None)


class WeightedRows:
    """Draws rows of several lists: a list by its weight, then a row of it by the row's weight.

    Args:
        counts: rows of each list.
        sources: weight of each list.
        rows: (N,) weights of a list's rows, or None where they are the same.

    Raises:
        ValueError: weights that aren't positive numbers, or rows that all weigh nothing.
    """

    def __init__(
        self,
        counts: Sequence[int],
        sources: Sequence[float],
        rows: Sequence[NDArray[np.float64] | None],
    ) -> None:
        if not all(0 < weight < np.inf for weight in sources):
            raise ValueError(f'weights of sources must be positive numbers, got {list(sources)}')
        self._starts = np.cumsum([0, *counts])
        sums = np.cumsum(sources)
        self._sources = sums / sums[-1]
        self._rows = [None if weights is None else np.cumsum(weights) for weights in rows]
        for number, row_sums in enumerate(self._rows):
            if row_sums is not None and not row_sums[-1] > 0:
                raise ValueError(f'all rows of source {number} have weight 0')

    def drawn(self, row: int) -> bool:
        """Whether a row weighs anything."""
        source = int(np.searchsorted(self._starts, row, 'right')) - 1
        sums, place = self._rows[source], row - int(self._starts[source])
        return sums is None or bool(sums[place] > (sums[place - 1] if place else 0))

    def draw(self, seed: int) -> int:
        """The row of a sample, a function of its seed."""
        # another stream than the transforms' default_rng(seed)
        first, second = np.random.default_rng([seed, 1]).random(2)
        source = int(np.searchsorted(self._sources, first, 'right'))
        start, end = int(self._starts[source]), int(self._starts[source + 1])
        sums = self._rows[source]
        if sums is None:
            return start + int(second * (end - start))
        row = int(np.searchsorted(sums, second * sums[-1], 'right'))
        return start + min(row, len(sums) - 1)
