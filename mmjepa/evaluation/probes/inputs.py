"""What a config's model eats decides which probe fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import DefaultScope


def input_kind(cfg: Mapping[str, Any]) -> str:
    """'points' (BEV cells are probed), or 'images' or 'videos' (whole ones are).

    Args:
        cfg: A pre-training config.

    Raises:
        ValueError: If there is no probe for what the config's preprocessor takes.
    """
    from mmjepa.models.preprocessors.image import ImagePreprocessor
    from mmjepa.models.preprocessors.video import VideoPreprocessor
    from mmjepa.registry import MODELS

    settings = cfg['model'].get('data_preprocessor') or {}
    if 'point_cloud_range' in settings:
        return 'points'
    kind = settings.get('type')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmjepa')):
        cls = MODELS.get(kind) if isinstance(kind, str) else kind
    for base, name in ((VideoPreprocessor, 'videos'), (ImagePreprocessor, 'images')):
        if isinstance(cls, type) and issubclass(cls, base):
            return name
    raise ValueError(
        f'no probe for the inputs of {kind!r} (model.data_preprocessor): probes know LiDAR '
        'sweeps, images and videos'
    )
