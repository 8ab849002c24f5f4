"""Formats of ViT encoders that differ from the common form in names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mmjepa.adapters.base import Encoder, EncoderAdapter
from mmjepa.adapters.vit_encoder import ANCHOR, INNER, LEAVES, OUTER, VIT


def _with_leaves(stems: Mapping[str, str]) -> dict[str, str]:
    """A stem that ends with a dot stands for a weight and a bias."""
    names = {}
    for ours, theirs in stems.items():
        for leaf in LEAVES if ours.endswith('.') else ('',):
            names[ours + leaf] = theirs + leaf
    return names


class Names:
    """A bijection between our keys and those of a format.

    Args:
        block: what a block's keys start with there, ``{}`` for the number.
        inner: our stems in a block to theirs.
        outer: our other stems to theirs.
    """

    def __init__(self, block: str, inner: Mapping[str, str], outer: Mapping[str, str]):
        self.block = block
        self.inner, self.outer = _with_leaves(inner), _with_leaves(outer)
        self._inner_back = {v: k for k, v in self.inner.items()}
        self._outer_back = {v: k for k, v in self.outer.items()}
        self._pattern = re.compile(re.escape(block).replace(r'\{\}', r'(\d+)') + '(.+)')

    def theirs(self, key: str) -> str:
        """The format's name of our key."""
        if found := re.fullmatch(r'blocks\.(\d+)\.(.+)', key):
            return self.block.format(found[1]) + self.inner[found[2]]
        return self.outer[key]

    def ours(self, key: str) -> str | None:
        """Our name of the format's key, or None."""
        if found := self._pattern.fullmatch(key):
            inner = self._inner_back.get(found[2])
            return inner and f'blocks.{found[1]}.{inner}'
        return self._outer_back.get(key)


TIMM = Names(
    'blocks.{}.', {k: k for k in INNER}, {'pos_embed': 'pos_embed', **{k: k for k in OUTER}}
)


class ViTNames(EncoderAdapter):
    """A format of ViT encoders with names of its own.

    Attributes:
        tables: Its names; the first are written, all are read.
        telltale: Our name of a key by which ``--from auto`` knows the format.
        needs: Keys without which an encoder has no place in it.
        clips: Whether its encoders take clips, or images.
    """

    families = (VIT,)
    prefixes: tuple[str, ...] = ('', 'backbone.')
    tables: tuple[Names, ...] = (TIMM,)
    telltale = 'blocks.0.attn.qkv.weight'
    needs: tuple[str, ...] = ('pos_embed', 'norm.weight')
    clips = False

    def anchor(self, family: Any) -> str:
        """The first layer's key in this format."""
        return self.tables[0].theirs(ANCHOR)

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """By the first layer and the telltale below a known prefix."""
        keys = set(keys)
        return any(
            {prefix + table.theirs(k) for k in (ANCHOR, self.telltale)} <= keys
            for prefix in self.prefixes
            for table in self.tables
        )

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename; unknown keys keep their name and are complained of with it."""
        table = max(self.tables, key=lambda t: sum(t.ours(k) is not None for k in state))
        return {table.ours(k) or f'{k} (no name of {self.name})': v for k, v in state.items()}, []

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename."""
        return {self.tables[0].theirs(k): v for k, v in state.items()}

    def adapt(self, encoder: Encoder) -> Encoder:
        """Refuse what the format has no place for.

        Raises:
            ValueError: The encoder has rotary positions or no final norm, or takes clips instead
                of images or the reverse.
        """
        if (encoder.state[ANCHOR].ndim == 5) != self.clips:
            kinds = ('clips', 'images') if self.clips else ('images', 'clips')
            raise ValueError(
                f'--to {self.name} is for encoders of {kinds[0]}, and this one takes {kinds[1]}; '
                '--to mmjepa and safetensors carry it'
            )
        gone = [k for k in self.needs if k not in encoder.state]
        if gone:
            raise ValueError(
                f'--to {self.name} needs {" and ".join(gone)}, which an encoder with rotary '
                'positions or without final norm lacks; --to mmjepa and safetensors carry it'
            )
        return encoder
