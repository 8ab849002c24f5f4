"""Images with the class of their folder, for fine-tuning and linear probing."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmjepa.registry import DATASETS

from .image_folder import ImageFolderDataset
from .sample_dataset import Pipeline


@DATASETS.register_module()
class LabelledImageDataset(ImageFolderDataset):
    """``<data_root>/<split>/<class>/<image>``, as ImageNet and CIFAR-10 come.

    Classes are numbered in the order of their folders' names in ``class_split``, the same for all
    splits. Adds ``label`` to ``results``; pack it with ``PackJEPAInputs(meta_keys=['label'])``.

    Args:
        data_root: the folder.
        pipeline: transforms.
        split: name of the folder below ``data_root``.
        num_classes: how many classes there must be; None takes those that are there.
        class_split: the split whose folders are the classes.
        fraction: share of each class's images to use, at least one: drawn once, by class and
            ``fraction_seed``.
        fraction_seed: of that draw.
        subset: text file that lists the images to use, one a line, as ``<image>`` or
            ``<class>/<image>`` (ImageNet's published 1 % is such a list of names).
        on_error: 'raise' or 'skip'; see :class:`SampleDataset`.
        cache_index: keep the list of files in the cache folder.

    Attributes:
        class_names: names of the classes, in the order of their numbers.

    Raises:
        FileNotFoundError: no folder, split, image or list.
        ValueError: one class, another number of classes, classes that another split lacks, an
            image in no class folder, an argument out of its range, or a list that doesn't fit.
    """

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        split: str = 'train',
        num_classes: int | None = None,
        class_split: str = 'train',
        fraction: float = 1.0,
        fraction_seed: int = 0,
        subset: str | Path | None = None,
        on_error: str = 'raise',
        cache_index: bool = True,
    ) -> None:
        if not 0 < fraction <= 1 or (fraction < 1 and subset is not None):
            raise ValueError(
                f'fraction must lie in (0, 1], and be 1 beside a subset: {fraction=}, {subset=}'
            )
        super().__init__(data_root, pipeline, split, on_error, cache_index=cache_index)
        self._classes = self._find_classes(class_split, num_classes)
        self._labels = self.labels(self._classes)
        absent = set(range(len(self._classes))) - set(np.unique(self._labels).tolist())
        if absent:
            raise ValueError(
                f'{self.folder}: no image of {len(absent)} classes of the split {class_split!r}, '
                f'such as {self._classes[min(absent)]!r}: the splits must have the same classes'
            )
        if subset is not None:
            self._choose(self._listed(Path(subset)))
        elif fraction < 1:
            self._choose(self._drawn(fraction, fraction_seed))
        self.metainfo.update(num_images=len(self), classes=self.class_names)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self._classes)

    def _source(self, index: int) -> dict[str, Any]:
        return {**super()._source(index), 'label': int(self._labels[index])}

    def _find_classes(self, split: str, count: int | None) -> list[str]:
        folder = self.data_root / split
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder}: no such folder; its folders name the classes (class_split={split!r}). '
                f'{self.download_hint}'
            )
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != '.')
        if len(names) < 2 or (count is not None and len(names) != count):
            wanted = 'at least two' if count is None else str(count)
            raise ValueError(
                f'{folder}: {len(names)} class folders, {wanted} needed: '
                f'{", ".join(names[:5]) or "images must lie in <class>/<image>"}'
            )
        return names

    def _choose(self, rows: Iterable[int]) -> None:
        self._chosen = np.asarray(list(rows))
        self._labels = self._labels[self._chosen]
        self._log()

    def _drawn(self, fraction: float, seed: int) -> NDArray[np.int64]:
        """Ascending rows, as many of each class as the fraction says."""
        picks = []
        for label in range(len(self._classes)):
            rows = np.flatnonzero(self._labels == label)
            rng = np.random.default_rng([seed, label])
            picks.append(rng.choice(rows, max(1, round(fraction * len(rows))), replace=False))
        return np.sort(np.concatenate(picks))

    def _listed(self, path: Path) -> list[int]:
        """Ascending rows of the images that a file names."""
        if not path.is_file():
            raise FileNotFoundError(f'subset {path}: no such file; give a list of images')
        wanted = Counter(line.strip() for line in path.read_text().splitlines() if line.strip())
        found: Counter[str] = Counter()
        rows = []
        for row in range(len(self)):
            whole = Path(self._relative(row))
            names = {whole.name, whole.as_posix()} & wanted.keys()
            if names:
                found.update(names)
                rows.append(row)
        bad = [name for name in wanted if found[name] != 1 or wanted[name] > 1]
        if bad or not rows:
            raise ValueError(
                f'subset {path}: {len(bad)} of {len(wanted)} lines name no image of {self.folder}, '
                f'or several, or one again: {", ".join(bad[:3])}; write <class>/<image>'
            )
        return rows
