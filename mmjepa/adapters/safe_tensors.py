"""safetensors: the bare encoder in the common form, provenance as metadata, no pickle at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmjepa.adapters.base import FAMILIES, EncoderAdapter


class SafetensorsAdapter(EncoderAdapter):
    """Keys without prefix, so that the encoder's ``load_state_dict`` takes them directly."""

    name = 'safetensors'
    families = FAMILIES
    prefixes = ('',)

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """By the metadata that was written with the file."""
        meta = checkpoint.get('meta')
        return isinstance(meta, Mapping) and meta.get('format') == self.name
