"""Videos without labels from lists of files, and with labels for probes."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.registry import DATASETS

from .file_index import PathList
from .sample_dataset import Pipeline, SampleDataset, take
from .video_index import VideoIndex, WeightedRows, read_index

_HINT = (
    'Lists have lines `<path> <label>` (.csv), {"path": ..., "label": ..., "weight": ...} '
    '(.jsonl) or are an array of paths (.npy); paths are absolute or relative to data_root; '
    '`tools/create_data.py sim-video` makes a small set'
)
_LOOKED_UP = 16  # files looked for at the start
Source = str | Path | Mapping[str, Any]


@DATASETS.register_module()
class VideoDataset(SampleDataset):
    """Videos that lists name, in the lists' order; labels are dropped when a list is read.

    Reading is up to the pipeline: ``SampleClips``, a crop, ``PackJEPAInputs(keys=['video'])``, and
    ``jepa_collate`` with ``stack=['video']``. Bad files (missing, damaged, too short, with fewer
    frames than promised, or with a decoder that hangs) raise or are skipped and counted, see
    :class:`SampleDataset`.

    With weights, of sources or of rows, a sample ``(index, seed)`` is a row drawn by its seed,
    with replacement: a source by its weight, then a row of it. So any number of workers draws the
    same, and rows of a rare source turn up in time. A plain index stays that row.

    Args:
        data_root: the folder that lists and paths are relative to.
        pipeline: transforms, as configs or callables; ``results`` in, ``results`` out.
        sources: lists or folders of videos, see :func:`read_index`; ``dict(index=..., weight=...)``
            gives one a weight, and then all need one. None: every video below ``data_root``.
        on_error: 'raise' or 'skip'; see :class:`SampleDataset`.
        indices: the first so many of the videos (int), or the ones with these numbers (sequence);
            not with weights.

    Raises:
        FileNotFoundError: no folder, no list, an empty one, or none of its files is there.
        ValueError: a damaged list, or an argument out of its set.
    """

    noun = 'video'

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        sources: Source | Sequence[Source] | None = None,
        on_error: str = 'raise',
        indices: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(data_root, pipeline, on_error, _HINT)
        single = sources is None or isinstance(sources, (str, Path, Mapping))
        names, shares = _parse([sources or '.'] if single else list(sources))  # type: ignore
        tables = [read_index(name, self.data_root) for name in names]
        counts = [len(table.paths) for table in tables]
        self._weighted = None
        if shares or any(table.weights is not None for table in tables):
            if indices is not None:
                raise ValueError('indices and weights exclude each other: leave one out')
            # without shares, a list counts by its rows
            self._weighted = WeightedRows(
                counts, shares or counts, [table.weights for table in tables]
            )
        rows = np.asarray(take(sum(counts), indices, self.noun))
        paths = PathList(path for table in tables for path in table.paths)
        self._paths = paths if indices is None else PathList(paths[row] for row in rows)
        self._keep_labels(tables, rows)
        self._look_up()
        self.metainfo: dict[str, Any] = {
            'data_root': str(self.data_root),
            'layout': 'videos',
            'sources': [str(name) for name in names],
            'num_videos': len(self),
        }
        told = ', '.join(
            f'{count} of {name}' + (f' (weight {shares[i]:g})' if shares else '')
            for i, (name, count) in enumerate(zip(names, counts, strict=True))
        )
        part = '' if indices is None else f'{len(self)} by indices, of '
        print_log(
            f'{type(self).__name__}: {part}{sum(counts)} videos ({told}) in {self.data_root}',
            logger='current',
            level=logging.INFO,
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """One sample; see :meth:`SampleDataset.__getitem__`, and the class for weights."""
        if self._weighted is not None and isinstance(index, tuple):
            index = self._weighted.draw(int(index[1])), index[1]
        return super().__getitem__(index)

    def get_path(self, index: int) -> str:
        """The file of a video."""
        return os.path.join(self.data_root, self._paths[index])

    def _may_replace(self, index: int) -> bool:
        return self._weighted is None or self._weighted.drawn(index)

    def _keep_labels(self, tables: Sequence[VideoIndex], rows: NDArray[np.int64]) -> None:
        """Pre-training keeps none."""

    def _look_up(self) -> None:
        """Refuses lists whose files all are elsewhere: a wrong ``data_root``, most often."""
        some = np.unique(np.linspace(0, len(self) - 1, _LOOKED_UP).round().astype(int))
        tried = [self.get_path(int(row)) for row in some]
        if not any(map(os.path.exists, tried)):
            raise FileNotFoundError(
                f'{tried[0]}: no such file, as {len(tried)} of {len(tried)} looked for; check '
                f'data_root. {_HINT}'
            )


@DATASETS.register_module()
class LabelledVideoDataset(VideoDataset):
    """Videos with the class that the lists name, for probes.

    Adds ``label`` to ``results``; pack it with ``PackJEPAInputs(meta_keys=['label'])``.

    Args:
        data_root: see :class:`VideoDataset`.
        pipeline: transforms.
        sources: lists with labels.
        num_classes: how many classes there are; None: one more than the greatest label.
        class_names: names of the classes, in the order of their numbers; default: the numbers.
        on_error: 'raise' or 'skip'.
        indices: the first so many of the videos (int), or the ones with these numbers (sequence).

    Raises:
        FileNotFoundError: see :class:`VideoDataset`.
        ValueError: a list without labels, a label out of range, one class, or another number of
            names.
    """

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        sources: Source | Sequence[Source] | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        on_error: str = 'raise',
        indices: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(data_root, pipeline, sources, on_error, indices)
        count = num_classes or (len(class_names) if class_names else int(self._labels.max()) + 1)
        names = [str(i) for i in range(count)] if class_names is None else list(class_names)
        low, high = int(self._labels.min()), int(self._labels.max())
        if count < 2 or len(names) != count or low < 0 or high >= count:
            raise ValueError(
                f'{self.metainfo["sources"]}: labels from {low} to {high}, {count} classes and '
                f'{len(names)} names; labels are 0 to num_classes - 1, of two classes at least'
            )
        self.class_names = names
        self.metainfo['classes'] = names

    def labels(self) -> NDArray[np.int64]:
        """(len(self),) int64, the class of each video."""
        return self._labels.copy()

    def _keep_labels(self, tables: Sequence[VideoIndex], rows: NDArray[np.int64]) -> None:
        for table in tables:
            if table.labels is None:
                raise ValueError(f'{self.data_root}: a source without labels. {_HINT}')
        self._labels = np.concatenate([table.labels for table in tables])[rows]

    def _source(self, index: int) -> dict[str, Any]:
        return {**super()._source(index), 'label': int(self._labels[index])}


def _parse(sources: Sequence[Source]) -> tuple[list[str | Path], list[float]]:
    """Lists, and their weights: none or all of them."""
    names: list[str | Path] = []
    shares: list[float] = []
    for source in sources:
        entry: Mapping[str, Any] = source if isinstance(source, Mapping) else {'index': source}
        if 'index' not in entry or set(entry) - {'index', 'weight'}:
            raise ValueError(f'a source is dict(index=..., weight=...), got the keys {list(entry)}')
        names.append(entry['index'])
        if 'weight' in entry:
            shares.append(float(entry['weight']))
    if not names or (shares and len(shares) < len(names)):
        raise ValueError(f'{len(shares)} of {len(names)} sources have a weight: give all or none')
    return names, shares
