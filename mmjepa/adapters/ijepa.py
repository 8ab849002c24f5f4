"""Official I-JEPA checkpoints: ``encoder``, ``predictor`` and ``target_encoder`` in one dict.

Their keys carry the ``module.`` of DistributedDataParallel. The paper evaluates the target encoder,
so it is what is read unless the online one is asked for. DMT-JEPA's files have the same layout.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmjepa.adapters.base import Encoder
from mmjepa.adapters.names import Names, ViTNames
from mmjepa.adapters.vit_encoder import (
    ANCHOR,
    INNER,
    LEAVES,
    block_shapes,
    check_keys,
    check_values,
    depth_of,
)
from mmjepa.engine.checkpoint import CheckpointError

PARTS = ('encoder', 'predictor', 'target_encoder')
PREDICTOR = Names(
    'predictor_blocks.{}.',
    {k: k for k in INNER},
    {
        'embed.': 'predictor_embed.',
        'mask_token': 'mask_token',
        'pos_embed': 'predictor_pos_embed',
        'norm.': 'predictor_norm.',
        'proj.': 'predictor_proj.',
    },
)


def check_predictor(
    state: Mapping[str, Tensor],
    encoder: Mapping[str, Tensor],
    what: str,
    one_token: bool = True,
    same_width: bool = True,
) -> None:
    """Raise unless this is a whole :class:`ViTPredictor` of that encoder.

    Args:
        state: Its weights, by our keys.
        encoder: Weights of the encoder in the common form.
        what: Name of the predictor in messages.
        one_token: It has just one mask token.
        same_width: Its predictions are as wide as the encoder's tokens.

    Raises:
        CheckpointError: Keys, shapes or values are wrong.
    """
    depth = depth_of(state)
    blocks = list(block_shapes(max(1, depth), 0, 0))
    ends = [stem + leaf for stem in ('embed.', 'norm.', 'proj.') for leaf in LEAVES]
    tables = ['pos_embed'] if 'pos_embed' in encoder else []
    check_keys(state, ['mask_token', *tables, *ends, *blocks], what, 'ViT predictor')
    dim = encoder['norm.weight'].numel()
    width, mlp = state['embed.bias'].numel(), state['blocks.0.mlp.fc1.bias'].numel()
    out = dim if same_width else state['proj.bias'].numel()
    shapes = {
        'mask_token': (1 if one_token else len(state['mask_token']), 1, width),
        **{key: (1, encoder[key].shape[1], width) for key in tables},
        'embed.weight': (width, dim),
        'proj.weight': (out, width),
        'proj.bias': (out,),
        'norm.weight': (width,),
        'norm.bias': (width,),
        **block_shapes(depth, width, mlp),
    }
    check_values(state, shapes, what)


class IJEPAAdapter(ViTNames):
    """What ``torch.save`` of the official training code writes, less its optimizer.

    Attributes:
        title: The method in messages.
        wrapper: What it puts before every key.
        free_predictor: Whether predictors may have several mask tokens and any output width.
    """

    name = 'ijepa'
    title = 'I-JEPA'
    wrapper = 'module.'
    free_predictor = False
    prefixes = ('target_encoder.',)
    which = {'online': 'encoder.', 'target': 'target_encoder.'}

    def tensors(self, checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
        """The three parts side by side, without their wrapper.

        Raises:
            CheckpointError: None of them is there.
        """
        found: dict[str, Tensor] = {}
        for part in PARTS:
            weights = checkpoint.get(part)
            if isinstance(weights, Mapping):
                found |= {f'{part}.{self._bare(k)}': v for k, v in weights.items()}
        if not found:
            raise CheckpointError(
                f'{source} is no official {self.title} checkpoint: no dict {" or ".join(PARTS)} in '
                f'it, but {", ".join(map(str, list(checkpoint)[:3]))}'
            )
        return found

    def _bare(self, key: str) -> str:
        for word in self.wrapper.split('.')[:-1]:
            key = key.removeprefix(f'{word}.')
        return key

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """By the dicts in it, and the axes of the patch kernel."""
        weights = checkpoint.get('target_encoder')
        if not isinstance(weights, Mapping):
            return False
        kernels = [v for k, v in weights.items() if k.endswith(ANCHOR)]
        return not kernels or (kernels[0].ndim == 5) == self.clips

    def decode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official names to those of :class:`ViTPredictor`."""
        return {PREDICTOR.ours(k) or f'{k} (unknown name)': v for k, v in state.items()}

    def encode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of :meth:`decode_predictor`."""
        return {PREDICTOR.theirs(k): v for k, v in state.items()}

    def adapt(self, encoder: Encoder) -> Encoder:
        """Complete the parts; the target is the one that is read back.

        Raises:
            CheckpointError: A part that was not read as the encoder is damaged.
        """
        super().adapt(encoder)
        parts = dict(encoder.companions)
        chosen = 'online' if encoder.prefix == 'encoder.' else 'target'
        parts[chosen] = encoder.state
        other = 'target' if chosen == 'online' else 'online'
        if other in parts:
            encoder.family.check(
                parts[other], f'the {other} encoder', 'KRSC', encoder.family.facts(encoder.meta)
            )
        else:
            parts[other] = encoder.state
        if 'predictor' in parts:
            strict = not self.free_predictor
            check_predictor(parts['predictor'], encoder.state, 'the predictor', strict, strict)
        return dataclasses.replace(encoder, state=parts['target'], companions=parts)

    def layout(self, encoder: Encoder, prefix: str) -> dict[str, Tensor]:
        """The three parts by their official names.

        Raises:
            ValueError: Another prefix than the layout's.
        """
        if prefix not in self.prefixes:
            raise ValueError(f'--prefix {prefix}: the official layout fixes its names')
        parts = encoder.companions
        state = {f'encoder.{k}': v for k, v in parts['online'].items()}
        predictor = self.encode_predictor(parts.get('predictor', {}))
        state |= {f'predictor.{k}': v for k, v in predictor.items()}
        return state | {f'target_encoder.{k}': v for k, v in parts['target'].items()}

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """Split by part; their loader asks for ``epoch`` first."""
        content: dict[str, Any] = {}
        for key, value in state.items():
            part, name = key.split('.', 1)
            content.setdefault(part, collections.OrderedDict())[self.wrapper + name] = value
        return {**content, 'epoch': 0, 'meta': meta}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """Which parts are in it."""
        lines = []
        if not {'online', 'target'} <= set(encoder.companions):
            lines.append('one encoder was there: it is both encoder and target_encoder')
        if 'predictor' not in encoder.companions:
            lines.append('no predictor was there: enough to evaluate, not to train on')
        return [*lines, 'no optimizer state: the official loader takes the weights at epoch 0']
