"""What the adapters have in common: finding the encoder in a file by its prefix."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mmjepa.adapters.sparse_encoder import check_encoder, to_krsc
from mmjepa.engine.checkpoint import CheckpointError, find_state_dict

_ANCHOR = 'conv_input.0.weight'  # every family calls the first convolution so


@dataclass
class Encoder:
    """Encoder weights in the common form, and what was noticed while reading them."""

    state: dict[str, Tensor]
    meta: dict[str, Any]
    prefix: str
    notes: list[str] = field(default_factory=list)


class EncoderAdapter:
    """Translates one file format to and from the common form.

    Attributes:
        name: Its name on the command line.
        prefixes: Prefixes of the encoder that are known; the first one is written by default.
        roots: What encoder keys start with below the prefix.
        owns_prefix: Whether all that lies below the prefix belongs to the encoder, so that a key
            that the table doesn't know is an error. Keys elsewhere in the file (heads,
            predictors) are counted and left out.
    """

    name = ''
    prefixes: tuple[str, ...] = ()
    roots: tuple[str, ...] = ('conv_input.', 'encoder_layers.', 'conv_out.')
    owns_prefix = True

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename to the common form (prefix already off); also remarks for the user."""
        return state, []

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of :meth:`decode`."""
        return state

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """Build the content of the file from keys that carry their prefix."""
        return {'meta': meta, 'state_dict': collections.OrderedDict(state)}

    def recognises(self, checkpoint: Mapping[str, Any], keys: Iterable[str]) -> bool:
        """Whether ``--from auto`` may take a file for this format."""
        starts = tuple(prefix + root for prefix in self.prefixes for root in self.roots)
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
            checkpoint: What :func:`mmjepa.engine.checkpoint.load_file` gave.
            source: Name of the file in messages.
            prefix: Prefix of the encoder's keys; by default the one known prefix in the file.
            layout: Kernel layout of the file.

        Raises:
            CheckpointError: No encoder, several, or an incomplete or damaged one.
        """
        given, _ = find_state_dict(checkpoint)
        prefix = self._choose_prefix(given, source, prefix, checkpoint.get('meta'))
        whole = self.owns_prefix and prefix
        starts = (prefix,) if whole else tuple(prefix + root for root in self.roots)
        inside = {k: v for k, v in given.items() if k.startswith(starts)}
        state, notes = self.decode({k.removeprefix(prefix): v for k, v in inside.items()})
        check_encoder(state, source, layout)
        if prefix not in self.prefixes:
            notes.append(f'encoder found below {prefix!r}')
        left = collections.Counter(k.split('.')[0] for k in given if k not in inside)
        if left:
            parts = ', '.join(f'{name} {count}' for name, count in left.items())
            notes.append(f'left out {sum(left.values())} tensors outside the encoder: {parts}')
        meta = checkpoint.get('meta')
        return Encoder(
            to_krsc(state, layout), dict(meta) if isinstance(meta, Mapping) else {}, prefix, notes
        )

    def _choose_prefix(
        self, given: Mapping[str, Any], source: str, prefix: str | None, meta: Any
    ) -> str:
        found = [k.removesuffix(_ANCHOR) for k in given if k.endswith(_ANCHOR)]
        found = [p for p in found if p == '' or p.endswith('.')]
        known = [prefix] if prefix is not None else [p for p in self.prefixes if p in found]
        if prefix is None and not known and len(found) == 1 and not self.owns_prefix:
            known = found
        if len(known) == 1 and known[0] in found:
            return known[0]
        if found:
            raise CheckpointError(
                f'{source}: encoders lie below {sorted(found)}, looked for '
                f'{[prefix] if prefix is not None else list(self.prefixes)}; name one with '
                '--from-prefix'
            )
        first = ', '.join(list(given)[:3])
        raise CheckpointError(
            f'{source} holds no sparse voxel encoder (no {_ANCHOR}; keys such as '
            f'{first}; method {method_of(meta) or "unknown"})'
        )


def method_of(meta: Any) -> str | None:
    """Type of the model that a checkpoint's meta speaks of, read from the config's text only."""
    if not isinstance(meta, Mapping):
        return None
    if isinstance(meta.get('method'), str):
        return meta['method']
    try:
        body = ast.parse(meta['cfg']).body if isinstance(meta.get('cfg'), str) else []
    except SyntaxError:
        return None
    for node in body:
        if (
            isinstance(node, ast.Assign)
            and getattr(node.targets[0], 'id', '') == 'model'
            and isinstance(node.value, ast.Call)
        ):
            for keyword in node.value.keywords:
                if keyword.arg == 'type' and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value).rsplit('.', 1)[-1]
    return None
