"""Multi-block masking of clips (V-JEPA, arXiv 2404.08471)."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .clips import CUT_STREAM, ClipMaskGenerator, Grid
from .counter_rng import counter_uniform
from .multiblock import LAST_DRAW, block_size

TRIES = 20  # draws that hid everything before there is one block less
SIZE_STREAM, PLACE_STREAM = CUT_STREAM + 1, CUT_STREAM + 2


@dataclass(frozen=True)
class BlockSettings:
    """One mask: the union of several blocks of one size.

    Attributes:
        num_blocks: blocks, which may overlap.
        spatial_scale: share of a frame's area, least and largest.
        temporal_scale: share of the time steps, least and largest.
        aspect: height over width, least and largest.
        max_temporal_keep: nothing is visible after this share of the time steps (1: no limit;
            less: causal).
    """

    num_blocks: int = 8
    spatial_scale: tuple[float, float] = (0.15, 0.15)
    temporal_scale: tuple[float, float] = (1.0, 1.0)
    aspect: tuple[float, float] = (0.75, 1.5)
    max_temporal_keep: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.num_blocks <= 1024:
            raise ValueError(f'blocks: num_blocks must lie in [1, 1024], got {self.num_blocks}')
        for name, most in (('spatial_scale', 1.0), ('temporal_scale', 1.0), ('aspect', math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(f'blocks: {name} must ascend within (0, {most}], got {low, high}')
        if not 0 < self.max_temporal_keep <= 1:
            raise ValueError(
                f'blocks: max_temporal_keep must lie in (0, 1], got {self.max_temporal_keep}'
            )

    def size(self, grid: Grid, draws: Sequence[float]) -> tuple[int, int, int]:
        """Times, rows and columns of a block; three draws in [0, 1) for time, area and aspect."""
        low, high = self.temporal_scale
        times = max(1, int(grid[0] * (low + draws[0] * (high - low))))
        frame = (grid[1], grid[2])
        return times, *block_size(
            self.spatial_scale, self.aspect, frame, draws[1], draws[2], full=True
        )

    def visible_steps(self, times: int) -> int:
        """Time steps that may be visible."""
        return int(times * self.max_temporal_keep)


SHORT_RANGE = asdict(BlockSettings())
LONG_RANGE = asdict(BlockSettings(num_blocks=2, spatial_scale=(0.7, 0.7)))


@MODELS.register_module()
class MultiBlock3DMaskGenerator(ClipMaskGenerator):
    """Several masks a clip, each the union of blocks that last for many time steps.

    A block's size is common to a batch (a process), drawn by the first seed; places are the
    clip's own. What is visible is what no block hides. Drawn on the host for the whole batch.

    Args:
        blocks: keys of :class:`BlockSettings`, one dict a mask. Default: V-JEPA's two, the
            short-range mask and the long-range one.
        truncate: see :class:`ClipMaskGenerator`.
        max_keep: see there.
        full_complement: see there.

    Raises:
        ValueError: a setting out of range.
        TypeError: an unknown key in ``blocks``.
    """

    def __init__(
        self,
        blocks: Sequence[dict[str, Any]] = (SHORT_RANGE, LONG_RANGE),
        truncate: Any = 'raster',
        max_keep: int | None = None,
        full_complement: bool = False,
    ):
        super().__init__(truncate, max_keep, full_complement)
        if not blocks:
            raise ValueError('blocks must name at least one mask, got none')
        self.blocks = [BlockSettings(**block) for block in blocks]
        self.num_masks = len(self.blocks)
        self._checked: set[Grid] = set()

    def check(self, grid: Grid) -> None:
        """Raise ValueError where a block would be empty, or would always hide everything."""
        if grid in self._checked:
            return
        for block in self.blocks:
            if not block.visible_steps(grid[0]):
                raise ValueError(
                    f'max_temporal_keep={block.max_temporal_keep} leaves none of {grid[0]} time '
                    'steps visible; raise it'
                )
            for draw in range(101):
                small, large = (block.size(grid, (i, i, draw / 100)) for i in (0.0, LAST_DRAW))
                if min(small) < 1:
                    raise ValueError(
                        f'spatial_scale={block.spatial_scale} gives blocks of {small[1]} x '
                        f'{small[2]} on a grid of {grid[1]} x {grid[2]} tokens; raise it'
                    )
                if large == tuple(grid):
                    raise ValueError(
                        f'spatial_scale={block.spatial_scale} and aspect={block.aspect} give '
                        f'blocks that hide all of a {" x ".join(map(str, grid))} grid; lower them'
                    )
        self._checked.add(grid)

    def hide(self, seeds: Tensor, grid: Grid) -> list[Tensor]:
        """(B, T' * S) bool a mask, True where hidden."""
        counters = torch.arange(3 * self.num_masks)
        draws = counter_uniform(seeds[:1], counters, stream=SIZE_STREAM).tolist()
        return [
            self._mask(seeds, grid, i, block.size(grid, draws[3 * i : 3 * i + 3]))
            for i, block in enumerate(self.blocks)
        ]

    def _mask(self, seeds: Tensor, grid: Grid, number: int, size: Sequence[int]) -> Tensor:
        block = self.blocks[number]
        late = torch.arange(math.prod(grid)) >= block.visible_steps(grid[0]) * grid[1] * grid[2]
        hidden = torch.empty(len(seeds), len(late), dtype=torch.bool)
        open_ = torch.arange(len(seeds))
        # nearly always done after one round
        for tries in range(TRIES * block.num_blocks):
            counters = torch.arange(block.num_blocks - tries // TRIES)
            counters += (number << 32) + (tries << 10)
            drawn = _union(seeds[open_], counters, size, grid) | late
            hidden[open_] = drawn
            open_ = open_[drawn.all(1)]
            if not len(open_):
                return hidden
        raise RuntimeError(f'{block} hid all of a {grid} grid {tries + 1} times: lower its scales')


def _union(seeds: Tensor, counters: Tensor, size: Sequence[int], grid: Grid) -> Tensor:
    """(B, T' * S) bool: True in at least one of the blocks that (M,) counters place."""
    inside = []
    for axis in range(3):
        drawn = counter_uniform(seeds[:, None], counters, stream=PLACE_STREAM + axis)
        start = (drawn * (grid[axis] - size[axis] + 1)).long()
        line = torch.arange(grid[axis]) - start[..., None]
        inside.append((line >= 0) & (line < size[axis]))
    times, rows, columns = inside
    area = (rows[..., :, None] & columns[..., None, :]).flatten(2)
    # counts of blocks by a product: no (B, M, T', S) in memory
    return (times.transpose(1, 2).float() @ area.float() > 0.5).flatten(1)
