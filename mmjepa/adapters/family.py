"""What a family of encoders brings to the adapters: how to know, check and describe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Family:
    """Encoders that share a common form.

    Attributes:
        name: In messages.
        data: What it encodes, in messages.
        anchor: Key of its first layer in the common form; it tells the family.
        roots: What its keys start with.
        signature: What keys start with in files that ``--from auto`` takes.
        owns_file: Whether a file that holds the anchor without prefix holds nothing but the encoder
            and heads that its format knows. If False, what lies outside ``roots`` is left out.
        companions: Whether online encoder, target and predictor travel together where they can.
        facts: From a file's meta to what it tells of the encoder.
        check: (state, source, kernel layout, facts); raises CheckpointError.
        traits: (state, facts) to entries for the meta, and notes.
        own: (state, kernel layout) to contiguous copies in the common layout.
        label: From the meta to the words of the exporter's last line.
    """

    name: str
    data: str
    anchor: str
    roots: tuple[str, ...]
    signature: tuple[str, ...]
    owns_file: bool
    companions: bool
    facts: Callable[[Any], dict[str, Any]]
    check: Callable[[Mapping[str, Tensor], str, str, Mapping[str, Any]], None]
    traits: Callable[[Mapping[str, Tensor], Mapping[str, Any]], tuple[dict[str, str], list[str]]]
    own: Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]
    label: Callable[[Mapping[str, str]], str]

    def __str__(self) -> str:
        return f'{self.name} ({self.data})'
