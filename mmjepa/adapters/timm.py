"""timm ``VisionTransformer(class_token=False, global_pool='avg', fc_norm=False)``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.names import ViTNames


class TimmAdapter(ViTNames):
    """The common form's keys; a network with class token, registers or ``fc_norm`` is refused."""

    name = 'timm'
    prefixes = ('',)
    heads = ('head.',)

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """Not our safetensors, and nothing that lacks the final norm."""
        meta = checkpoint.get('meta')
        ours = isinstance(meta, Mapping) and meta.get('format') == 'safetensors'
        return not ours and 'norm.weight' in keys and super().recognises(checkpoint, keys)

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to load it."""
        return [
            "timm.create_model(..., class_token=False, global_pool='avg', fc_norm=False, "
            f"num_classes=0, checkpoint_path='{out}')"
        ]
