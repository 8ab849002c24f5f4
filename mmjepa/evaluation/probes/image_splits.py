"""Labelled images for probes: class folders, read as they are evaluated. All that knows images."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from .labelled import TEST_NAMES, LabelledSplit, check_classes, files_described, make_loader
from .sample_settings import SampleProbeSettings

# share of the area that a random crop has, as in pre-training
CROPS = (0.3, 1.0)
# sides of the image and of the cut from it, as ImageNet is evaluated
RESIZE, CUT = 256, 224


def image_side(model: Any) -> int:
    """S of the square images that a model's encoder takes.

    Raises:
        ValueError: If they aren't squares, or the encoder doesn't say.
    """
    size = getattr(model.encoder, 'img_size', None)
    sides = {size} if isinstance(size, int) else set(size or ())
    if len(sides) != 1:
        raise ValueError(
            f'image probes need square images; img_size of {type(model.encoder).__name__} is {size}'
        )
    return int(sides.pop())


def find_test_split(root: Path) -> str:
    """Name of the folder with test images.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several.
    """
    there = [name for name in TEST_NAMES if (root / name).is_dir()]
    if not there:
        raise FileNotFoundError(
            f'{root}: no labelled split {" or ".join(TEST_NAMES)} to score on; probes need '
            f'{root}/train/<class>/<image> and {root}/test/<class>/<image> (names: --train-split, '
            '--test-split)'
        )
    if len(there) > 1:
        raise ValueError(f'{root} has the splits {", ".join(there)}: name one with --test-split')
    return there[0]


def _view(folder_data: Any, side: int) -> dict[str, Any]:
    """The deterministic transform: whole images where all are of that size, else the centre."""
    from mmjepa.datasets.image_files import read_bytes, read_header

    sizes = set()
    for i in np.linspace(0, len(folder_data) - 1, 32).round().astype(int):
        path = folder_data.get_path(int(i))
        sizes.add(read_header(read_bytes(path), path).size)
    resize = side if sizes == {(side, side)} else round(side * RESIZE / CUT)
    return dict(type='ResizeCenterCrop', size=side, resize=resize)


class _LabelledImages(LabelledSplit):
    kind = 'images'

    def __init__(self, data: Any, labels: Any, classes: list[str], view: dict[str, Any]) -> None:
        super().__init__(data.split, labels, classes)
        self.data, self.view = data, view

    def describe(self) -> dict[str, Any]:
        files = files_described(self.data)
        return {'transform': self.view, 'data_root': str(self.data.data_root), 'files': files}

    def loader(self, settings: Mapping[str, Any], batch_size: int | None) -> DataLoader:
        size = batch_size or settings.get('batch_size', 64)
        return make_loader(self.data, [self.view], 'image', settings, batch_size=size)

    def training_loader(
        self, settings: Mapping[str, Any], batch_size: int, seed: int, epoch: int
    ) -> DataLoader:
        from mmengine.dataset import DefaultSampler

        from mmjepa.engine.sampler import ResumableBatchSampler

        order = ResumableBatchSampler(DefaultSampler(self.data, seed=seed), batch_size)
        order.start_iteration = epoch * len(order)
        crop = dict(type='LoadCroppedImage', size=self.view['size'], scale=CROPS)
        flip = dict(type='RandomFlipImage', prob=0.5)
        batches = list(islice(order, len(order)))
        return make_loader(self.data, [crop, flip], 'image', settings, batch_sampler=batches)


def labelled_folders(
    data_root: str | Path, settings: SampleProbeSettings
) -> list[tuple[Any, Any, list[str]]]:
    """Training and test images, ``<data_root>/<split>/<class>/<image>``.

    Args:
        data_root: The folder.
        settings: Names of the splits, and how many images to take, evenly spread over the classes.

    Returns:
        For each split its data set, its labels (N,) int64 and the classes, which are those of the
        training split; damaged images raise when they are read.

    Raises:
        FileNotFoundError: If a split is missing.
        ValueError: If it isn't labelled, has one class, or both are the same.
    """
    from mmjepa.datasets import ImageFolderDataset

    root = Path(data_root).resolve()
    train_split, test_split = settings.train_split, settings.test_split
    if test_split is None and root.is_dir():
        test_split = find_test_split(root)
    test_split = test_split or TEST_NAMES[0]
    if test_split == train_split:
        raise ValueError(f'probes are fitted and scored on the split {train_split!r}: use two')
    hint = f'Probes need {root}/{{{train_split},{test_split}}}/<class>/<image>'
    found = []
    classes: list[str] = []
    for split, most in ((train_split, settings.max_train), (test_split, settings.max_test)):
        data = ImageFolderDataset(root, split=split, download_hint=hint)
        classes = classes or data.class_names
        check_classes(classes, f'{root}, split {split!r}')
        if most is not None and most < len(data):
            picks = np.linspace(0, len(data) - 1, max(most, 1)).round().astype(int)
            data = ImageFolderDataset(root, split=split, indices=[int(i) for i in picks])
        found.append((data, data.labels(classes), classes))
    return found


def image_splits(
    cfg: Mapping[str, Any], model: Any, data_root: str | Path, settings: SampleProbeSettings
) -> list[LabelledSplit]:
    """Training and test images of class folders; see :func:`labelled_folders`.

    Args:
        cfg: The pre-training config; not asked.
        model: Says how large its images are.
        data_root: The folder.
        settings: Names of the splits, and how many images to take.
    """
    folders = labelled_folders(data_root, settings)
    # one view for both: that of the training images
    view = _view(folders[0][0], image_side(model))
    return [_LabelledImages(*folder, view) for folder in folders]
