"""What the adapters have in common: finding the encoder in a file by its prefix."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmjepa.adapters.config_text import method_of
from mmjepa.adapters.family import Family
from mmjepa.adapters.sparse_encoder import SPARSE
from mmjepa.adapters.vit_encoder import VIT
from mmjepa.engine.checkpoint import CheckpointError, find_state_dict

FAMILIES = (SPARSE, VIT)


@dataclass
class Encoder:
    """Encoder weights in the common form, and what was noticed while reading them.

    Attributes:
        state: The weights.
        meta: What the file says of itself.
        prefix: What the keys started with in the file.
        family: What kind of encoder it is.
        traits: What its tensors tell, for the meta of files written.
        companions: Where the format knows them: ``online`` and ``target`` encoder and
            ``predictor`` of the same file, in our names and not yet checked.
        notes: Remarks for the user.
    """

    state: dict[str, Tensor]
    meta: dict[str, Any]
    prefix: str
    family: Family
    traits: dict[str, str] = field(default_factory=dict)
    companions: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class EncoderAdapter:
    """Translates one file format to and from the common form.

    Attributes:
        name: Its name on the command line.
        marker: What its files carry as ``format`` in their meta; by default the name.
        families: The encoders that it can hold.
        prefixes: Prefixes of the encoder that are known; the first one is written by default.
        roots: What encoder keys start with below the prefix; by default the family's.
        heads: What keys of heads start with below the prefix; they are left out.
        owns_prefix: Whether all that lies below the prefix belongs to the encoder, so that a key
            that the table doesn't know is an error. Keys elsewhere in the file (heads,
            predictors) are counted and left out.
        which: Prefixes of the ``online`` and the ``target`` encoder, where files have both.
    """

    name = ''
    marker: str | None = None
    families: tuple[Family, ...] = (SPARSE,)
    prefixes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    owns_prefix = True
    which: Mapping[str, str] = {}

    def tensors(self, checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
        """All weights in a loaded file, heads and predictors included, by their keys."""
        return find_state_dict(checkpoint)[0]

    def anchor(self, family: Family) -> str:
        """The first layer's key in this format, which tells prefix and family."""
        return family.anchor

    def facts(self, checkpoint: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """What a loaded file tells of its encoder."""
        return family.facts(checkpoint.get('meta'))

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename to the common form (prefix already off); also remarks for the user."""
        return state, []

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of :meth:`decode`."""
        return state

    def decode_predictor(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the predictor's keys to ours."""
        return state

    def adapt(self, encoder: Encoder) -> Encoder:
        """The encoder as far as the format can hold it; raises ValueError where it can't."""
        return encoder

    def layout(self, encoder: Encoder, prefix: str) -> dict[str, Tensor]:
        """All weights of the file to write, by their keys."""
        return {prefix + k: v for k, v in self.encode(encoder.state).items()}

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """Build the content of the file from keys that carry their prefix."""
        return {'meta': meta, 'state_dict': collections.OrderedDict(state)}

    def main_file(self, out: Path) -> Path:
        """The file that takes the weights."""
        return out

    def sidecars(self, encoder: Encoder, out: Path) -> dict[str, str]:
        """Texts by names of files beside the main one."""
        return {}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """What to know about the file written."""
        return []

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """Whether ``--from auto`` may take a file for this format."""
        starts = tuple(
            prefix + root
            for prefix in self.prefixes
            for family in self.families
            for root in self.roots or family.signature
        )
        return any(key.startswith(starts) for key in keys)

    def read(
        self,
        checkpoint: Mapping[str, Any],
        source: str,
        prefix: str | None = None,
        layout: str = 'KRSC',
    ) -> Encoder:
        """Take the encoder out of a loaded file and check it.

        Args:
            checkpoint: What :func:`mmjepa.adapters.files.load` gave.
            source: Name of the file in messages.
            prefix: Prefix of the encoder's keys; by default the one known prefix in the file.
            layout: Kernel layout of the file.

        Raises:
            CheckpointError: No encoder, several, or an incomplete or damaged one.
        """
        given = self.tensors(checkpoint, source)
        meta = checkpoint.get('meta')
        meta = dict(meta) if isinstance(meta, Mapping) else {}
        prefix, family = self._choose_prefix(given, source, prefix, meta)
        whole = self.owns_prefix and (prefix or family.owns_file)
        roots = ('',) if whole else self.roots or family.roots
        starts = tuple(prefix + root for root in roots)
        heads = tuple(prefix + head for head in self.heads)
        inside = {
            k: v for k, v in given.items() if k.startswith(starts) and not k.startswith(heads)
        }
        state, notes = self.decode({k.removeprefix(prefix): v for k, v in inside.items()})
        facts = self.facts(checkpoint, family)
        family.check(state, source, layout, facts)
        if prefix not in self.prefixes:
            notes.append(f'encoder found below {prefix!r}')
        companions, beside = self._companions(given, prefix, family)
        left = collections.Counter(
            k.split('.')[0] for k in given if k not in inside and not k.startswith(beside)
        )
        if left:
            parts = ', '.join(f'{name} {count}' for name, count in left.items())
            notes.append(f'left out {sum(left.values())} tensors outside the encoder: {parts}')
        if others := [
            f'{n} {len(s)}' for n, s in companions.items() if self.which.get(n) != prefix
        ]:
            notes.append(
                f'beside it: {", ".join(others)} tensors, which only --to ijepa (of clips: vjepa, '
                'vjepa2, hf_vjepa2) takes along'
            )
        traits, remarks = family.traits(state, facts)
        return Encoder(
            family.own(state, layout), meta, prefix, family, traits, companions, notes + remarks
        )

    def _companions(
        self, given: Mapping[str, Tensor], prefix: str, family: Family
    ) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
        """Online and target encoder and predictor by name, and the prefixes of their keys."""
        if not family.companions or prefix not in self.which.values():
            return {}, ()
        places = {**self.which, 'predictor': 'predictor.'}
        parts = {
            name: {k.removeprefix(place): v for k, v in given.items() if k.startswith(place)}
            for name, place in places.items()
        }
        parts['predictor'] = self.decode_predictor(parts['predictor'])
        return {name: part for name, part in parts.items() if part}, tuple(places.values())

    def _choose_prefix(
        self, given: Mapping[str, Any], source: str, prefix: str | None, meta: Any
    ) -> tuple[str, Family]:
        found = {
            key.removesuffix(anchor): family
            for family in self.families
            for anchor in [self.anchor(family)]
            for key in given
            if key.endswith(anchor)
        }
        found = {p: family for p, family in found.items() if p == '' or p.endswith('.')}
        known = [prefix] if prefix is not None else [p for p in self.prefixes if p in found]
        if prefix is None and not known and len(found) == 1 and not self.owns_prefix:
            known = list(found)
        if len(known) == 1 and known[0] in found:
            return known[0], found[known[0]]
        if found:
            raise CheckpointError(
                f'{source}: encoders lie below {sorted(found)}, looked for '
                f'{[prefix] if prefix is not None else list(self.prefixes)}; name one with '
                '--from-prefix'
            )
        first = ', '.join(list(given)[:3])
        for family in FAMILIES:
            if family not in self.families and any(k.endswith(family.anchor) for k in given):
                raise CheckpointError(
                    f'{source} holds a {family}, and {self.name} files hold a '
                    f'{" or ".join(map(str, self.families))}: choose another --from'
                )
        raise CheckpointError(
            f'{source} holds no {" and no ".join(f.name for f in self.families)} '
            f'(no {", no ".join(self.anchor(f) for f in self.families)}; keys such as '
            f'{first}; method {method_of(meta) or "unknown"})'
        )
