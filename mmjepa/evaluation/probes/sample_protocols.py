"""Protocols on frozen features of whole samples; what a probe chooses, it chooses on training data.

A protocol sees training features, training labels and test *features*: test labels enter only
afterwards, in :func:`score`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmjepa.evaluation.functional import per_class_accuracy, split_by_group
from mmjepa.evaluation.functional.attentive import AttentiveHeads, AttentiveSpec, fit_attentive
from mmjepa.evaluation.functional.heads import HeadSchedule, HeadSpec, LinearHeads, fit_heads
from mmjepa.evaluation.functional.knn import knn_predict_each
from mmjepa.evaluation.progress import Progress, silent

from .protocols import ProtocolResult

SAMPLE_PROTOCOLS = ('knn', 'linear', 'attentive', 'finetune')


@dataclass(frozen=True)
class SampleProtocolSettings:
    """Numbers of the protocols, and what they choose from.

    Attributes:
        ks: Numbers of neighbours.
        temperature: Of kNN's vote weights.
        held_out: Share of the training samples that choices are made on.
        linear: Schedule of the linear heads.
        linear_lrs, linear_weight_decays: Each with each, plain and with normalised channels, on
            each choice of layers.
        attentive: Schedule of the attentive probes.
        attentive_lrs, attentive_weight_decays: Each with each.
        attentive_depth: Blocks of the attentive probes: 1 is V-JEPA's, 4 is V-JEPA 2's.
        attentive_heads: Their attention heads; None takes as many as the encoder has.

    Raises:
        ValueError: On nothing to choose from, or numbers out of range.
    """

    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    held_out: float = 0.1
    linear: HeadSchedule = field(default_factory=HeadSchedule)
    linear_lrs: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    linear_weight_decays: tuple[float, ...] = (0.0, 5e-4)
    attentive: HeadSchedule = field(default_factory=lambda: HeadSchedule(epochs=20))
    attentive_lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    attentive_weight_decays: tuple[float, ...] = (0.01, 0.1)
    attentive_depth: int = 1
    attentive_heads: int | None = None

    def __post_init__(self) -> None:
        for name in (
            'ks',
            'linear_lrs',
            'linear_weight_decays',
            'attentive_lrs',
            'attentive_weight_decays',
        ):
            values = getattr(self, name)
            if not values or min(values) < 0 or (min(values) == 0 and 'decays' not in name):
                raise ValueError(f'{name} must be one or more positive numbers, got {values}')
        if not 1 <= self.attentive_depth <= 4 or (self.attentive_heads or 1) < 1:
            raise ValueError(
                'attentive probes have 1 to 4 blocks and at least one head, got '
                f'attentive_depth={self.attentive_depth}, attentive_heads={self.attentive_heads}'
            )
        if not 0 < self.held_out < 1 or self.temperature <= 0:
            raise ValueError(
                f'held_out must lie between 0 and 1 and temperature above 0, got {self.held_out} '
                f'and {self.temperature}'
            )


@dataclass
class TrainPart:
    """What a protocol may learn from.

    Attributes:
        feats: (N, L * D) float16 pooled on the device, or (N, T, D) float16 tokens as an array.
        labels: (N,) int64 on the device.
        num_classes: C.
        channels: D, channels of one layer.
        layers: Choices of how many last layers to read; L is the largest of them.
        num_heads: Attention heads of the encoder.
        amp: Self-attention of probes in bfloat16.
    """

    feats: Any
    labels: Tensor
    num_classes: int
    channels: int
    layers: tuple[int, ...] = (1,)
    num_heads: int = 1
    amp: bool = False

    def split(self, share: float, seed: int) -> tuple[Tensor, Tensor]:
        """Numbers of the rows to fit on and of those held out, int64 on the CPU."""
        held = split_by_group(torch.arange(len(self.labels)), share, seed)
        return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


@dataclass
class Predictions:
    """Classes of the test samples, and how the probe came to be.

    Attributes:
        classes: (M,) int64.
        chosen: Name -> value of what was chosen.
        held_out: Accuracy of the choice on held-out training samples; None without a choice.
        tried: All candidates with their held-out accuracies.
    """

    classes: Tensor
    chosen: dict[str, Any]
    held_out: float | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class SampleResult(ProtocolResult):
    """Accuracy of one probe; ``mean`` is top-1 over all test samples.

    Attributes:
        chosen, held_out, tried: As in :class:`Predictions`.
    """

    chosen: dict[str, Any] = field(default_factory=dict)
    held_out: float | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)

    def details(self) -> dict[str, Any]:
        """What was chosen, and on what grounds."""
        return {'chosen': self.chosen, 'held_out': self.held_out, 'tried': self.tried}


def score(found: Predictions, labels: Tensor, num_classes: int) -> SampleResult:
    """Predictions against test labels.

    Args:
        found: Of a protocol.
        labels: (M,) int64.
        num_classes: C.
    """
    per_class = per_class_accuracy(found.classes, labels, num_classes).tolist()
    top1 = float((found.classes == labels).double().mean())
    return SampleResult(per_class, top1, None, found.chosen, found.held_out, found.tried)


def _choose(
    candidates: Sequence[dict[str, Any]], classes: Sequence[Tensor], truth: Tensor, what: str
) -> tuple[int, list[dict[str, Any]]]:
    """Number of the best candidate (the first of equals), and all with held-out accuracies."""
    if all(bool((found < 0).all()) for found in classes):
        raise ValueError(f'every {what} diverged to NaN: give lower learning rates')
    tried = [
        {**one, 'held_out': float((found == truth).double().mean())}
        for one, found in zip(candidates, classes, strict=True)
    ]
    return max(range(len(tried)), key=lambda i: (tried[i]['held_out'], -i)), tried


def knn_protocol(
    train: TrainPart,
    test: Tensor,
    settings: SampleProtocolSettings,
    seed: int,
    progress: Progress = silent,
) -> Predictions:
    """Weighted kNN under cosine similarity, k chosen on held-out training samples.

    Args:
        train: Pooled features; the fewest layers of ``train.layers`` are read.
        test: (M, L * D) features.
        settings: k and temperature.
        seed: Of the held-out part.
        progress: Not called; a search is short.
    """
    width = train.channels * min(train.layers)
    bank, test = train.feats[:, -width:], test[:, -width:]
    chunk = max(1, min(2048, 2**28 // len(bank)))  # of similarities: a GiB

    def predict(rows: Tensor, queries: Tensor, ks: Sequence[int]) -> dict[int, Tensor]:
        rows = rows.to(bank.device)
        return knn_predict_each(
            bank[rows], train.labels[rows], queries, ks, settings.temperature, train.num_classes,
            chunk,
        )  # fmt: skip

    best, held_accuracy = settings.ks[0], None
    tried: list[dict[str, Any]] = []
    if len(settings.ks) > 1:
        fitted, held = train.split(settings.held_out, seed)
        truth = train.labels[held.to(bank.device)]
        found = predict(fitted, bank[held.to(bank.device)], settings.ks)
        number, tried = _choose(
            [{'k': k} for k in settings.ks], [found[k] for k in settings.ks], truth, 'k'
        )
        best, held_accuracy = settings.ks[number], tried[number]['held_out']
    classes = predict(torch.arange(len(bank)), test, (best,))[best]
    return Predictions(classes, {'k': best}, held_accuracy, tried)


def head_specs(train: TrainPart, settings: SampleProtocolSettings) -> list[HeadSpec]:
    """All linear heads that are tried."""
    grid = product(train.layers, (False, True), settings.linear_lrs, settings.linear_weight_decays)
    return [HeadSpec(train.channels * n, norm, lr, decay) for n, norm, lr, decay in grid]


def _head_words(spec: HeadSpec, channels: int) -> dict[str, Any]:
    layers = (spec.channels or channels) // channels
    return {'layers': layers, 'bn': spec.normalise, 'lr': spec.lr, 'wd': spec.weight_decay}


def linear_protocol(
    train: TrainPart,
    test: Tensor,
    settings: SampleProtocolSettings,
    seed: int,
    progress: Progress = silent,
) -> Predictions:
    """Linear heads trained jointly; the best on held-out training samples is fitted on all.

    Args:
        train: Pooled features.
        test: (M, L * D) features.
        settings: What is tried, and the schedule.
        seed: Of the held-out part and of the order of the samples.
        progress: Called with (what, done, total).
    """
    device = train.feats.device
    fitted, held = (rows.to(device) for rows in train.split(settings.held_out, seed))
    specs = head_specs(train, settings)
    groups = fit_heads(
        train.feats[fitted],
        train.labels[fitted],
        train.num_classes,
        specs,
        settings.linear,
        seed,
        _told(progress, f'{len(specs)} linear heads'),
    )
    order = [spec for group in groups for spec in group.specs]
    classes = torch.cat([group.predict(train.feats[held]) for group in groups])
    words = [_head_words(spec, train.channels) for spec in order]
    best, tried = _choose(words, list(classes), train.labels[held], 'linear head')
    final: LinearHeads = fit_heads(
        train.feats, train.labels, train.num_classes, [order[best]], settings.linear, seed
    )[0]
    return Predictions(final.predict(test)[0], words[best], tried[best]['held_out'], tried)


def attentive_protocol(
    train: TrainPart,
    test: NDArray[np.float16],
    settings: SampleProtocolSettings,
    seed: int,
    progress: Progress = silent,
) -> Predictions:
    """Attentive probes trained jointly; the best on held-out samples is fitted on all.

    Args:
        train: Tokens, which stay where they are (on disk) and are read batch by batch.
        test: (M, T, D) tokens, or (M, V, T, D) of V views, whose softmaxes are averaged.
        settings: What is tried, and the schedule.
        seed: Of the held-out part, of the initial weights and of the order of the samples.
        progress: Called with (what, done, total).
    """
    device = train.labels.device

    def reader(array: NDArray[np.float16], labels: Tensor | None) -> Callable:
        kept = _on_device(array, device)

        def read(rows: Tensor) -> tuple[Tensor, Tensor]:
            if kept is not None:
                tokens = kept[rows.to(device)]
            else:
                tokens = torch.from_numpy(array[rows.numpy()]).to(device)
            known = rows.to(device) if labels is None else labels[rows.to(device)]
            return tokens, known

        return read

    read = reader(train.feats, train.labels)
    grid = product(settings.attentive_lrs, settings.attentive_weight_decays)
    specs = [AttentiveSpec(lr, decay) for lr, decay in grid]

    def fit(rows: Tensor, chosen: list[AttentiveSpec], what: str) -> AttentiveHeads:
        return fit_attentive(
            read, rows, train.num_classes, chosen, settings.attentive_heads or train.num_heads,
            settings.attentive, seed, _told(progress, what), settings.attentive_depth, train.amp,
        )  # fmt: skip

    words = [{'lr': s.lr, 'wd': s.weight_decay} for s in specs]
    fitted, held = train.split(settings.held_out, seed)
    classes = fit(fitted, specs, f'{len(specs)} attentive probes').predict(read, held)
    truth = train.labels[held.to(device)]
    best, tried = _choose(words, list(classes), truth, 'attentive probe')
    final = fit(torch.arange(len(train.labels)), [specs[best]], 'the best attentive probe')
    found = final.predict(reader(test, None), torch.arange(len(test)))[0]
    return Predictions(found, words[best], tried[best]['held_out'], tried)


def _on_device(array: NDArray[np.float16], device: torch.device) -> Tensor | None:
    """The whole array on a GPU that has ample room for it, else None."""
    if device.type != 'cuda' or array.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return None
    return torch.from_numpy(np.array(array)).to(device)


def _told(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


RUN: dict[str, Callable[..., Predictions]] = {
    'knn': knn_protocol,
    'linear': linear_protocol,
    'attentive': attentive_protocol,
}
