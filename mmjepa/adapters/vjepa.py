"""Official V-JEPA and V-JEPA 2 checkpoints: I-JEPA's three parts, wrapped once more.

Every key starts with ``module.backbone.``, and the mask tokens are apart, one a mask generator.
V-JEPA 2's files carry position tables although its blocks turn queries and keys; these two are
dropped, by name. Only the first of its mask tokens was ever trained; all are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.family import Family
from mmjepa.adapters.ijepa import IJEPAAdapter
from mmjepa.adapters.vit_encoder import ANCHOR
from mmjepa.engine.checkpoint import CheckpointError

TOKEN = 'mask_tokens.{}'


class VJEPAAdapter(IJEPAAdapter):
    """V-JEPA: sine-cosine tables of clips, whose size the table tells."""

    name = 'vjepa'
    title = 'V-JEPA'
    wrapper = 'module.backbone.'
    clips = True
    free_predictor = True

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """By the dicts, the patch kernel and, in files of ours, the meta.

        A file with tables may be of either method: then both fit, and ``--from`` must tell.
        """
        meta = checkpoint.get('meta')
        told = meta.get('format') if isinstance(meta, Mapping) else None
        if told in ('vjepa', 'vjepa2'):
            return told == self.name
        tables = 'pos_embed' not in self.needs or any(
            self._bare(key) == 'pos_embed' for key in checkpoint.get('target_encoder') or ()
        )
        return tables and super().recognises(checkpoint, keys)

    def decode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official names to those of :class:`ViTPredictor`; mask tokens are put together."""
        count = sum(key.startswith(TOKEN.format('')) for key in state)
        names = [TOKEN.format(i) for i in range(count)]
        if missing := [name for name in names if name not in state]:
            raise CheckpointError(f'the predictor has {count} mask tokens, but no {missing[0]}')
        rest = super().decode_predictor({k: v for k, v in state.items() if k not in names})
        return {'mask_token': torch.cat([state[n] for n in names]), **rest} if names else rest

    def encode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of :meth:`decode_predictor`."""
        rest = super().encode_predictor({k: v for k, v in state.items() if k != 'mask_token'})
        tokens = state['mask_token'].split(1) if 'mask_token' in state else ()
        return {TOKEN.format(i): token.clone() for i, token in enumerate(tokens)} | rest


# of the released models, whose files don't tell
RELEASED_HEADS = {1024: 16, 1280: 16, 1408: 22}
RELEASED_CLIP = dict(img_size=[256, 256], num_frames=64)


def released_facts(anchor: Tensor | None) -> dict[str, Any]:
    """What the kernel of the patches tells of a V-JEPA 2 encoder, as if it were a released one."""
    heads = None if anchor is None else RELEASED_HEADS.get(len(anchor))
    facts = dict(RELEASED_CLIP, positions='rotary_vjepa2')
    return {**facts, 'arch': [None, None, heads, None]} if heads else facts


def taken_for_granted(encoder: Encoder) -> str:
    """A remark on :func:`released_facts`."""
    config = json.loads(encoder.traits['vit'])
    heads = config['arch'][2]
    return (
        f'took {f"{heads} heads and " if heads else ""}clips of {config["num_frames"]} frames of '
        f'{config["img_size"][0]} x {config["img_size"][1]}, as in the released V-JEPA 2: the file '
        'does not tell (--heads, --num-frames, --img-size)'
    )


def require_released_form(encoder: Encoder, name: str) -> None:
    """Raise ValueError unless positions turn queries and keys as V-JEPA 2's released code does."""
    positions = json.loads(encoder.meta['vit'])['positions']
    if positions != 'rotary_vjepa2':
        raise ValueError(
            f"--to {name} is for encoders with positions='rotary_vjepa2', and this one has "
            f'{positions!r}: its outputs would differ there; --to mmjepa and safetensors carry it'
        )


class VJEPA2Adapter(VJEPAAdapter):
    """V-JEPA 2: rotary positions in the released form, and no trace of heads and clips."""

    name = 'vjepa2'
    title = 'V-JEPA 2'
    needs = ('norm.weight',)
    unused = ('encoder.pos_embed', 'target_encoder.pos_embed', 'predictor.predictor_pos_embed')

    def tensors(self, checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
        """The three parts without the position tables that nothing uses."""
        found = super().tensors(checkpoint, source)
        return {k: v for k, v in found.items() if k not in self.unused}

    def facts(self, checkpoint: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """What the file tells, or else what the released models have."""
        weights = self.tensors(checkpoint, 'the file')
        anchors = [v for k, v in weights.items() if k.endswith(ANCHOR)]
        return released_facts(anchors[0] if anchors else None) | super().facts(checkpoint, family)

    def read(
        self,
        checkpoint: Mapping[str, Any],
        source: str,
        prefix: str | None = None,
        layout: str = 'KRSC',
    ) -> Encoder:
        """As the base's; also says what was dropped and what was taken for granted."""
        encoder = super().read(checkpoint, source, prefix, layout)
        dropped = [k for k in super().tensors(checkpoint, source) if k in self.unused]
        if dropped:
            encoder.notes.append(f'left out {", ".join(dropped)}: its blocks use rotary positions')
        if 'vit' not in encoder.meta:
            encoder.notes.append(taken_for_granted(encoder))
        return encoder

    def adapt(self, encoder: Encoder) -> Encoder:
        """As the base's.

        Raises:
            ValueError: Other positions than the released ones.
        """
        require_released_form(encoder, self.name)
        return super().adapt(encoder)
