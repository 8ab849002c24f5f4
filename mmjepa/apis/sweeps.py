"""Sweeps as a trained model wants them: the config's own loading, without augmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from numpy.typing import NDArray
from torch import Tensor

Sweep = str | Path | NDArray[Any] | Tensor

# transforms that change what is seen at random; they belong to training only
_AUGMENTATIONS = ('GTSampling', 'GlobalRotScale', 'PointShuffle')
# transforms that need a file
_FILE_TRANSFORMS = ('LoadPoints', 'CropToCameraView')


def _name(transform: Mapping[str, Any]) -> str:
    return str(transform['type']).rsplit('.', 1)[-1]


def is_augmentation(transform: Mapping[str, Any]) -> bool:
    """Whether a transform's config is a random one."""
    return _name(transform).startswith('Random') or _name(transform) in _AUGMENTATIONS


def dataset_config(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the pre-training data set.

    Raises:
        KeyError: If the config has none, or one without pipeline.
    """
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    while dataset is not None and 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']  # wrappers such as RepeatDataset
    if dataset is None or 'pipeline' not in dataset:
        raise KeyError(
            'the config has no train_dataloader.dataset.pipeline, from which loading is taken'
        )
    return dataset


class SweepPipeline:
    """Read one sweep as the config's training pipeline does, but without augmentation.

    Args:
        cfg: A pre-training config. Its ``load_pipeline`` is used; without one, the pipeline of
            ``train_dataloader.dataset`` less its random transforms.

    Raises:
        KeyError: If there is neither.
    """

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        from mmjepa.registry import TRANSFORMS

        dataset = dataset_config(cfg)
        pipeline = cfg.get('load_pipeline') or dataset['pipeline']
        configs = [dict(t) for t in pipeline if not is_augmentation(t)]
        self.names = [_name(t) for t in configs]
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmjepa')):
            self.transforms = [TRANSFORMS.build(t) for t in configs]
        self.fixed = {
            key: dataset[key] for key in ('load_dim', 'use_dim', 'data_root') if key in dataset
        }

    def __call__(self, sweep: Sweep, index: int = 0) -> dict[str, Any]:
        """Pack one sweep.

        Args:
            sweep: A file, or points (N, F) with the file's columns, x y z first, in metres.
            index: Takes the place of the sample's number; voxel caps draw from it.

        Returns:
            What ``PackJEPAInputs`` makes: ``inputs={'points': (N', F')}``, ``data_samples``.

        Raises:
            ValueError: If an array isn't (N, >=3), or the sweep is bad; the message says why.
        """
        results = dict(self.fixed, index=index, sample_seed=index, rng=np.random.default_rng(index))
        skip: Sequence[str] = ()
        if isinstance(sweep, str | Path):
            results['path'] = str(sweep)
        else:
            results.update(path='<array>', points=self._from_array(sweep))
            skip = _FILE_TRANSFORMS
        for name, transform in zip(self.names, self.transforms, strict=True):
            if name not in skip:
                results = transform(results)
        return results

    def _from_array(self, sweep: NDArray[Any] | Tensor) -> NDArray[np.float32]:
        from mmjepa.datasets.point_files import keep_valid, select_columns

        if isinstance(sweep, Tensor):
            sweep = sweep.detach().cpu().numpy()
        points = np.array(sweep, dtype=np.float32)  # a copy: transforms may write into it
        if points.ndim != 2 or points.shape[1] < 3 or len(points) == 0:
            raise ValueError(
                f'a sweep must be (N, F) with N > 0 and F >= 3: x y z (metres), ...; '
                f'got shape {points.shape}'
            )
        load = next(
            (t for n, t in zip(self.names, self.transforms, strict=True) if n == 'LoadPoints'), None
        )
        use_dim = getattr(load, 'use_dim', None)
        use_dim = self.fixed.get('use_dim') if use_dim is None else use_dim
        return keep_valid(select_columns(points, use_dim, '<array>'), '<array>')


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Packed samples as a batch for the model's preprocessor."""
    keys = samples[0]['inputs'].keys()
    return {
        'inputs': {k: [s['inputs'][k] for s in samples] for k in keys},
        'data_samples': [s['data_samples'] for s in samples],
    }


def preprocess(model: Any, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Packed samples to the ``inputs`` of ``extract_feat``, on the model's device."""
    # voxelisation never needs a gradient
    with torch.no_grad():
        return model.data_preprocessor(collate(samples), training=False)['inputs']
