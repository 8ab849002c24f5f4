"""What can be changed on the way: the grid of the position table, and the number of heads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.vit_encoder import VIT
from mmjepa.models.layers.positions import resize_positions


def adjust_vit(
    encoder: Encoder, img_size: int | Sequence[int] | None = None, heads: int | None = None
) -> Encoder:
    """A ViT encoder for other images.

    Args:
        encoder: From :func:`mmjepa.adapters.read_encoder`.
        img_size: Native pixels wanted, one number or (height, width); position tables, those of its
            companions too, are interpolated bicubically in float32.
        heads: Attention heads, where the file doesn't tell them.

    Returns:
        A new encoder, or the same one where nothing is asked for.

    Raises:
        ValueError: Not a ViT, pixels that aren't whole patches, or heads that don't divide it.
    """
    if img_size is None and heads is None:
        return encoder
    if encoder.family is not VIT:
        raise ValueError(f'--img-size and --heads are for a {VIT}; this is a {encoder.family}')
    config = json.loads(encoder.meta['vit'])
    state, companions, notes = dict(encoder.state), encoder.companions, list(encoder.notes)
    if heads is not None:
        width, depth, known, mlp = config['arch']
        if heads < 1 or width % heads:
            raise ValueError(f'--heads {heads}: no divisor of the width {width}')
        config['arch'] = [width, depth, heads, mlp]
        notes.append(f'{heads} heads as asked for, {known or "unknown"} before')
    if img_size is not None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        patch, native = config['patch_size'], config['img_size']
        if height < 1 or width < 1 or height % patch or width % patch:
            raise ValueError(
                f'--img-size {height} {width}: not whole patches of {patch} x {patch} pixels'
            )
        old, new = ((h // patch, w // patch) for h, w in (native, (height, width)))
        state = _resized(state, old, new)
        companions = {name: _resized(part, old, new) for name, part in companions.items()}
        config['img_size'] = [height, width]
        notes.append(f'positions interpolated from {old[0]} x {old[1]} to {new[0]} x {new[1]}')
    meta = {**encoder.meta, 'vit': json.dumps(config)}
    return dataclasses.replace(encoder, state=state, companions=companions, meta=meta, notes=notes)


def _resized(
    state: dict[str, Tensor], old: tuple[int, int], new: tuple[int, int]
) -> dict[str, Tensor]:
    if 'pos_embed' not in state:
        return state
    return {**state, 'pos_embed': resize_positions(state['pos_embed'], old, new).contiguous()}
