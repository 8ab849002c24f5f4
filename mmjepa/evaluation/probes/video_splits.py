"""Labelled videos for probes, and labelled images as still clips. All that knows videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import DefaultScope
from numpy.typing import NDArray

from .image_splits import CUT, RESIZE, image_side, labelled_folders
from .labelled import TEST_NAMES, LabelledSplit, check_classes, files_described, make_loader
from .sample_settings import SampleProbeSettings

LISTS = ('.csv', '.jsonl', '.txt')
CLASSES = 'classes.txt'  # names of the classes, a line each
# of SampleClips: what the config says about reading, not about what is drawn
_READING = ('frame_step', 'fps', 'duration', 'backend', 'timeout', 'max_bytes', 'short')


@dataclass
class _Stills:
    """Batches whose single frames become clips of T."""

    batches: Iterable[Mapping[str, Any]]
    frames: int

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.batches:
            inputs = dict(batch['inputs'])
            inputs['video'] = inputs['video'].expand(-1, -1, self.frames, -1, -1, -1)
            yield {**batch, 'inputs': inputs}


class _LabelledClips(LabelledSplit):
    """Args: name, labels, classes; data set; steps of its pipeline; T to repeat stills to."""

    def __init__(
        self,
        name: str,
        labels: NDArray[np.int64],
        classes: Sequence[str],
        data: Any,
        steps: Sequence[Mapping[str, Any]],
        views: int = 1,
        frames: int | None = None,
    ) -> None:
        super().__init__(name, labels, classes)
        self.data, self.steps, self.views, self.frames = data, list(steps), views, frames
        self.kind = 'videos' if frames is None else 'stills'

    def describe(self) -> dict[str, Any]:
        told = {key: value for step in self.steps for key, value in step.items() if key != 'type'}
        told |= {'views': self.views}
        if self.frames is not None:
            told['num_frames'] = self.frames
        files = files_described(self.data)
        return {'transform': told, 'data_root': str(self.data.data_root), 'files': files}

    def loader(
        self, settings: Mapping[str, Any], batch_size: int | None
    ) -> Iterable[Mapping[str, Any]]:
        size = batch_size or settings.get('batch_size', 64)
        batches = make_loader(self.data, self.steps, 'video', settings, batch_size=size)
        return batches if self.frames is None else _Stills(batches, self.frames)


def _sampling(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """How the config's training data set reads its videos."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    steps = [s for s in dataset.get('pipeline', ()) if s['type'].endswith('SampleClips')]
    if len(steps) != 1:
        raise ValueError(
            f'the pipeline of train_dataloader.dataset has {len(steps)} SampleClips, one is needed '
            'to know the step between frames (frame_step, fps or duration)'
        )
    return {name: steps[0][name] for name in _READING if name in steps[0]}


def _frame_sizes(data: Any, sampling: Mapping[str, Any]) -> set[tuple[int, int]]:
    """(height, width) of the frames of some videos."""
    from mmjepa.registry import TRANSFORMS

    with DefaultScope.overwrite_default_scope('mmjepa'):
        sample = TRANSFORMS.build(dict(sampling))
    rows = np.unique(np.linspace(0, len(data) - 1, 8).round().astype(int))
    found = [sample({'path': data.get_path(int(i)), 'rng': None}) for i in rows]
    return {results['frames'].shape[2:4] for results in found}


def _crops(data: Any, sampling: Mapping[str, Any], side: int, views: int) -> list[dict[str, Any]]:
    """Crops of training and test samples: whole frames where all are of that size."""
    whole = _frame_sizes(data, {**sampling, 'num_frames': 1, 'num_clips': 1}) == {(side, side)}
    resize = side if whole else round(side * RESIZE / CUT)
    centre = dict(type='ResizeCenterCropVideo', size=side, resize=resize)
    return [centre, centre if views == 1 else dict(type='ThreeCropVideo', size=side)]


def _lists(root: Path, names: Sequence[str]) -> list[Path]:
    """The lists of these names that are there."""
    return [root / f'{n}{s}' for n in names for s in LISTS if (root / f'{n}{s}').is_file()]


def _find_lists(root: Path, settings: SampleProbeSettings) -> list[Path]:
    """The lists of training and test videos."""
    found = []
    tests = TEST_NAMES if settings.test_split is None else (settings.test_split,)
    for names, option in (((settings.train_split,), '--train-split'), (tests, '--test-split')):
        lists = _lists(root, names)
        if len(lists) != 1:
            what = f'the lists {", ".join(p.name for p in lists)}' if lists else 'no list'
            raise (ValueError if lists else FileNotFoundError)(
                f'{root} holds {what} of {" or ".join(names)}: probes need one labelled list '
                f'<split>.csv or .jsonl for training and one for testing (names: {option})'
            )
        found.append(lists[0])
    if found[0] == found[1]:
        raise ValueError(f'probes are fitted and scored on the list {found[0].name}: use two')
    return found


def _spread(labels: NDArray[np.int64], most: int | None) -> list[int]:
    """Ascending numbers of so many samples, evenly spread over the classes."""
    order = np.argsort(labels, kind='stable')
    if most is not None and most < len(order):
        order = order[np.linspace(0, len(order) - 1, most).round().astype(int)]
    return sorted(order.tolist())


def _videos(root: Path, settings: SampleProbeSettings) -> list[tuple[str, Any, Any, list[str]]]:
    from mmjepa.datasets import LabelledVideoDataset

    lists = _find_lists(root, settings)
    names = None
    if (root / CLASSES).is_file():
        names = (root / CLASSES).read_text().split('\n')
        names = [name.strip() for name in names if name.strip()]
    found = []
    for path, most in zip(lists, (settings.max_train, settings.max_test), strict=True):
        data = LabelledVideoDataset(root, sources=path.name, class_names=names)
        names = data.class_names  # the training list's, where no file names them
        if most is not None:
            rows = _spread(data.labels(), most)
            data = LabelledVideoDataset(root, sources=path.name, class_names=names, indices=rows)
        found.append((path.stem, data, data.labels(), names))
    return found


def video_splits(
    cfg: Mapping[str, Any], model: Any, data_root: str | Path, settings: SampleProbeSettings
) -> list[LabelledSplit]:
    """Training and test samples for an encoder of clips.

    ``<data_root>/{train,test}.csv`` (or ``.jsonl``) list labelled videos; ``classes.txt`` names
    their classes. A folder without lists, but with ``<split>/<class>/<image>``, is read as still
    clips.

    Args:
        cfg: The pre-training config; says how videos are read.
        model: Says how long and large its clips are.
        data_root: The folder.
        settings: Names of the splits, how many samples, clips and views to take.

    Returns:
        The two splits; damaged files raise when they are read.

    Raises:
        FileNotFoundError: If a split is missing.
        ValueError: If it isn't labelled, has one class, both are the same, or the settings don't
            fit.
    """
    root = Path(data_root).resolve()
    frames, side = model.encoder.num_frames, image_side(model)
    stills = (root / settings.train_split).is_dir() and not _lists(root, [settings.train_split])
    if stills:
        if settings.clips > 1:
            raise ValueError(f'{root} holds images: a still has one clip, not {settings.clips}')
        parts = [(part[0].split, *part) for part in labelled_folders(root, settings)]
        reading: dict[str, Any] = dict(frame_step=1)
    else:
        parts, reading = _videos(root, settings), _sampling(cfg)
    reading = dict(
        type='SampleClips',
        **reading,
        num_frames=1 if stills else frames,
        num_clips=settings.clips,
        random=False,
        middle=True,
        overlap=True,
    )
    crops = _crops(parts[0][1], reading, side, settings.views)
    repeats = frames if stills else None
    splits: list[LabelledSplit] = []
    for part, crop, views in zip(parts, crops, (1, settings.views), strict=True):
        name, data, labels, classes = part
        check_classes(classes, str(root))
        steps = [reading, crop]
        splits.append(_LabelledClips(name, labels, classes, data, steps, views, repeats))
    return splits
