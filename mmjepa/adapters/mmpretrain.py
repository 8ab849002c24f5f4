"""mmpretrain ``VisionTransformer(with_cls_token=False, out_type='featmap')``.

The position table is the stored one: mmpretrain's own sine-cosine table has rows and columns
swapped against I-JEPA's and must never replace it.
"""

from __future__ import annotations

from pathlib import Path

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.names import Names, ViTNames

LAYERS = {
    'norm1.': 'ln1.',
    'attn.qkv.': 'attn.qkv.',
    'attn.proj.': 'attn.proj.',
    'norm2.': 'ln2.',
    'mlp.fc1.': 'ffn.layers.0.0.',
    'mlp.fc2.': 'ffn.layers.1.',
}
OUTSIDE = {
    'pos_embed': 'pos_embed',
    'patch_embed.proj.': 'patch_embed.projection.',
    'norm.': 'ln1.',
}


class MMPretrainAdapter(ViTNames):
    """Other names for the same tensors."""

    name = 'mmpretrain'
    prefixes = ('backbone.', '')
    tables = (Names('layers.{}.', LAYERS, OUTSIDE),)

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to build the backbone."""
        return [
            "backbone=dict(type='VisionTransformer', with_cls_token=False, out_type='featmap', "
            f"init_cfg=dict(type='Pretrained', checkpoint='{out}', prefix='backbone'))"
        ]
