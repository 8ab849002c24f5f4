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
    """

    context: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> 'ClipMasks':
        """The same on a device, without waiting for it."""
        both = [self.context, self.targets]
        if device.type == 'cuda':
            both = [ids.pin_memory() for ids in both]
        return ClipMasks(*(ids.to(device, non_blocking=True) for ids in both))


class ClipMaskGenerator(ABC):
    """Cuts what a subclass hides to one length a batch.

    Args:
        truncate: who is left out where samples differ in length: ``'raster'``: the last tokens,
            which are the last time steps, as in V-JEPA's code (arXiv 2404.08471); ``'random'``:
            any. The share of tokens that is left depends on the batch of a process either way.
            There is no ``'none'``: attention here takes no key mask, which would cost the fused
            kernel; a batch of one loses nothing.
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
        truncate: Literal['raster', 'random'] = 'raster',
        max_keep: int | None = None,
        full_complement: bool = False,
    ):
        if truncate not in ('raster', 'random'):
            raise ValueError(f"truncate must be 'raster' or 'random', got {truncate!r}")
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
        keep = int((~hidden).sum(1).min())
        if self.max_keep is not None:
            keep = min(keep, self.max_keep)
        context = self._take(~hidden, keep, seeds, 2 * number)
        if self.full_complement:
            hidden = torch.ones_like(hidden).scatter_(1, context, False)
        return ClipMasks(
            context, self._take(hidden, int(hidden.sum(1).min()), seeds, 2 * number + 1)
        )

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
