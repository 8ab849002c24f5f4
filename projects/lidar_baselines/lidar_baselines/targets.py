"""Targets made from the inputs: transforms for ``TargetEncoder(policy='data')``."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_bits
from mmjepa.registry import MODELS

_STREAM = 31  # of counter_bits

# rules of tests/contract that a method without target encoder leaves out
DATA_TARGET_CONTRACT = {
    'target_no_grad': 'targets are data: there is no target encoder',
    'target_moves_in_hook': 'targets are data: there is no target encoder',
    'hook_required': 'targets are data: there is no target encoder',
    'silent_monitor': 'targets are data, which cannot collapse, and a decoder starts constant',
    'keep_ids': 'sparse voxels have no token ids',
}


@MODELS.register_module()
class OccupiedVoxels:
    """Occupancy of the whole grid as the numbers of its occupied voxels, of some 0.02 %."""

    def __call__(self, coors: Tensor, sparse_shape: Sequence[int]) -> Tensor:
        """Number voxels as a (B, D, H, W) tensor lies in memory.

        Args:
            coors: (M, 4) int64 b, z, y, x.
            sparse_shape: D, H, W.

        Returns:
            (M,) int64 ``((b * D + z) * H + y) * W + x``.
        """
        sample, z, y, x = coors.unbind(1)
        return ((sample * sparse_shape[0] + z) * sparse_shape[1] + y) * sparse_shape[2] + x


class CellTargets(NamedTuple):
    """What BEV cells hold.

    Attributes:
        points: (n, K, 3) float32 x, y, z; -0.5 to 0.5 across the cell, in z across the range.
        valid: (n, K) bool, False where a cell has fewer than K points.
        density: (n,) float32, all points of the cell over ``density_unit``.
    """

    points: Tensor
    valid: Tensor
    density: Tensor


@MODELS.register_module()
class CellPoints:
    """Raw points and their number in BEV cells (BEV-MAE, arXiv 2212.05758).

    Args:
        max_points: K, most points of a cell that are a target; a fuller cell gives a random
            choice, a hash of the sample's seed and the point's number.
        density_unit: number of points that is density 1.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, max_points: int = 64, density_unit: float = 64.0):
        if max_points < 1 or density_unit < 1:
            raise ValueError(f'must be at least 1: {max_points=}, {density_unit=}')
        self.max_points = max_points
        self.density_unit = density_unit

    def __call__(
        self,
        points: Tensor,
        sample: Tensor,
        cells: Tensor,
        grid_shape: Sequence[int],
        bev_shape: Sequence[int],
        stride: int,
        seeds: Tensor,
    ) -> CellTargets:
        """Collect the points of some cells; never waits for the device.

        Args:
            points: (P, 3) x, y, z in voxels from the grid's corner; those out of the grid count
                for nothing.
            sample: (P,) int64 sample of each, ascending.
            cells: (n,) int64 cell numbers ``b * h * w + y * w + x``.
            grid_shape: voxels of the range in z, y, x.
            bev_shape: (h, w).
            stride: voxels a cell in y and x.
            seeds: (B,) int64, one a sample.
        """
        h, w = bev_shape
        inside = torch.isfinite(points).all(1)
        for axis, size in enumerate(reversed(grid_shape)):
            inside &= (points[:, axis] >= 0) & (points[:, axis] < size)
        place = points.nan_to_num(0, 0, 0)
        x, y = (place[:, :2].floor().long() // stride).unbind(1)
        cell = ((sample * h + y) * w + x).masked_fill(~inside, len(seeds) * h * w)
        # by cell, at random within; the number of a point within its sample draws for it
        start = torch.searchsorted(sample, torch.arange(len(seeds), device=points.device))
        number = torch.arange(len(points), device=points.device) - start[sample]
        order = counter_bits(seeds[sample], number, stream=_STREAM).argsort()
        order = order[cell[order].argsort(stable=True)]
        ordered = cell[order]
        first = torch.searchsorted(ordered, cells)
        count = torch.searchsorted(ordered, cells, right=True) - first
        slot = torch.arange(self.max_points, device=points.device)
        valid = slot < count[:, None]
        x, y, z = place[order[(first[:, None] + slot).clamp(max=len(order) - 1)]].unbind(2)
        x = x / stride - (cells % w)[:, None]
        y = y / stride - (cells // w % h)[:, None]
        local = torch.stack([x, y, z / grid_shape[0]], 2) - 0.5
        return CellTargets(
            local.masked_fill(~valid[..., None], 0), valid, count.float() / self.density_unit
        )
