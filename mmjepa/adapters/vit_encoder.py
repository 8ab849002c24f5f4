"""The common form of a vision transformer without class token: keys and tables of ``JEPAViT``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmjepa.adapters.config_text import model_of
from mmjepa.adapters.family import Family
from mmjepa.engine.checkpoint import CheckpointError, non_finite
from mmjepa.models.encoders.jepa_vit import ARCHITECTURES
from mmjepa.models.layers.positions import sincos_positions

ANCHOR = 'patch_embed.proj.weight'
INNER = ('norm1.', 'attn.qkv.', 'attn.proj.', 'norm2.', 'mlp.fc1.', 'mlp.fc2.')  # of a block
OUTER = ('patch_embed.proj.', 'norm.')
LEAVES = ('weight', 'bias')
# No tensor tells the number of heads: the images' ViT of each width (giant22 is V-JEPA 2's).
BY_WIDTH = {sizes[0]: sizes for name, sizes in ARCHITECTURES.items() if name != 'giant22'}


def vit_keys(depth: int) -> list[str]:
    """State-dict keys of ``JEPAViT`` with a position table and a final norm."""
    stems = [OUTER[0], *(f'blocks.{i}.{stem}' for i in range(depth) for stem in INNER), OUTER[1]]
    return ['pos_embed', *(stem + leaf for stem in stems for leaf in LEAVES)]


def block_shapes(depth: int, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    """Shapes in the blocks of encoders and predictors."""
    outputs = dict(zip(INNER, (width, 3 * width, width, width, mlp, width), strict=True))
    inputs = {**dict.fromkeys(INNER, width), 'mlp.fc2.': mlp}
    shapes: dict[str, tuple[int, ...]] = {}
    for stem in (f'blocks.{i}.{inner}' for i in range(depth) for inner in INNER):
        inner = stem.split('.', 2)[2]
        norm = inner.startswith('norm')
        shapes[f'{stem}weight'] = (outputs[inner],) if norm else (outputs[inner], inputs[inner])
        shapes[f'{stem}bias'] = (outputs[inner],)
    return shapes


def depth_of(state: Mapping[str, Any]) -> int:
    """Blocks, by the highest number among the keys."""
    numbers = [int(m[1]) for key in state if (m := re.match(r'blocks\.(\d+)\.', key))]
    return 1 + max(numbers, default=-1)


def check_keys(state: Mapping[str, Any], wanted: list[str], source: str, what: str) -> None:
    """Raise CheckpointError unless the keys are exactly these."""
    missing = [k for k in wanted if k not in state]
    unexpected = sorted(set(state) - set(wanted))
    if missing or unexpected:
        raise CheckpointError(
            f'{source} is no complete {what}: {len(missing)} of {len(wanted)} tensors missing '
            f'{missing[:4]}, {len(unexpected)} unexpected {unexpected[:4]}'
        )


def check_values(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Raise CheckpointError unless all shapes are these and all values finite."""
    for key, shape in shapes.items():
        if tuple(state[key].shape) != shape:
            raise CheckpointError(
                f'{source}: wrong shape: {key} is {tuple(state[key].shape)}, expected {shape}'
            )
    if bad := non_finite(state):
        raise CheckpointError(
            f'{source}: NaN or Inf in {len(bad)} tensors, first {bad[0]}; use a '
            'checkpoint from before the run diverged'
        )


def facts_of(meta: Any) -> dict[str, Any]:
    """Arguments of ``JEPAViT`` that a file tells: what an export noted, else the training config.

    Args:
        meta: Meta of the checkpoint.

    Returns:
        Some of the keys of :func:`vit_config_of`; heads may be None. {} where nothing is told.
    """
    if isinstance(meta, Mapping) and isinstance(meta.get('vit'), str):
        return json.loads(meta['vit'])
    return facts_of_config(model_of(meta).get('encoder'))


def facts_of_config(encoder: Any) -> dict[str, Any]:
    """See :func:`facts_of`; of the config of an encoder, whatever it is."""
    if not isinstance(encoder, dict) or not str(encoder.get('type', '')).endswith('JEPAViT'):
        return {}
    defaults = dict(arch='base', img_size=224, patch_size=16, in_channels=3)
    told = {**defaults, 'positions': 'sincos', 'final_norm': True, **encoder}
    size = told['img_size']
    names = ['patch_size', 'in_channels', 'positions', 'final_norm']
    if told.get('num_frames'):
        told.setdefault('tubelet_size', 2)
        names += ['num_frames', 'tubelet_size']
    facts = {key: told[key] for key in names}
    facts['img_size'] = [size, size] if isinstance(size, int) else size
    arch = told['arch']
    if isinstance(arch, list) or arch in ARCHITECTURES:
        facts['arch'] = list(arch if isinstance(arch, list) else ARCHITECTURES[arch])
    return {key: value for key, value in facts.items() if value is not None}


def _shape_config(state: Mapping[str, Tensor], source: str, facts: Mapping[str, Any]) -> dict:
    """Sizes by the shapes; those that the file's facts contradict are refused."""
    shape = tuple(state[ANCHOR].shape)
    if len(shape) not in (4, 5) or shape[-1] != shape[-2]:
        raise CheckpointError(
            f'{source}: wrong shape: {ANCHOR} is {shape}, expected (width, channels, p, p): '
            'an image encoder with square patches; or (width, channels, frames, p, p): one of clips'
        )
    first = state['blocks.0.mlp.fc1.weight']
    width, depth = shape[0], depth_of(state)
    told = facts.get('arch') or [None, None, None, None]
    heads = told[2] or (BY_WIDTH[width][2] if width in BY_WIDTH else None)
    found = dict(
        arch=[width, depth, heads, first.shape[0]], patch_size=shape[-1], in_channels=shape[1]
    )
    if len(shape) == 5:
        found['tubelet_size'] = shape[2]
    pairs = [
        ('width', width, told[0]),
        ('blocks', depth, told[1]),
        ('MLP width', first.shape[0], told[3]),
        ('patch size', shape[-1], facts.get('patch_size')),
        ('tubelet size', found.get('tubelet_size'), facts.get('tubelet_size')),
        ('channels', shape[1], facts.get('in_channels')),
    ]
    for name, ours, theirs in pairs:
        if theirs is not None and ours != theirs:
            raise CheckpointError(
                f'{source}: {name} {ours} by its tensors, {theirs} by its config: damaged or mixed'
            )
    return found


def _grid(count: int, patch: int, source: str, facts: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of a table of ``count`` positions."""
    if size := facts.get('img_size'):
        grid = (size[0] // patch, size[1] // patch)
        if grid[0] * grid[1] != count:
            raise CheckpointError(
                f'{source}: pos_embed has {count} positions, {grid[0]} x {grid[1]} by its config'
            )
        return grid
    side = math.isqrt(count)
    if side * side != count:
        more = math.isqrt(count - 1) ** 2 == count - 1
        raise CheckpointError(
            f'{source}: pos_embed has {count} positions, no square grid, and the file does not '
            f'tell its image size{"; one more than a square: a class token?" if more else ""}'
        )
    return side, side


def _clip_grid(
    table_ND: Tensor, patch: int, tubelet: int, source: str, facts: Mapping[str, Any]
) -> tuple[tuple[int, int, int], bool]:
    """Times, rows and columns of a table of clips, and whether it is the fixed one."""
    count, width = table_ND.shape
    grids = [(t, s, s) for t in range(1, count + 1) for s in [math.isqrt(count // t)]]
    told = bool(facts.get('num_frames') and facts.get('img_size'))
    if told:
        height, length = facts['img_size']
        grids = [(facts['num_frames'] // tubelet, height // patch, length // patch)]
    fits = [grid for grid in grids if math.prod(grid) == count]
    if told and not fits:
        raise CheckpointError(
            f'{source}: pos_embed has {count} positions, {" x ".join(map(str, grids[0]))} by its '
            'config'
        )
    for grid in fits:
        for equal_shares in (True, False) if width % 8 == 0 else (True,):
            fixed = sincos_positions(width, *grid, uniform_power=equal_shares)
            if torch.allclose(table_ND.float(), fixed, rtol=0, atol=1e-3):
                return grid, True
    if not told:
        raise CheckpointError(
            f'{source}: neither an image encoder with square patches nor one of clips: pos_embed '
            f'has {count} positions, no sine-cosine table of clips of square frames, and the file '
            'does not tell its num_frames and img_size'
        )
    return fits[0], False


def _describe(state: Mapping[str, Tensor], source: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """See :func:`vit_config_of`; heads are None where nothing tells them."""
    left_out = [*OUTER[1:]] if facts.get('final_norm') is False else []
    told = str(facts.get('positions'))
    left_out += ['pos_embed'] if told.startswith('rotary') else []
    depth = depth_of(state)
    wanted = [k for k in vit_keys(max(1, depth)) if not k.startswith(tuple(left_out))]
    check_keys(state, wanted, source, f'ViT encoder ({depth} blocks)')
    config = _shape_config(state, source, facts)
    width, mlp, patch = config['arch'][0], config['arch'][3], config['patch_size']
    shapes = {
        ANCHOR: tuple(state[ANCHOR].shape),
        'patch_embed.proj.bias': (width,),
        **block_shapes(depth, width, mlp),
        'norm.weight': (width,),
        'norm.bias': (width,),
    }
    tubelet = config.get('tubelet_size')
    if tubelet:
        config['num_frames'] = facts.get('num_frames')
    positions, img_size = told, facts.get('img_size')
    if 'pos_embed' in state:
        table = state['pos_embed']
        shapes['pos_embed'] = (1, table.shape[1] if table.ndim == 3 else -1, width)
    check_values(state, {k: v for k, v in shapes.items() if k in state}, source)
    if 'pos_embed' in state:
        # an EMA of the table rounds, so it is never bit-equal
        if tubelet:
            clip, fixed = _clip_grid(table[0], patch, tubelet, source, facts)
            config['num_frames'], grid = tubelet * clip[0], clip[1:]
        else:
            grid = _grid(table.shape[1], patch, source, facts)
            fixed = width % 4 == 0 and torch.allclose(
                table[0].float(), sincos_positions(width, *grid), rtol=0, atol=1e-3
            )
        img_size = [patch * n for n in grid]
        positions = facts.get('positions') or ('sincos' if fixed else 'learned')
    norm = 'norm.weight' in state
    return dict(config, img_size=img_size, positions=positions, final_norm=norm)


def vit_config_of(
    state: Mapping[str, Tensor], heads: int | None = None, source: str = 'the state dict'
) -> dict[str, Any]:
    """Arguments with which ``JEPAViT`` takes these weights.

    Args:
        state: Weights in the common form.
        heads: Attention heads, which no shape tells; None: those of the named ViT of this width.
        source: Origin of the weights in messages.

    Returns:
        ``arch`` (width, depth, heads, MLP width), ``img_size``, ``patch_size``, ``in_channels``,
        ``positions`` (``'sincos'`` if the table is that one within 1e-3) and ``final_norm``; of an
        encoder of clips also ``num_frames`` and ``tubelet_size``.

    Raises:
        CheckpointError: Not exactly the keys of such an encoder, shapes that don't chain, NaN or
            Inf, or positions that aren't a square grid.
        ValueError: No named ViT has this width, so that the heads must be given.
    """
    facts = dict(arch=[None, None, heads, None]) if heads else {}
    config = _describe(state, source, facts)
    width, depth, heads, mlp = config['arch']
    if heads is None:
        raise ValueError(f'{source}: no named ViT is {width} wide: give the number of heads')
    return {**config, 'arch': (width, depth, heads, mlp), 'img_size': tuple(config['img_size'])}


def _check(state: Mapping[str, Tensor], source: str, layout: str, facts: Mapping[str, Any]) -> None:
    _describe(state, source, facts)


def _traits(
    state: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    config = _describe(state, 'the encoder', facts)
    width, depth, heads, _ = config['arch']
    notes = []
    if heads is None:
        notes.append(f'the number of heads is unknown: the file and the width {width} tell none')
    elif not (facts.get('arch') or [None] * 4)[2]:
        named = BY_WIDTH[width]
        notes.append(f'took {heads} heads, those of the named ViT of width {width}')
        if depth != named[1]:
            notes.append(f'{depth} blocks; the named ViT of width {width} has {named[1]}')
    return {'vit': json.dumps(config)}, notes


def _label(meta: Mapping[str, str]) -> str:
    config = json.loads(meta['vit'])
    (width, depth, *_), (h, w) = config['arch'], config['img_size']
    clip = f'clips of {config["num_frames"]} x ' if 'num_frames' in config else ''
    return (
        f'ViT, width {width}, {depth} blocks, patches of {config["patch_size"]} in {clip}{h} x {w}'
    )


VIT = Family(
    name='ViT encoder',
    data='images',
    anchor=ANCHOR,
    roots=('pos_embed', *OUTER, 'blocks.'),
    signature=(ANCHOR,),
    owns_file=True,
    companions=True,
    facts=facts_of,
    check=_check,
    traits=_traits,
    own=lambda state, layout: {k: v.detach().cpu().contiguous().clone() for k, v in state.items()},
    label=_label,
)
