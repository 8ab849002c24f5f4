"""Batches in the shapes that a config's loader gives, made of random bytes."""

from typing import Any

import torch

from mmjepa.engine.config import ConfigError
from mmjepa.models.preprocessors import ImagePreprocessor, VideoPreprocessor


def clips_per_sample(cfg: Any) -> int:
    """Clips that a config's pipeline takes from each video."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    return next((t.get('num_clips', 1) for t in pipeline if t['type'] == 'SampleClips'), 1)


def batch_shape(cfg: Any, model: Any) -> tuple[str, tuple[int, ...]]:
    """Name and shape of a batch of bytes.

    Args:
        cfg: of the training.
        model: built from ``cfg.model``, on any device.

    Returns:
        ``'image'`` and (B, 3, H, W), or ``'video'`` and (B, n, T, H, W, 3).

    Raises:
        ConfigError: the method takes neither, as point clouds, of which no shape is known.
    """
    preprocessor = model.data_preprocessor
    batch = cfg.train_dataloader.batch_size
    if isinstance(preprocessor, VideoPreprocessor):
        clips = clips_per_sample(cfg)
        return 'video', (batch, clips, model.encoder.num_frames, *model.encoder.img_size, 3)
    if isinstance(preprocessor, ImagePreprocessor):
        return 'image', (batch, 3, *model.encoder.img_size)
    raise ConfigError(
        f'no synthetic batches for {type(preprocessor).__name__}: what a sweep costs depends on '
        'its points; leave --synthetic out and name sweeps with --cfg-options data_root=FOLDER'
    )


def synthetic_batch(cfg: Any, model: Any, seed: int) -> dict[str, Any]:
    """A batch as the loader's collate function gives it.

    Args:
        cfg: of the training.
        model: built from ``cfg.model``.
        seed: of bytes and masks.

    Returns:
        ``inputs`` and ``data_samples``.

    Raises:
        ConfigError: see :func:`batch_shape`.
    """
    name, shape = batch_shape(cfg, model)
    generator = torch.Generator().manual_seed(seed)
    values = torch.empty(shape, dtype=torch.uint8).random_(0, 256, generator=generator)
    samples = [dict(sample_seed=hash((seed, i)) % 2**62, path='') for i in range(shape[0])]
    return dict(inputs={name: values}, data_samples=samples)
