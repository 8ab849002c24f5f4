"""What all label-free data sets share: samples by (index, seed), and bad files."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmjepa.registry import TRANSFORMS

from .bad_sample import BadSampleError

Pipeline = Sequence[dict[str, Any] | Callable[[dict[str, Any]], Any]]


class SampleDataset(Dataset):
    """Files without labels.

    A subclass says how many files there are (``__len__``), what they are called (``get_path``) and,
    where a path isn't enough to read one, what else the pipeline needs (``_source``).

    Bad files (missing, empty, truncated, damaged) raise
    :class:`BadSampleError`, or with ``on_error='skip'`` the next good one takes the place:
    deterministic, logged, counted in ``skipped`` of this process and listed in the sample's
    ``data_samples['skipped']``, which ``SkippedSamplesHook`` adds up over workers and ranks.

    Args:
        data_root: the folder.
        pipeline: transforms, as configs or callables; ``results`` in, ``results`` out.
        on_error: 'raise' or 'skip'.
        download_hint: where the data comes from, for the error when it isn't there.

    Raises:
        ValueError: ``on_error`` is neither.
        FileNotFoundError: ``data_root`` is no folder.
    """

    noun = 'image'

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        on_error: str = 'raise',
        download_hint: str = '',
    ) -> None:
        if on_error not in ('raise', 'skip'):
            raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.data_root = Path(data_root)
        self.on_error = on_error
        self.download_hint = download_hint
        self.skipped: Counter[str] = Counter()
        if not self.data_root.is_dir():
            kind = 'not a folder' if self.data_root.exists() else 'no such folder'
            raise FileNotFoundError(f'data_root {self.data_root}: {kind}. {download_hint}')
        self.pipeline = [
            TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline
        ]

    def __len__(self) -> int:
        raise NotImplementedError

    def get_path(self, index: int) -> str:
        """What a file is called in logs and errors."""
        raise NotImplementedError

    def _source(self, index: int) -> dict[str, Any]:
        """Entries of ``results`` that tell the pipeline where the sample is."""
        return {'path': self.get_path(index)}

    def _may_replace(self, index: int) -> bool:
        """Whether a file may take the place of a bad one."""
        return True

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """One sample.

        Args:
            index: of the file, or (index, sample_seed); the seed, which fixes every random number
                of the pipeline, is the index otherwise.

        Returns:
            What the pipeline makes of ``results``.

        Raises:
            BadSampleError: the file is bad; with ``on_error='skip'``, if all are.
        """
        number, seed = index if isinstance(index, tuple) else (index, None)
        position = range(len(self))[int(number)]
        seed = position if seed is None else int(seed)
        if self.on_error == 'raise':
            return self._sample(position, seed, [])
        replaced: list[str] = []
        for step in range(len(self)):
            other = (position + step) % len(self)
            if step and not self._may_replace(other):
                continue
            try:
                return self._sample(other, seed, replaced)
            except BadSampleError as error:
                replaced.append(error.path)
                self._report(error)
                last = error
        raise BadSampleError(
            self.data_root,
            f'none of the {len(self)} {self.noun}s can be used; the last one: {last}',
            'Nothing is left to train on',
        )

    def _sample(self, index: int, seed: int, skipped: list[str]) -> Any:
        results: Any = {
            **self._source(index),
            'data_root': str(self.data_root),
            'index': index,
            'sample_seed': seed,
            'rng': np.random.default_rng(seed),
            'skipped': list(skipped),
        }
        for step in self.pipeline:
            results = step(results)
        return results

    def _report(self, error: BadSampleError) -> None:
        """Counts a skipped file; logs the first ten, then when the count doubles."""
        self.skipped[error.path] += 1
        files, times = len(self.skipped), self.skipped.total()
        new = self.skipped[error.path] == 1
        if (new and files <= 10) or times & (times - 1) == 0:
            print_log(
                f'{self.noun} skipped: {error} [this process: {files} bad files, {times} skips, of '
                f'{len(self)} {self.noun}s]',
                logger='current',
                level=logging.WARNING,
            )


def take(count: int, indices: int | Sequence[int] | None, noun: str) -> Sequence[int]:
    """Numbers of the files to use.

    Args:
        count: files there.
        indices: the first so many (int), the ones with these numbers, or None for all.
        noun: what they are called.

    Raises:
        ValueError: none, or a number that isn't there.
    """
    if indices is None:
        return range(count)
    chosen = range(indices) if isinstance(indices, int) else [int(i) for i in indices]
    if not len(chosen) or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f'indices={indices}: there are {count} {noun}s, from 0')
    return chosen
