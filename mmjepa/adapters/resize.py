"""What can be changed on the way: positions, size of patches, number of heads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.vit_encoder import ANCHOR, VIT
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.models.encoders.jepa_vit import JEPAViT
from mmjepa.models.layers.positions import resize_positions


def adjust_vit(
    encoder: Encoder,
    img_size: int | Sequence[int] | None = None,
    heads: int | None = None,
    patch_size: int | None = None,
    num_frames: int | None = None,
) -> Encoder:
    """A ViT encoder for other images or clips.

    Args:
        encoder: From :func:`mmjepa.adapters.read_encoder`.
        img_size: Native pixels wanted, one number or (height, width); position tables, those of its
            companions too, are interpolated in float32: bicubically, of clips trilinearly.
        heads: Attention heads, where the file doesn't tell them.
        patch_size: Pixels of a patch wanted; kernels are resampled (:func:`resize_patches`), and
            the grid of patches stays.
        num_frames: Native length wanted of an encoder of clips.

    Returns:
        A new encoder, or the same one where nothing is asked for.

    Raises:
        ValueError: Not a ViT, pixels that aren't whole patches, frames that aren't whole tubelets
            or of an encoder of images, or heads that don't divide it.
    """
    if img_size is None and heads is None and patch_size is None and num_frames is None:
        return encoder
    if encoder.family is not VIT:
        raise ValueError(
            f'--img-size, --patch-size and --heads are for a {VIT}; this is a {encoder.family}'
        )
    config = json.loads(encoder.meta['vit'])
    state, companions, notes = dict(encoder.state), encoder.companions, list(encoder.notes)
    if heads is not None:
        width, depth, known, mlp = config['arch']
        if heads < 1 or width % heads:
            raise ValueError(f'--heads {heads}: no divisor of the width {width}')
        config['arch'] = [width, depth, heads, mlp]
        notes.append(f'{heads} heads as asked for, {known or "unknown"} before')
    if patch_size is not None and patch_size != config['patch_size']:
        if patch_size < 1:
            raise ValueError(f'--patch-size {patch_size}: give one pixel or more')
        old_size, config['patch_size'] = config['patch_size'], patch_size
        state = _other_patches(state, patch_size)
        companions = {name: _other_patches(part, patch_size) for name, part in companions.items()}
        if config['img_size'] is not None:
            config['img_size'] = [n // old_size * patch_size for n in config['img_size']]
        notes.append(f'patch kernels resampled from {old_size} to {patch_size} pixels')
    if img_size is not None or num_frames is not None:
        old = _native(config) if 'pos_embed' in state else ()
        _set_size(config, img_size, num_frames)
        if old and old != (new := _native(config)):
            state = _resized(state, old, new)
            companions = {name: _resized(part, old, new) for name, part in companions.items()}
            before, after = (' x '.join(map(str, grid)) for grid in (old, new))
            notes.append(f'positions interpolated from {before} to {after}')
    meta = {**encoder.meta, 'vit': json.dumps(config)}
    return dataclasses.replace(encoder, state=state, companions=companions, meta=meta, notes=notes)


def _native(config: dict) -> tuple[int, ...]:
    """The grid of positions."""
    frames = (config['num_frames'] // config['tubelet_size'],) if 'num_frames' in config else ()
    return *frames, *(n // config['patch_size'] for n in config['img_size'])


def _set_size(config: dict, img_size: int | Sequence[int] | None, num_frames: int | None) -> None:
    if img_size is not None:
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        patch = config['patch_size']
        if height < 1 or width < 1 or height % patch or width % patch:
            raise ValueError(
                f'--img-size {height} {width}: not whole patches of {patch} x {patch} pixels'
            )
        config['img_size'] = [height, width]
    if num_frames is not None:
        tubelet = config.get('tubelet_size')
        if tubelet is None:
            raise ValueError('--num-frames is for encoders of clips, and this one takes images')
        if num_frames < 1 or num_frames % tubelet:
            raise ValueError(f'--num-frames {num_frames}: not whole tubelets of {tubelet} frames')
        config['num_frames'] = num_frames


def fit_vit(encoder: Encoder, module: JEPAViT) -> tuple[dict[str, Tensor], list[str]]:
    """Weights for a ViT of another resolution, with or without final norm.

    Args:
        encoder: From :func:`mmjepa.adapters.read_encoder`.
        module: The receiver. Its relative positions, of which pre-training knows nothing, stay.

    Returns:
        A state dict with every key of ``module``, and what was done.

    Raises:
        CheckpointError: No ViT, another architecture, an encoder of clips for images or the
            reverse, or another form of rotary positions.
        ValueError: See :func:`adjust_vit`.
    """
    if encoder.family is not VIT:
        raise CheckpointError(f'it holds a {encoder.family}, and the model has a {VIT}')
    config = json.loads(encoder.meta['vit'])
    clips = 'tubelet_size' in config
    if clips != (module.num_frames is not None):
        kinds = ('clips', 'images') if clips else ('images', 'clips')
        raise CheckpointError(f'its encoder takes {kinds[0]}, the model {kinds[1]}')
    if module.rotary and config['positions'] != module.positions:
        raise CheckpointError(
            f'it was trained with positions {config["positions"]!r}, the model has '
            f'{module.positions!r}'
        )
    own = module.state_dict()
    mlp_dim = own['blocks.0.mlp.fc1.weight'].shape[0]
    ours = [module.out_channels, len(module.blocks), module.num_heads, mlp_dim]
    arch = [told or mine for told, mine in zip(config['arch'], ours, strict=True)]
    if arch != ours:
        names = ('channels', 'blocks', 'heads', 'MLP width')
        theirs, here = (
            ', '.join(f'{n} {name}' for n, name in zip(sizes, names, strict=True))
            for sizes in (arch, ours)
        )
        raise CheckpointError(
            f'it was trained with {theirs}; the model has {here}: set '
            f'arch={str(arch).replace(" ", "")} and, where the config has it, channels={arch[0]}'
        )
    fitted = adjust_vit(
        encoder, module.img_size, patch_size=module.patch_size, num_frames=module.num_frames
    )
    state, notes = fitted.state, fitted.notes
    if 'norm.weight' not in own and 'norm.weight' in state:
        state = {k: v for k, v in state.items() if not k.startswith('norm.')}
        notes = [*notes, 'the final norm is left out: the model has none']
    fresh = {k: v for k, v in own.items() if '.rel_pos_' in k and k not in state}
    if fresh:
        notes = [*notes, f'{len(fresh)} tables of relative positions start as they are']
    return {**state, **fresh}, notes


def resize_patches(weight_DCpp: Tensor, size: int) -> Tensor:
    """Kernels of patches of another size that give the same tokens for images resized likewise.

    The pseudo-inverse of bilinear resizing (FlexiViT, arXiv 2212.08013): exact where patches grow.

    Args:
        weight_DCpp: (D, C, p, p), or (D, C, frames, p, p).
        size: q.

    Returns:
        (D, C, q, q) or (D, C, frames, q, q) in the type of the weight.
    """
    p = weight_DCpp.shape[-1]
    pixels = torch.eye(p * p, dtype=torch.float64).view(-1, 1, p, p)
    resizing = F.interpolate(pixels, (size, size), mode='bilinear', antialias=True).flatten(1)
    kernels = weight_DCpp.double().flatten(-2) @ torch.linalg.pinv(resizing).T
    return kernels.unflatten(-1, (size, size)).to(weight_DCpp.dtype)


def _other_patches(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    if ANCHOR not in state:  # a predictor
        return state
    return {**state, ANCHOR: resize_patches(state[ANCHOR], size)}


def _resized(
    state: dict[str, Tensor], old: tuple[int, ...], new: tuple[int, ...]
) -> dict[str, Tensor]:
    if 'pos_embed' not in state:
        return state
    return {**state, 'pos_embed': resize_positions(state['pos_embed'], old, new).contiguous()}
