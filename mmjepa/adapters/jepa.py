"""Checkpoints of this toolkit: ``encoder.`` (trained online) and ``target.encoder.`` (its EMA)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmjepa.adapters.base import FAMILIES, Encoder, EncoderAdapter
from mmjepa.adapters.config_text import model_of
from mmjepa.adapters.vit_encoder import facts_of_config


class MMJEPAAdapter(EncoderAdapter):
    """mmjepa checkpoint; the paper's users fine-tune the online encoder."""

    name = 'mmjepa'
    families = FAMILIES
    prefixes = ('encoder.',)
    which = {'online': 'encoder.', 'target': 'target.encoder.'}

    def read(
        self,
        checkpoint: Mapping[str, Any],
        source: str,
        prefix: str | None = None,
        layout: str = 'KRSC',
    ) -> Encoder:
        """As the base's; a target with a config of its own (SALT's teacher) is no companion."""
        place = self.which['target']
        teacher = _teacher_of(checkpoint.get('meta'))
        state = self.tensors(checkpoint, source)
        kept = {k: v for k, v in state.items() if k.startswith(place) == (prefix == place)}
        if not teacher or len(kept) == len(state):
            return super().read(checkpoint, source, prefix, layout)
        meta = dict(checkpoint['meta'])
        if prefix == place:
            meta['vit'] = json.dumps(teacher)
        encoder = super().read(dict(meta=meta, state_dict=kept), source, prefix, layout)
        other = 'student' if prefix == place else 'teacher'
        encoder.notes.append(f'left out {len(state) - len(kept)} tensors of its {other}')
        return encoder


def _teacher_of(meta: Any) -> dict[str, Any]:
    """Facts of a target that is no copy of the online encoder; {} without one."""
    target = model_of(meta).get('target')
    return facts_of_config(target.get('encoder') if isinstance(target, dict) else None)
