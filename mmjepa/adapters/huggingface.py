"""Hugging Face ``transformers``: ``IJepaModel`` as a folder or as a bare state dict.

Files carry the names that ``save_pretrained`` writes; ``from_pretrained`` maps them to those of the
model in memory (transformers 5), and both are read. ``layer_norm_eps`` is written as I-JEPA's 1e-6:
the default of ``IJepaConfig`` is 1e-12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.family import Family
from mmjepa.adapters.names import Names, ViTNames
from mmjepa.engine.checkpoint import CheckpointError

EPS = 1e-6
_OUTSIDE = {
    'pos_embed': 'embeddings.position_embeddings',
    'patch_embed.proj.': 'embeddings.patch_embeddings.projection.',
    'norm.': 'layernorm.',
}
# queries, keys and values are apart; the names on the left are of no ViT of ours
FILE = Names(
    'encoder.layer.{}.',
    {
        'norm1.': 'layernorm_before.',
        'attn.q.': 'attention.attention.query.',
        'attn.k.': 'attention.attention.key.',
        'attn.v.': 'attention.attention.value.',
        'attn.proj.': 'attention.output.dense.',
        'norm2.': 'layernorm_after.',
        'mlp.fc1.': 'intermediate.dense.',
        'mlp.fc2.': 'output.dense.',
    },
    _OUTSIDE,
)
MEMORY = Names(
    'layers.{}.',
    {
        'norm1.': 'layernorm_before.',
        'attn.q.': 'attention.q_proj.',
        'attn.k.': 'attention.k_proj.',
        'attn.v.': 'attention.v_proj.',
        'attn.proj.': 'attention.o_proj.',
        'norm2.': 'layernorm_after.',
        'mlp.fc1.': 'mlp.fc1.',
        'mlp.fc2.': 'mlp.fc2.',
    },
    _OUTSIDE,
)


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``attn.{q,k,v}`` to ``attn.qkv``; one without the others is left out."""
    joined = {}
    for key, value in state.items():
        parts = [key.replace('.attn.q.', f'.attn.{part}.') for part in 'qkv']
        if '.attn.q.' in key and all(part in state for part in parts):
            joined[key.replace('.attn.q.', '.attn.qkv.')] = torch.cat([state[p] for p in parts])
        elif not any(f'.attn.{part}.' in key for part in 'qkv'):
            joined[key] = value
    return joined


def split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``attn.qkv`` to ``attn.{q,k,v}``."""
    split = {}
    for key, value in state.items():
        if '.attn.qkv.' in key:
            for part, third in zip('qkv', value.chunk(3), strict=True):
                split[key.replace('.qkv.', f'.{part}.')] = third.clone()
        else:
            split[key] = value
    return split


class HuggingFaceAdapter(ViTNames):
    """A folder of ``config.json`` and ``model.safetensors``; a state dict if OUT is a ``.pth``."""

    name = 'hf'
    marker = 'pt'  # from_pretrained refuses safetensors with another format in their meta
    prefixes = ('', 'ijepa.')
    heads: tuple[str, ...] = ('pooler.', 'embeddings.mask_token')
    tables: tuple[Names, ...] = (FILE, MEMORY)
    telltale = 'blocks.0.attn.q.weight'

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename, and join queries, keys and values."""
        state, notes = super().decode(state)
        return join_qkv(state), notes

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split queries, keys and values, and rename."""
        return super().encode(split_qkv(state))

    def facts(self, checkpoint: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """What ``config.json`` tells, and the meta.

        Raises:
            CheckpointError: The folder holds another model, or one that computes otherwise.
        """
        config = checkpoint.get('config')
        facts = super().facts(checkpoint, family)
        if config is None:
            return facts
        for key, wanted in (('model_type', 'ijepa'), ('hidden_act', 'gelu'), ('qkv_bias', True)):
            if config.get(key, wanted) != wanted:
                raise CheckpointError(
                    f'config.json says {key} {config[key]!r}; only {wanted!r} can be carried'
                )
        size, patch = (config.get(k) for k in ('image_size', 'patch_size'))
        names = ('hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
        told = dict(
            arch=[config.get(name) for name in names],
            img_size=[size, size] if isinstance(size, int) else size,
            patch_size=patch[0] if isinstance(patch, list) else patch,
            in_channels=config.get('num_channels'),
        )
        return {**facts, **{k: v for k, v in told.items() if v is not None}}

    def read(
        self,
        checkpoint: Mapping[str, Any],
        source: str,
        prefix: str | None = None,
        layout: str = 'KRSC',
    ) -> Encoder:
        """As the base's; also says where the norms' eps differs from ours."""
        encoder = super().read(checkpoint, source, prefix, layout)
        eps = (checkpoint.get('config') or {}).get('layer_norm_eps', EPS)
        if eps != EPS:
            encoder.notes.append(
                f'its norms add {eps:g}, ours {EPS:g}: outputs differ by a few millionths'
            )
        return encoder

    def main_file(self, out: Path) -> Path:
        """``model.safetensors`` in the folder, or the file itself."""
        return out if out.suffix in ('.pth', '.pt', '.bin') else out / 'model.safetensors'

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
        size = config['img_size']
        content = dict(
            architectures=['IJepaModel'],
            model_type='ijepa',
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=mlp,
            image_size=size[0] if size[0] == size[1] else size,
            patch_size=config['patch_size'],
            num_channels=config['in_channels'],
            hidden_act='gelu',
            qkv_bias=True,
            layer_norm_eps=EPS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            dtype=str(encoder.state['norm.weight'].dtype).removeprefix('torch.'),
        )
        return {'config.json': json.dumps(content, indent=2) + '\n'}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to load it, and what images it wants."""
        use = f"IJepaModel.from_pretrained('{out}')"
        if self.main_file(out) == out:
            use = 'IJepaModel.from_pretrained(None, config=..., state_dict=...)'
        return [
            f"{use}; images normalised as in pre-training (ImageNet's mean and deviation, not "
            "ViTImageProcessor's 0.5)"
        ]
