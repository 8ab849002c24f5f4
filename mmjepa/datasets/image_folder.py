"""Images without labels, from ImageNet's layout or any folder."""

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from mmjepa.registry import DATASETS

from .file_index import scan_files
from .image_files import IMAGE_SUFFIXES, is_image
from .sample_dataset import Pipeline, SampleDataset, take

_HINT = (
    'ImageNet: after registration at https://image-net.org/download-images unpack '
    'ILSVRC2012_img_train.tar, and the archive of each class in it, to '
    '{root}/{split}/<class>/*.JPEG; any other folder with {suffixes} files below it will do'
)
_SPLIT_FOLDER = re.compile(r'(train|training|val|valid|validation|test|testing)[_-]?\d*$', re.I)


@DATASETS.register_module()
class ImageFolderDataset(SampleDataset):
    """Images below a folder, in the order of their paths; labels are never asked for.

    ``<data_root>/<split>/<class>/*.JPEG`` as ImageNet has it, or any folder with .jpg, .jpeg,
    .png, .bmp or .webp files at any depth. Without a folder ``<split>``, and without others that
    look like splits, ``split='train'`` takes every image below ``data_root``. Hidden files and
    folders are left out. Probes read labels from the folders' names by :meth:`labels`;
    pre-training doesn't.

    Args:
        data_root: the folder.
        pipeline: transforms, as configs or callables; ``results`` in, ``results`` out.
        split: name of the folder below ``data_root``; None reads every image.
        on_error: 'raise' or 'skip'; see :class:`SampleDataset`.
        indices: the first so many of the images (int), or the ones with these numbers (sequence).
        cache_index: keep the list of files in the cache folder (``$MMJEPA_CACHE``).
        download_hint: where the data comes from, for the error when it isn't there. Default:
            ImageNet.

    Raises:
        FileNotFoundError: no folder, no such split or no image; says what to do.
        ValueError: an argument is out of its set.
    """

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        split: str | None = 'train',
        on_error: str = 'raise',
        indices: int | Sequence[int] | None = None,
        cache_index: bool = True,
        download_hint: str | None = None,
    ) -> None:
        hint = download_hint or _HINT.format(
            root=data_root, split=split or 'train', suffixes=', '.join(IMAGE_SUFFIXES)
        )
        super().__init__(data_root, pipeline, on_error, hint)
        self.split = split
        self.folder = self._find_folder()
        try:
            self._all = scan_files(self.folder, 'images', is_image, cache=cache_index)
        except PermissionError as error:
            raise PermissionError(
                f'data_root {self.data_root}: {error.filename} cannot be read; check its '
                'permissions'
            ) from None
        if not self._all:
            kinds = ', '.join(IMAGE_SUFFIXES)
            raise FileNotFoundError(f'{self.folder}: no image ({kinds}) in it. {hint}')
        self._chosen = (
            None if indices is None else np.asarray(take(len(self._all), indices, self.noun))
        )
        self.metainfo: dict[str, Any] = {
            'data_root': str(self.data_root),
            'layout': 'image_folder',
            'split': split,
            'num_images': len(self),
        }
        self._log()

    def __len__(self) -> int:
        return len(self._all) if self._chosen is None else len(self._chosen)

    def get_path(self, index: int) -> str:
        """The file of an image."""
        return os.path.join(self.folder, self._relative(index))

    @property
    def class_names(self) -> list[str]:
        """Names of the folders right below the split, sorted; never used in pre-training."""
        tops = {path.split(os.sep, 1)[0] for path in self._all if os.sep in path}
        return sorted(tops)

    def labels(self, class_names: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Class of each image by the folder it lies in; never used in pre-training.

        Args:
            class_names: what the numbers mean. Default: :attr:`class_names`; give those of the
                training split where another one lacks classes.

        Returns:
            (len(self),) int64.

        Raises:
            ValueError: an image in no class folder, or in one that isn't named.
        """
        names = self.class_names if class_names is None else list(class_names)
        number = {name: i for i, name in enumerate(names)}
        out = np.empty(len(self), np.int64)
        for i in range(len(self)):
            top, sep, _ = self._relative(i).partition(os.sep)
            if not sep or top not in number:
                reason = f'the class {top!r} is not among the names' if sep else 'no class folder'
                raise ValueError(
                    f'{self.get_path(i)}: {reason}; labels need {self.folder}/<class>/<image>'
                )
            out[i] = number[top]
        return out

    def _relative(self, index: int) -> str:
        position = range(len(self))[index]
        return self._all[position if self._chosen is None else int(self._chosen[position])]

    def _find_folder(self) -> Path:
        """The folder to scan."""
        root, split = self.data_root, self.split
        if split is None:
            return root
        if (root / split).is_dir():
            if root.resolve().name == split:
                raise ValueError(
                    f'data_root {root} is named {split!r} and has a folder {split!r}: a split, or '
                    f'a class? Set split=None to read all of {root}, or data_root to its parent'
                )
            return root / split
        others = sorted(
            entry.name for entry in root.iterdir()
            if entry.is_dir() and _SPLIT_FOLDER.match(entry.name)
        )  # fmt: skip
        if others or split != 'train':
            there = f'only {others}' if others else 'no folder of a split'
            raise FileNotFoundError(
                f'{root}: no folder {split!r} in it ({there}). Set split to a folder, or to None '
                f'to read every image. {self.download_hint}'
            )
        return root

    def _log(self) -> None:
        kinds = Counter(os.path.splitext(path)[1].lower() for path in self._all)
        told = ', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))
        part = '' if self._chosen is None else f'{len(self)} by indices, of '
        print_log(
            f'{type(self).__name__}: {part}{len(self._all)} images ({told}) from {self.folder}, '
            f'split {self.split!r}',
            logger='current',
            level=logging.INFO,
        )
