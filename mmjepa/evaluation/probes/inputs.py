"""What a config's model eats decides which probe fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import DefaultScope


def input_kind(cfg: Mapping[str, Any]) -> str:
    """'points' (BEV cells are probed) or 'images' (whole images are).

    Args:
        cfg: A pre-training config.

    Raises:
        ValueError: If there is no probe for what the config's preprocessor takes.
    """
    from mmjepa.models.preprocessors.image import ImagePreprocessor
    from mmjepa.registry import MODELS

    settings = cfg['model'].get('data_preprocessor') or {}
    if 'point_cloud_range' in settings:
        return 'points'
    kind = settings.get('type')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmjepa')):
        cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if isinstance(cls, type) and issubclass(cls, ImagePreprocessor):
        return 'images'
    raise ValueError(
        f'no probe for the inputs of {kind!r} (model.data_preprocessor): probes know LiDAR sweeps '
        'and images'
    )
