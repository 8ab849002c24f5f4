"""ViTDet backbones: mmdet's ``ViT`` with ``pretrain_use_cls_token=False`` and ours.

timm's names without the final norm, below ``model``, where mmdet's backbone looks for them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.family import Family
from mmjepa.adapters.names import ViTNames


class ViTDetAdapter(ViTNames):
    """The final norm has no place in it; an encoder read back has ``final_norm=False``."""

    name = 'vitdet'
    needs = ('pos_embed',)

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """By the lack of a final norm, and ``model`` or a detector's prefix."""
        keys = set(keys)
        place = 'model' in checkpoint or 'backbone.patch_embed.proj.weight' in keys
        normed = {'norm.weight', 'backbone.norm.weight'} & keys
        return place and not normed and super().recognises(checkpoint, keys)

    def facts(self, checkpoint: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """What the file tells, but no final norm."""
        return {**super().facts(checkpoint, family), 'final_norm': False}

    def adapt(self, encoder: Encoder) -> Encoder:
        """Leave the final norm out."""
        super().adapt(encoder)
        state = {k: v for k, v in encoder.state.items() if not k.startswith('norm.')}
        config = {**json.loads(encoder.meta['vit']), 'final_norm': False}
        meta = {**encoder.meta, 'vit': json.dumps(config)}
        return dataclasses.replace(encoder, state=state, meta=meta)

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """Weights below ``model``."""
        return {'meta': meta, 'model': collections.OrderedDict(state)}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """What is not in it."""
        return ['the final norm is left out: ViTDet backbones have none']
