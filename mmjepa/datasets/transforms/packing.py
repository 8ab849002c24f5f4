"""The last transform of every pipeline."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mmjepa.registry import TRANSFORMS

_ALWAYS = ('sample_seed', 'index', 'path')
_IF_THERE = ('skipped', 'fov_cropped')


@TRANSFORMS.register_module()
class PackJEPAInputs:
    """Packs a sample: arrays as tensors in ``inputs``, the rest in ``data_samples``.

    Returns ``dict(inputs={key: Tensor}, data_samples=dict(sample_seed, index, path, ...))``;
    ``data_samples`` also takes along ``skipped`` (bad files that this sample replaces) and
    ``fov_cropped`` where they are set.

    Args:
        keys: arrays of ``results`` to pack.
        meta_keys: further entries of ``results`` for ``data_samples``.

    Raises:
        KeyError: when called, if a key is missing.
    """

    def __init__(self, keys: Sequence[str] = ('points',), meta_keys: Sequence[str] = ()) -> None:
        if isinstance(keys, str) or isinstance(meta_keys, str):
            raise TypeError('keys and meta_keys are sequences of strings, not one string')
        self.keys = tuple(keys)
        self.meta_keys = tuple(meta_keys)

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Packs the sample."""
        missing = [key for key in (*self.keys, *_ALWAYS, *self.meta_keys) if key not in results]
        if missing:
            raise KeyError(
                f'PackJEPAInputs: {missing} not in results (there are {sorted(results)}); '
                'add the transform that makes them'
            )
        meta = {key: results[key] for key in (*_ALWAYS, *self.meta_keys)}
        meta.update({key: results[key] for key in _IF_THERE if key in results})
        inputs = {key: torch.from_numpy(np.ascontiguousarray(results[key])) for key in self.keys}
        return {'inputs': inputs, 'data_samples': meta}
