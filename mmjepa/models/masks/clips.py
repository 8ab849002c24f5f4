"""What all mask generators of clips share; tokens are numbered time by time, row by row."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .counter_rng import counter_bits

Grid = tuple[int, int, int]
CUT_STREAM = 6  # of random numbers; places and sizes have those that follow


@dataclass
class ClipMasks:
    """What clips show under one mask, and what is to be predicted from it.

    A token is numbered t * S + h * W' + w, with S = H' * W' tokens a time step.

    Attributes:
        context: (B, K_c) int64 visible tokens, ascending.
        targets: (B, K_t) int64 tokens to predict, ascending; none of them is visible.
        context_valid: (B, K_c) bool, False where a row is filled up by repeating its last token;
            None: nowhere.
        targets_valid: (B, K_t) bool, the same of the targets.
        asked: (n,) int64 numbers of the valid targets among all B * K_t; None: all.
    """

    context: Tensor
    targets: Tensor
    context_valid: Tensor | None = None
    targets_valid: Tensor | None = None
    asked: Tensor | None = None

    def to(self, device: torch.device) -> 'ClipMasks':
        """The same on a device, without waiting for it."""
        pin = device.type == 'cuda'
        moved = [
            part
            if part is None
            else (part.pin_memory() if pin else part).to(device, non_blocking=True)
            for part in vars(self).values()
        ]
        return ClipMasks(*moved)  # type: ignore[arg-type]


class ClipMaskGenerator(ABC):
    """Cuts what a subclass hides to one length a batch.

    Args:
        truncate: who is left out where samples differ in length: ``'raster'``: the last tokens,
            which are the last time steps, as in V-JEPA's code (arXiv 2404.08471); ``'random'``:
            any. The share of tokens that is left depends on the batch of a process either way.
            ``'none'``: nobody; shorter rows are filled up, and attention doesn't see the filling.
            It costs flash attention, which takes no such mask.
        max_keep: most visible tokens; None: no limit.
        full_complement: all tokens that are not visible are to be predicted, those included that
            were cut off the context.

    Attributes:
        num_masks: masks a clip.

    Raises:
        ValueError: a setting out of range.
    """

    num_masks: int

    def __init__(
        self,
        truncate: Literal['raster', 'random', 'none'] = 'raster',
        max_keep: int | None = None,
        full_complement: bool = False,
    ):
        if truncate not in ('raster', 'random', 'none'):
            raise ValueError(f"truncate must be 'raster', 'random' or 'none', got {truncate!r}")
        if max_keep is not None and max_keep < 1:
            raise ValueError(f'max_keep must be at least 1, got {max_keep}')
        self.truncate, self.max_keep = truncate, max_keep
        self.full_complement = full_complement

    @abstractmethod
    def check(self, grid: Grid) -> None:
        """Raise ValueError where nothing could be hidden, or visible, on a grid."""

    @abstractmethod
    def hide(self, seeds: Tensor, grid: Grid) -> list[Tensor]:
        """(B, T' * S) bool a mask, True where hidden: somewhere and not everywhere."""

    @torch.no_grad()
    def __call__(self, seeds: Tensor, grid: Grid) -> list[ClipMasks]:
        """Draw the masks of a batch.

        Args:
            seeds: (B,) int64 on the CPU, one a clip; equal seeds get equal masks.
            grid: times T', rows H' and columns W' of tokens.

        Returns:
            All masks of every clip, on the CPU.
        """
        self.check(grid)
        return [self._cut(hidden, seeds, i) for i, hidden in enumerate(self.hide(seeds, grid))]

    def _cut(self, hidden: Tensor, seeds: Tensor, number: int) -> ClipMasks:
        if self.truncate == 'none':
            return self._pad(hidden)
        keep = int((~hidden).sum(1).min())
        if self.max_keep is not None:
            keep = min(keep, self.max_keep)
        context = self._take(~hidden, keep, seeds, 2 * number)
        if self.full_complement:
            hidden = torch.ones_like(hidden).scatter_(1, context, False)
        return ClipMasks(
            context, self._take(hidden, int(hidden.sum(1).min()), seeds, 2 * number + 1)
        )

    def _pad(self, hidden: Tensor) -> ClipMasks:
        visible = ~hidden
        if self.max_keep is not None:
            visible &= visible.cumsum(1) <= self.max_keep
        hidden = ~visible if self.full_complement else hidden
        (context, seen), (targets, valid) = _filled(visible), _filled(hidden)
        return ClipMasks(context, targets, seen, valid, valid.flatten().nonzero()[:, 0])

    def _take(self, where: Tensor, count: int, seeds: Tensor, part: int) -> Tensor:
        """(B, N) bool -> (B, count) ascending numbers."""
        batch, length = where.shape
        if self.truncate == 'random':
            counters = torch.arange(length) + part * length
            noise = counter_bits(seeds[:, None], counters, stream=CUT_STREAM)
            order = torch.where(where, noise, 2**62).topk(count, largest=False).indices
            return order.sort(1).values
        first = where & (where.cumsum(1) <= count)
        return first.nonzero()[:, 1].view(batch, count)


def _filled(where: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N) bool -> (B, K) ascending numbers, the last one repeated, and which are no filling."""
    counts = where.sum(1, keepdim=True)
    places = torch.arange(int(counts.max()))
    order = where.sort(dim=1, descending=True, stable=True).indices
    return order.gather(1, places.minimum(counts - 1)), places < counts
