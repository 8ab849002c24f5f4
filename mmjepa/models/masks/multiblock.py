"""Multi-block masking of patch grids (I-JEPA, arXiv 2301.08243)."""

import itertools
import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .counter_rng import counter_bits, counter_uniform

CHECKS = 100  # draws of each kind that are tried, ends included
LAST_DRAW = 1 - 2.0**-24
TRIES = 20  # failed places of the context before it may overlap one more target


@dataclass
class BlockMasks:
    """What an image shows and what is to be predicted; patch numbers are int64, row by row.

    Attributes:
        context: (B, K_c) visible patches, ascending.
        targets: (B, M, K_t) patches of each target block, ascending; blocks may overlap.
        rows: (U,) the different target patches of the batch, as b * N + number, ascending.
        places: (B, M, K_t) where in ``rows`` each target patch lies.
    """

    context: Tensor
    targets: Tensor
    rows: Tensor
    places: Tensor

    def to(self, device: torch.device) -> 'BlockMasks':
        """The same on a device, without waiting for it."""
        moved = {}
        for part in fields(self):
            tensor = getattr(self, part.name)
            if device.type == 'cuda':
                tensor = tensor.pin_memory()
            moved[part.name] = tensor.to(device, non_blocking=True)
        return BlockMasks(**moved)


def block_size(
    scale: tuple[float, float],
    aspect: tuple[float, float],
    grid: tuple[int, int],
    draw_scale: float,
    draw_aspect: float,
    full: bool,
) -> tuple[int, int]:
    """Rows and columns of a block.

    Args:
        scale: least and largest share of the grid's area.
        aspect: least and largest ratio of height to width.
        grid: rows and columns.
        draw_scale: in [0, 1), where between the shares.
        draw_aspect: in [0, 1), where between the ratios.
        full: a block may be as high or wide as the grid; else one less.
    """
    area = int(grid[0] * grid[1] * (scale[0] + draw_scale * (scale[1] - scale[0])))
    ratio = aspect[0] + draw_aspect * (aspect[1] - aspect[0])
    limit = 0 if full else 1
    height = min(round(math.sqrt(area * ratio)), grid[0] - limit)
    width = min(round(math.sqrt(area / ratio)), grid[1] - limit)
    return height, width


@MODELS.register_module()
class MultiBlockMaskGenerator:
    """Several target blocks, and a large context block without them.

    One size of target and of context block a batch (a rank), places for every image. All contexts
    of a batch are cut to the length of its shortest, so their share depends on the batch size.
    Drawn on the host for the whole batch at once (docs/benchmarks.md).

    Args:
        num_targets: M.
        target_scale: share of the grid's area, least and largest.
        target_aspect: height over width, least and largest.
        context_scale: as ``target_scale``, of a square block.
        min_keep: a context has more visible patches than this, a target block more patches.
        sampling: ``'released'``: the released code's draws, in which one number decides over size
            and aspect, no block reaches the last row or column, and contexts are cut by leaving
            out their last patches (the bottom of the image); ``'corrected'``: two numbers, all
            places, and random patches are left out.
        grid: rows and columns, to be told at once whether they are too small; None: at first use.

    Raises:
        ValueError: a setting out of range, or a grid on which no target has enough patches.
    """

    def __init__(
        self,
        num_targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        min_keep: int = 10,
        sampling: Literal['released', 'corrected'] = 'released',
        grid: tuple[int, int] | None = None,
    ):
        if num_targets < 1:
            raise ValueError(f'num_targets must be at least 1, got {num_targets}')
        for name, (low, high), most in (
            ('target_scale', target_scale, 1.0),
            ('target_aspect', target_aspect, math.inf),
            ('context_scale', context_scale, 1.0),
        ):
            if not 0 < low <= high <= most:
                raise ValueError(f'{name} must ascend within (0, {most}], got {(low, high)}')
        if min_keep < 0:
            raise ValueError(f'min_keep must be at least 0, got {min_keep}')
        if sampling not in ('released', 'corrected'):
            raise ValueError(f"sampling must be 'released' or 'corrected', got {sampling!r}")
        self.num_targets = num_targets
        self.target_scale, self.target_aspect = target_scale, target_aspect
        self.context_scale = context_scale
        self.min_keep = min_keep
        self.corrected = sampling == 'corrected'
        self._checked: set[tuple[int, int]] = set()
        if grid is not None:
            self.check((grid[0], grid[1]))

    def check(self, grid: tuple[int, int]) -> None:
        """Raise ValueError where a block of this grid would have ``min_keep`` patches or fewer."""
        if grid in self._checked:
            return
        seconds = range(CHECKS + 1) if self.corrected else (0,)  # the released aspect is no draw
        for first, second in itertools.product(range(CHECKS + 1), seconds):
            draws = (min(n / CHECKS, LAST_DRAW) for n in (first, second, first))
            for what, size in zip(('target', 'context'), self._sizes(grid, *draws), strict=True):
                if math.prod(size) <= self.min_keep or min(size) < 1:
                    raise ValueError(
                        f'min_keep={self.min_keep}: a {what} block of a {grid[0]} x {grid[1]} grid '
                        f'may have just {size[0]} x {size[1]} patches; lower min_keep, or take '
                        'more patches'
                    )
        self._checked.add(grid)

    def _sizes(
        self, grid: tuple[int, int], target: float, aspect: float, context: float
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        second = aspect if self.corrected else target
        args = grid, target, second, self.corrected
        targets = block_size(self.target_scale, self.target_aspect, *args)
        args = grid, context, context, self.corrected
        return targets, block_size(self.context_scale, (1.0, 1.0), *args)

    def _places(
        self, seeds: Tensor, first: int, count: int, size: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, count) rows and columns of upper left corners."""
        number = torch.arange(first, first + count)
        free = [max(1, grid[i] - size[i] + self.corrected) for i in range(2)]
        drawn = [counter_uniform(seeds[:, None], number, stream=3 + i) for i in range(2)]
        top, left = ((d * n).long() for d, n in zip(drawn, free, strict=True))
        return top, left

    def _inside(
        self, corner: tuple[Tensor, Tensor], size: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """(B, count, N) bool, True in the block."""
        ranges = []
        for i in range(2):
            line = torch.arange(grid[i]) - corner[i][..., None]
            ranges.append((line >= 0) & (line < size[i]))
        return (ranges[0][..., :, None] & ranges[1][..., None, :]).flatten(2)

    def _context(
        self, seeds: Tensor, targets: Tensor, size: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """(B, N) bool, True where visible; ``targets`` (B, M, N)."""
        visible = torch.zeros_like(targets[:, 0])
        open_ = torch.arange(len(seeds))
        # nearly always done after one round
        for tries in range(TRIES * (self.num_targets + 1)):
            respected = self.num_targets - tries // TRIES
            corner = self._places(seeds[open_], 10_000 + tries, 1, size, grid)
            hidden = targets[open_, :respected].any(1)
            kept = self._inside(corner, size, grid)[:, 0] & ~hidden
            visible[open_] = kept
            open_ = open_[kept.sum(1) <= self.min_keep]
            if not len(open_):
                break
        return visible

    def _cut(self, visible: Tensor, seeds: Tensor) -> Tensor:
        """(B, N) bool -> (B, K_c) ascending numbers, K_c that of the shortest."""
        count = int(visible.sum(1).min())
        if not self.corrected:
            order = (~visible).to(torch.uint8).argsort(dim=1, stable=True)
            return order[:, :count]
        noise = counter_bits(seeds[:, None], torch.arange(visible.shape[1]), stream=5)
        order = torch.where(visible, noise, 2**62).argsort(dim=1)
        return order[:, :count].sort(1).values

    @torch.no_grad()
    def __call__(self, seeds: Tensor, grid: tuple[int, int]) -> BlockMasks:
        """Draw the masks of a batch.

        Args:
            seeds: (B,) int64 on the CPU, one a sample; the first one decides over sizes.
            grid: rows and columns of patches.

        Returns:
            The masks, on the CPU.
        """
        self.check(grid)
        draws = counter_uniform(seeds[:1], torch.arange(3), stream=2).tolist()
        target_size, context_size = self._sizes(grid, *draws)
        corner = self._places(seeds, 0, self.num_targets, target_size, grid)
        inside = self._inside(corner, target_size, grid)
        line = torch.arange(target_size[0])[:, None] * grid[1] + torch.arange(target_size[1])
        start = corner[0] * grid[1] + corner[1]
        targets = start[..., None] + line.flatten()
        visible = self._context(seeds, inside, context_size, grid)
        hidden = inside.any(1).flatten()
        rows = hidden.nonzero()[:, 0]
        number = (hidden.cumsum(0) - 1).view(len(seeds), -1)
        places = number.gather(1, targets.flatten(1)).view_as(targets)
        return BlockMasks(self._cut(visible, seeds), targets, rows, places)
