"""mmseg ``VisionTransformer(with_cls_token=False, final_norm=True, patch_bias=True)``.

It always has a class token and a row of the position table for it, which it cuts off before the
first layer. Both are written as zeros; a file in which they aren't comes from a network that may
attend to its class token, and is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.mmpretrain import LAYERS, OUTSIDE
from mmjepa.adapters.names import Names, ViTNames
from mmjepa.engine.checkpoint import CheckpointError


class MMSegAdapter(ViTNames):
    """mmpretrain's names, but attention is a ``MultiheadAttention``."""

    name = 'mmseg'
    tables = (
        Names(
            'layers.{}.',
            {**LAYERS, 'attn.qkv.': 'attn.attn.in_proj_', 'attn.proj.': 'attn.attn.out_proj.'},
            OUTSIDE,
        ),
    )

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename, and take the class token and its position off.

        Raises:
            CheckpointError: They aren't zero.
        """
        token, table = state.pop('cls_token', None), state.get('pos_embed')
        if token is not None and table is not None and table.ndim == 3:
            if bool(token.any()) or bool(table[:, :1].any()):
                raise CheckpointError(
                    'the class token is not zero: a network trained with with_cls_token=True is '
                    'no ViT without class token'
                )
            state['pos_embed'] = table[:, 1:]
        return super().decode(state)

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename; class token and its position are zeros."""
        zeros = torch.zeros_like(state['pos_embed'][:, :1])
        state = super().encode(state)
        return {
            **state,
            'pos_embed': torch.cat([zeros, state['pos_embed']], 1),
            'cls_token': zeros.clone(),
        }

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to build the backbone."""
        size, patch = (json.loads(encoder.meta['vit'])[k] for k in ('img_size', 'patch_size'))
        return [
            f"backbone=dict(type='VisionTransformer', img_size={tuple(size)}, patch_size={patch}, "
            'patch_bias=True, with_cls_token=False, final_norm=True, '
            "norm_cfg=dict(type='LN', eps=1e-6), "
            f"init_cfg=dict(type='Pretrained', checkpoint='{out}'))"
        ]
