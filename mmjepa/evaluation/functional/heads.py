"""Many linear heads on the same frozen features, trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import standardisation


@dataclass(frozen=True)
class HeadSpec:
    """One head of a joint training.

    Attributes:
        channels: How many of the features' last channels it reads; None reads all.
        normalise: Bring each channel to mean 0 and std 1 first ("BN + linear").
        lr: Peak learning rate, at :attr:`HeadSchedule.batch_size` samples a step.
        weight_decay: Of the weight, not of the bias.
    """

    channels: int | None = None
    normalise: bool = False
    lr: float = 0.1
    weight_decay: float = 0.0


@dataclass(frozen=True)
class HeadSchedule:
    """How heads are trained: SGD with Nesterov momentum, cosine learning rate to 0.

    Attributes:
        epochs: Passes over the samples.
        batch_size: Samples a step.
        momentum: Of SGD.

    Raises:
        ValueError: On numbers out of range.
    """

    epochs: int = 50
    batch_size: int = 256
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                'a head schedule needs epochs and batch_size of at least 1 and momentum in '
                f'[0, 1), got {self}'
            )

    def steps(self, count: int) -> int:
        """Optimizer steps for ``count`` samples."""
        return self.epochs * math.ceil(count / self.batch_size)


class LinearHeads:
    """Heads that read the same channels with the same normalisation, H of them at once.

    Args:
        specs: Of equal ``channels`` and ``normalise``.
        mean: (D,) subtracted from the features.
        scale: (D,) that divides them.
        num_classes: C.
    """

    def __init__(
        self, specs: Sequence[HeadSpec], mean: Tensor, scale: Tensor, num_classes: int
    ) -> None:
        self.specs = list(specs)
        self.mean, self.scale = mean, scale
        self.shape = (len(specs), num_classes)
        self.weight = mean.new_zeros(len(mean), len(specs) * num_classes)  # column: head, class
        self.bias = mean.new_zeros(len(specs) * num_classes)
        self._velocity = [torch.zeros_like(self.weight), torch.zeros_like(self.bias)]
        self._lr = self._columns([s.lr for s in specs])
        self._decay = self._columns([s.weight_decay for s in specs])

    def _columns(self, values: Sequence[float]) -> Tensor:
        return self.mean.new_tensor(list(values)).repeat_interleave(self.shape[1])

    def _read(self, feats: Tensor) -> Tensor:
        return (feats[:, -len(self.mean) :].float() - self.mean) / self.scale

    def step(self, feats: Tensor, labels: Tensor, factor: float, momentum: float) -> None:
        """One SGD step on mean cross-entropy, ``factor`` of the peak learning rate."""
        x = self._read(feats)
        logits = (x @ self.weight + self.bias).view(len(x), *self.shape)
        slope = logits.softmax(-1)  # to the gradient of cross-entropy, by hand for all heads
        slope[torch.arange(len(x), device=x.device), :, labels] -= 1
        slope = slope.flatten(1) / len(x)
        gradients = (x.T @ slope + self._decay * self.weight, slope.sum(0))
        for value, velocity, gradient in zip(
            (self.weight, self.bias), self._velocity, gradients, strict=True
        ):
            velocity.mul_(momentum).add_(gradient)
            value.sub_(factor * self._lr * (gradient + momentum * velocity))

    def predict(self, feats: Tensor, chunk_size: int = 4096) -> Tensor:
        """(M, D) features to (H, M) int64 classes; -1 from a head that diverged."""
        found = []
        for chunk in feats.split(chunk_size):
            logits = (self._read(chunk) @ self.weight + self.bias).view(len(chunk), *self.shape)
            classes = logits.argmax(-1)
            found.append(torch.where(logits.isfinite().all(-1), classes, -1))
        return torch.cat(found).T


def batch_order(count: int, schedule: HeadSchedule, seed: int) -> list[Tensor]:
    """Row numbers of every step, each epoch in a new random order.

    Args:
        count: Samples.
        schedule: Epochs and batch size.
        seed: Of the order.

    Returns:
        ``schedule.steps(count)`` int64 tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    return [
        rows
        for _ in range(schedule.epochs)
        for rows in torch.randperm(count, generator=generator).split(schedule.batch_size)
    ]


def cosine_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate at a step: 1 at the first, towards 0 after the last."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def fit_heads(
    feats: Tensor,
    labels: Tensor,
    num_classes: int,
    specs: Sequence[HeadSpec],
    schedule: HeadSchedule | None = None,
    seed: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> list[LinearHeads]:
    """Train linear heads jointly; each comes out as if it were trained alone.

    Heads start at zero and see the same batches. Deviation from a BatchNorm layer before the
    head: its statistics are those of all the samples, to which they would converge, and not of
    each batch; its affine part is the head's.

    Args:
        feats: (N, D) floating.
        labels: (N,) int64 in [0, num_classes).
        num_classes: C.
        specs: The heads.
        schedule: Epochs, batch size, momentum.
        seed: Of the order of the samples.
        told: Called with (steps done, steps).

    Returns:
        Groups of heads that read the same; together they hold each of ``specs`` once.

    Raises:
        ValueError: On shapes that don't fit, no head, or features that aren't finite.

    Source: Goyal et al., VISSL's linear benchmark, with several heads and rates at once.
    """
    if feats.ndim != 2 or labels.shape != feats.shape[:1] or not len(feats) or not specs:
        raise ValueError(
            'linear heads need features (N, D), labels (N,) with N > 0 and at least one head, got '
            f'{tuple(feats.shape)}, {tuple(labels.shape)} and {len(specs)} heads'
        )
    if not bool(feats.isfinite().all()):
        raise ValueError('linear heads need finite features; some are NaN or Inf')
    schedule = schedule or HeadSchedule()
    groups: dict[tuple[int, bool], list[HeadSpec]] = {}
    for spec in specs:
        channels = feats.shape[1] if spec.channels is None else spec.channels
        if not 0 < channels <= feats.shape[1]:
            raise ValueError(f'{spec} reads {channels} channels; there are {feats.shape[1]}')
        groups.setdefault((channels, spec.normalise), []).append(spec)
    mean, std = standardisation(feats)
    heads = []
    for (channels, normalise), members in groups.items():
        own = mean[-channels:], std[-channels:]
        if not normalise:
            own = torch.zeros_like(own[0]), torch.ones_like(own[1])
        heads.append(LinearHeads(members, *own, num_classes))
    steps = schedule.steps(len(feats))
    for step, rows in enumerate(batch_order(len(feats), schedule, seed)):
        rows = rows.to(feats.device)
        x, y = feats[rows], labels[rows]
        for group in heads:
            group.step(x, y, cosine_factor(step, steps), schedule.momentum)
        if told is not None:
            told(step + 1, steps)
    return heads
