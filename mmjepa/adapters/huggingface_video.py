"""Hugging Face ``transformers``: ``VJEPA2Model`` as a folder or as a bare state dict.

Its encoder computes what ours with ``positions='rotary_vjepa2'`` does; clips are (B, T, C, H, W)
there. Its predictor has our weights but another use: it gets the encoding of the whole clip at the
context's places and asks with mask token 1.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.config_text import model_of
from mmjepa.adapters.family import Family
from mmjepa.adapters.huggingface import EPS, HuggingFaceAdapter, join_qkv, split_qkv
from mmjepa.adapters.ijepa import check_predictor
from mmjepa.adapters.names import Names, ViTNames
from mmjepa.adapters.vjepa import released_facts, require_released_form, taken_for_granted
from mmjepa.engine.checkpoint import CheckpointError

_INNER = {
    'norm1.': 'norm1.',
    'attn.q.': 'attention.query.',
    'attn.k.': 'attention.key.',
    'attn.v.': 'attention.value.',
    'attn.proj.': 'attention.proj.',
    'norm2.': 'norm2.',
    'mlp.fc1.': 'mlp.fc1.',
    'mlp.fc2.': 'mlp.fc2.',
}
ENCODER = Names(
    'layer.{}.',
    _INNER,
    {'patch_embed.proj.': 'embeddings.patch_embeddings.proj.', 'norm.': 'layernorm.'},
)
PREDICTOR = Names(
    'layer.{}.',
    _INNER,
    {
        'embed.': 'embeddings.predictor_embeddings.',
        'mask_token': 'embeddings.mask_tokens',
        'norm.': 'layernorm.',
        'proj.': 'proj.',
    },
)
PREDICTOR_HEADS = 12  # V-JEPA 2's


def _ratio(hidden: int, width: int) -> float:
    """The ratio r for which int(width * r) is ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


class HuggingFaceVideoAdapter(HuggingFaceAdapter):
    """A folder of ``config.json`` and ``model.safetensors``; a state dict if OUT is a ``.pth``."""

    name = 'hf_vjepa2'
    prefixes = ('encoder.', 'vjepa2.encoder.')
    heads = ()
    tables = (ENCODER,)
    needs = ('norm.weight',)
    clips = True

    def facts(self, checkpoint: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """What ``config.json`` and the meta tell, or else what the released models have.

        Raises:
            CheckpointError: The folder holds another model, or one that computes otherwise.
        """
        anchor = self.anchor(family)
        state = self.tensors(checkpoint, 'the file')
        found = [v for k, v in state.items() if k.endswith(anchor)]
        facts = released_facts(found[0] if found else None)
        facts |= ViTNames.facts(self, checkpoint, family)
        config = checkpoint.get('config')
        if config is None:
            return facts
        for key, wanted in (('model_type', 'vjepa2'), ('hidden_act', 'gelu'), ('qkv_bias', True)):
            if config.get(key, wanted) != wanted:
                raise CheckpointError(
                    f'config.json says {key} {config[key]!r}; only {wanted!r} can be carried'
                )
        size, width, ratio = (config.get(k) for k in ('crop_size', 'hidden_size', 'mlp_ratio'))
        arch = [config.get(k) for k in ('hidden_size', 'num_hidden_layers', 'num_attention_heads')]
        told = dict(
            arch=[*arch, int(width * ratio) if width and ratio else None],
            img_size=size and [size, size],
            patch_size=config.get('patch_size'),
            num_frames=config.get('frames_per_clip'),
            tubelet_size=config.get('tubelet_size'),
            in_channels=config.get('in_chans'),
        )
        return {**facts, **{k: v for k, v in told.items() if v is not None}}

    def read(
        self,
        checkpoint: Mapping[str, Any],
        source: str,
        prefix: str | None = None,
        layout: str = 'KRSC',
    ) -> Encoder:
        """As the base's; also says what was taken for granted."""
        encoder = super().read(checkpoint, source, prefix, layout)
        if 'config' not in checkpoint and 'vit' not in encoder.meta:
            encoder.notes.append(taken_for_granted(encoder))
        return encoder

    def _companions(
        self, given: Mapping[str, Tensor], prefix: str, family: Family
    ) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
        place = prefix.removesuffix('encoder.') + 'predictor.'
        found = {k.removeprefix(place): v for k, v in given.items() if k.startswith(place)}
        return ({'predictor': self.decode_predictor(found)}, (place,)) if found else ({}, ())

    def decode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their names to those of :class:`ViTPredictor`."""
        ours = {PREDICTOR.ours(k) or f'{k} (unknown name)': v for k, v in state.items()}
        if 'mask_token' in ours:
            ours['mask_token'] = ours['mask_token'].flatten(1, 2)
        return join_qkv(ours)

    def encode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of :meth:`decode_predictor`."""
        theirs = {PREDICTOR.theirs(k): v for k, v in split_qkv(state).items()}
        key = PREDICTOR.theirs('mask_token')
        return theirs | {key: theirs[key][:, None]}

    def adapt(self, encoder: Encoder) -> Encoder:
        """The encoder, and the predictor if there is one.

        Raises:
            ValueError: Other positions than the released ones, or frames that aren't square.
            CheckpointError: The predictor is damaged or predicts another width.
        """
        ViTNames.adapt(self, encoder)
        require_released_form(encoder, self.name)
        size = json.loads(encoder.meta['vit'])['img_size']
        if size[0] != size[1]:
            raise ValueError(
                f'--to {self.name} is for square frames, not {size[0]} x {size[1]}: transformers '
                'would number their patches wrongly; give --img-size'
            )
        parts = {k: v for k, v in encoder.companions.items() if k == 'predictor'}
        for part in parts.values():
            check_predictor(part, encoder.state, 'the predictor', one_token=False)
        return dataclasses.replace(encoder, companions=parts)

    def layout(self, encoder: Encoder, prefix: str) -> dict[str, Tensor]:
        """Encoder and predictor by their names.

        Raises:
            ValueError: Another prefix than theirs.
        """
        if prefix not in self.prefixes:
            raise ValueError(f'--prefix {prefix}: choose one of {", ".join(self.prefixes)}')
        state = {prefix + k: v for k, v in self.encode(encoder.state).items()}
        place = prefix.removesuffix('encoder.') + 'predictor.'
        for part in encoder.companions.values():
            state |= {place + k: v for k, v in self.encode_predictor(part).items()}
        return state

    def sidecars(self, encoder: Encoder, out: Path) -> dict[str, str]:
        """``config.json`` of a folder.

        Raises:
            ValueError: The number of heads is unknown.
        """
        if self.main_file(out) == out:
            return {}
        config = json.loads(encoder.meta['vit'])
        width, depth, heads, mlp = config['arch']
        if heads is None:
            raise ValueError(
                f'config.json needs the heads of the ViT of width {width}: give --heads'
            )
        content = dict(
            architectures=['VJEPA2Model'],
            model_type='vjepa2',
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            mlp_ratio=_ratio(mlp, width),
            crop_size=config['img_size'][0],
            patch_size=config['patch_size'],
            frames_per_clip=config['num_frames'],
            tubelet_size=config['tubelet_size'],
            in_chans=config['in_channels'],
            hidden_act='gelu',
            qkv_bias=True,
            layer_norm_eps=EPS,
            dtype=str(encoder.state['norm.weight'].dtype).removeprefix('torch.'),
        )
        for state in encoder.companions.values():
            depths = {key.split('.')[1] for key in state if key.startswith('blocks.')}
            hidden, inner = len(state['embed.bias']), len(state['blocks.0.mlp.fc1.bias'])
            content |= dict(
                pred_hidden_size=hidden,
                pred_num_hidden_layers=len(depths),
                pred_num_attention_heads=_predictor_heads(encoder),
                pred_num_mask_tokens=len(state['mask_token']),
                pred_mlp_ratio=_ratio(inner, hidden),
            )
        return {'config.json': json.dumps(content, indent=2) + '\n'}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to load it, and what clips it wants."""
        use = f"VJEPA2Model.from_pretrained('{out}')"
        if self.main_file(out) == out:
            use = 'VJEPA2Model.from_pretrained(None, config=..., state_dict=...)'
        lines = [f'{use}; clips (B, T, C, H, W) normalised as in pre-training']
        if 'predictor' not in encoder.companions:
            return [*lines, 'no predictor was there: that of VJEPA2Model will be random']
        heads = _predictor_heads(encoder)
        return [*lines, f'its predictor gets {heads} heads and asks with mask token 1']


def _predictor_heads(encoder: Encoder) -> int:
    """As the training config says (by default the encoder's), or else V-JEPA 2's."""
    told = model_of(encoder.meta).get('predictor')
    if not told:
        return PREDICTOR_HEADS
    return told.get('num_heads') or json.loads(encoder.meta['vit'])['arch'][2]
