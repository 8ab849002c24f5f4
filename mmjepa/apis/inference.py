"""Build a model from a config and a checkpoint, and take features from a sweep."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import Tensor

from .sweeps import Sweep, SweepPipeline, preprocess


def resolve_config(config: str | Path | Config, cfg_options: Mapping[str, Any] | None) -> Config:
    """A loaded config with its overrides applied.

    Raises:
        TypeError: If ``config`` is neither a path nor a Config.
        KeyError: If it has no model.
    """
    if isinstance(config, Config):
        cfg = config.copy()
        if cfg_options:
            cfg.merge_from_dict(dict(cfg_options))
    elif isinstance(config, str | Path):
        from mmjepa.engine.config import load_config

        cfg = load_config(str(config), dict(cfg_options) if cfg_options else None)
    else:
        raise TypeError(f'config must be a path or a Config, got {type(config).__name__}')
    if 'model' not in cfg:
        raise KeyError(f'{cfg.filename or "the config"} has no model')
    return cfg


def init_quietly(model: Any) -> None:
    """``model.init_weights()`` without MMEngine's paragraph about every single tensor."""
    model._dump_init_info = lambda *args: None
    try:
        model.init_weights()
    finally:
        del model._dump_init_info


def _warn_other_grid(cfg: Config, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    from mmjepa.engine.trained_with import other_grid

    for difference in other_grid(checkpoint, cfg):
        print_log(
            f'{path} was {difference}: use the config in its work dir, or the same --cfg-options',
            'current',
            level=logging.WARNING,
        )


def _load_weights(model: Any, checkpoint: str | Path, cfg: Config) -> None:
    from mmjepa.engine.checkpoint import find_state_dict, load_file, load_verified

    content = load_file(checkpoint)
    state, _ = find_state_dict(content)
    _warn_other_grid(cfg, content, checkpoint)
    what = f'{type(model).__name__} from {checkpoint}'
    if state and all(key.startswith('encoder.') for key in state):
        # an exported encoder; target and predictor stay as they are
        encoder = {key.removeprefix('encoder.'): value for key, value in state.items()}
        load_verified(model.encoder, encoder, what=f'encoder of {what}')
    else:
        load_verified(model, content, what=what)  # its meta tells the method


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device = 'cpu',
    cfg_options: Mapping[str, Any] | None = None,
) -> Any:
    """Build a method in eval mode.

    Args:
        config: Path of a pre-training config, or a loaded one.
        checkpoint: A training checkpoint, or an exported encoder (keys ``encoder.*``). None leaves
            the random initialisation, which follows torch's global seed.
        device: Where the model goes.
        cfg_options: Overrides, as ``--cfg-options`` of ``tools/train.py``. With a loaded config
            they change single entries and nothing that was computed from them.

    Returns:
        The model, with the config as ``model.cfg``.

    Raises:
        FileNotFoundError: If the config or checkpoint doesn't exist.
        RuntimeError: If the checkpoint doesn't fit completely.

    Example:
        >>> model = init_model('configs/adl_jepa/kitti.py', 'work_dirs/adl_jepa/kitti/last.pth')
        >>> bev = extract_bev(model, 'data/kitti/training/velodyne/000000.bin')  # (C, h, w)
    """
    from mmjepa.registry import MODELS

    cfg = resolve_config(config, cfg_options)
    # MMEngine's base model builds its preprocessor from the root registry: it needs the scope
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmjepa')):
        model = MODELS.build(cfg.model)
    if checkpoint is None:
        init_quietly(model)
    else:
        _load_weights(model, checkpoint, cfg)
    model.cfg = cfg
    return model.to(device).eval()


def sweep_pipeline(model: Any) -> SweepPipeline:
    """The loading pipeline of a model made by :func:`init_model`; made once and kept.

    Raises:
        AttributeError: If the model carries no config.
    """
    if getattr(model, 'cfg', None) is None:
        raise AttributeError(
            f'{type(model).__name__} has no .cfg; make it with mmjepa.apis.init_model, '
            'or set model.cfg'
        )
    pipeline = getattr(model, '_sweep_pipeline', None)
    if pipeline is None:
        pipeline = model._sweep_pipeline = SweepPipeline(model.cfg)
    return pipeline


@torch.no_grad()
def extract_bev(model: Any, sweep: Sweep, index: int = 0) -> Tensor:
    """BEV features of a whole, unmasked sweep.

    Args:
        model: From :func:`init_model`.
        sweep: A file in a format that the config's loading reads, or points (N, F), x y z
            (metres, LiDAR frame) first, with the columns of such a file.
        index: Seed of the choice where a sweep has more voxels than fit.

    Returns:
        (C, h, w) on the model's device; rows are y, columns x.

    Raises:
        ValueError: If the sweep is unusable; the message names file and reason.
    """
    inputs = preprocess(model, [sweep_pipeline(model)(sweep, index)])
    was_training = model.training
    model.eval()
    try:
        return model.extract_feat(inputs)[0]
    finally:
        model.train(was_training)
