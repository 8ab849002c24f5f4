"""Masks of clips that hide whole tubes or whole frames."""

from typing import Any

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .clips import CUT_STREAM, ClipMaskGenerator, Grid
from .counter_rng import counter_bits, counter_uniform

TUBE_STREAM, FRAME_STREAM = CUT_STREAM + 5, CUT_STREAM + 6


def _keep_lowest(seeds: Tensor, length: int, keep: int, number: int, stream: int) -> Tensor:
    """(B, length) bool, False at ``keep`` random places."""
    noise = counter_bits(seeds[:, None], torch.arange(length) + number * length, stream=stream)
    kept = noise.topk(keep, largest=False).indices
    return torch.ones(len(seeds), length, dtype=torch.bool).scatter_(1, kept, False)


@MODELS.register_module()
class TubeMaskGenerator(ClipMaskGenerator):
    """Hides random patches of the frame at all times (VideoMAE's; an ablation of V-JEPA).

    Args:
        ratio: hidden share; int(S * (1 - ratio)) patches stay visible.
        num_masks: masks a clip. Default: as many as V-JEPA's.
        max_keep: see :class:`ClipMaskGenerator`.
        truncate: see there; tubes are equally long without.
        full_complement: see there.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        ratio: float = 0.9,
        num_masks: int = 2,
        truncate: Any = 'raster',
        max_keep: int | None = None,
        full_complement: bool = False,
    ):
        super().__init__(truncate, max_keep, full_complement)
        if not 0 < ratio < 1:
            raise ValueError(f'ratio must lie in (0, 1), got {ratio}')
        if num_masks < 1:
            raise ValueError(f'num_masks must be at least 1, got {num_masks}')
        self.ratio, self.num_masks = ratio, num_masks

    def _keep(self, grid: Grid) -> int:
        return int(grid[1] * grid[2] * (1 - self.ratio))

    def check(self, grid: Grid) -> None:
        """Raise ValueError where no patch stays visible, or none is hidden."""
        if not 0 < self._keep(grid) < grid[1] * grid[2]:
            raise ValueError(
                f'ratio={self.ratio} hides all or none of {grid[1]} x {grid[2]} patches'
            )

    def hide(self, seeds: Tensor, grid: Grid) -> list[Tensor]:
        """(B, T' * S) bool a mask, True where hidden."""
        area, keep = grid[1] * grid[2], self._keep(grid)
        return [
            _keep_lowest(seeds, area, keep, i, TUBE_STREAM).repeat(1, grid[0])
            for i in range(self.num_masks)
        ]


@MODELS.register_module()
class FrameMaskGenerator(ClipMaskGenerator):
    """Hides whole time steps, for recordings in which most of a frame stays as it was (screens).

    Args:
        ratio: hidden share of the time steps, least and largest; one length a batch, drawn by the
            first seed, at least one step.
        order: ``'random'``: any steps; ``'block'``: successive ones, anywhere; ``'future'``: the
            last ones.
        num_masks: masks a clip. Default: as many as V-JEPA's.
        truncate: see :class:`ClipMaskGenerator`; all are equally long without.
        max_keep: see there.
        full_complement: see there.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self,
        ratio: tuple[float, float] = (0.5, 0.75),
        order: str = 'random',
        num_masks: int = 2,
        truncate: Any = 'raster',
        max_keep: int | None = None,
        full_complement: bool = False,
    ):
        super().__init__(truncate, max_keep, full_complement)
        if not 0 < ratio[0] <= ratio[1] < 1:
            raise ValueError(f'ratio must ascend within (0, 1), got {ratio}')
        if order not in ('random', 'block', 'future'):
            raise ValueError(f"order must be 'random', 'block' or 'future', got {order!r}")
        if num_masks < 1:
            raise ValueError(f'num_masks must be at least 1, got {num_masks}')
        self.ratio, self.order, self.num_masks = ratio, order, num_masks

    def check(self, grid: Grid) -> None:
        """Raise ValueError where there is one time step only."""
        if grid[0] < 2:
            raise ValueError(f'whole frames are hidden, and there are {grid[0]} time steps')

    def hide(self, seeds: Tensor, grid: Grid) -> list[Tensor]:
        """(B, T' * S) bool a mask, True where hidden."""
        draws = counter_uniform(seeds[:1], torch.arange(self.num_masks), stream=FRAME_STREAM)
        low, high = self.ratio
        masks = []
        for i, draw in enumerate(draws.tolist()):
            count = max(1, int(grid[0] * (low + draw * (high - low))))
            steps = self._steps(seeds, grid[0], count, i)
            masks.append(steps.repeat_interleave(grid[1] * grid[2], 1))
        return masks

    def _steps(self, seeds: Tensor, times: int, count: int, number: int) -> Tensor:
        """(B, T') bool."""
        if self.order == 'random':
            return _keep_lowest(seeds, times, times - count, number, FRAME_STREAM + 1)
        start = torch.full((len(seeds),), times - count)
        if self.order == 'block':
            drawn = counter_uniform(seeds, torch.tensor(number), stream=FRAME_STREAM + 1)
            start = (drawn * (times - count + 1)).long()
        line = torch.arange(times) - start[:, None]
        return (line >= 0) & (line < count)
