"""Range-aware dropping of voxels (Occupancy-MAE, arXiv 2206.09900)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_bits
from mmjepa.registry import MODELS

_STREAM = 21  # of counter_bits; the core's generators use others


@dataclass
class VoxelMasks:
    """A partition of the voxels of a batch; ascending int64 rows of the voxel tensors.

    Attributes:
        visible_voxels: (M_c,) rows that the encoder sees.
        masked_voxels: (M_t,) rows that it doesn't; the complement.
    """

    visible_voxels: Tensor
    masked_voxels: Tensor


@MODELS.register_module()
class RangeAwareMaskGenerator:
    """Keeps a share of the voxels that depends on their distance: far ones are sparse already.

    In every sample and band of distance exactly ``int(n * keep_ratio)`` of the n voxels stay
    (at least 1, at most n - 1; a single voxel stays). The draw is a hash of the sample's seed
    and the voxel's place in the grid.

    Args:
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max in metres.
        voxel_size: x, y, z in metres.
        thresholds: ascending limits between the bands, in metres or voxels by ``distance``.
        keep_ratios: share that stays visible in each band, near to far; one more than
            ``thresholds``. The description gives 0.5 near and 0.7 beyond.
        distance: what is compared with the thresholds. ``'metres'``: horizontal distance of the
            voxel's centre from the sensor, which stands at x = y = 0 (the paper's intention).
            ``'corner_index'``: the released rule, horizontal distance in voxels from the grid's
            corner; at 0.05 m its thresholds are 1.5 and 2.5 m from a corner of the range, so that
            nearly every voxel counts as far.

    Raises:
        ValueError: a ratio, threshold or rule that can't be.
    """

    def __init__(
        self,
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        thresholds: Sequence[float] = (30.0, 50.0),
        keep_ratios: Sequence[float] = (0.5, 0.7, 0.7),
        distance: Literal['metres', 'corner_index'] = 'metres',
    ):
        limits = [0.0, *thresholds]
        if any(b <= a for a, b in pairwise(limits)):
            raise ValueError(f'thresholds must be positive and ascending, got {list(thresholds)}')
        if len(keep_ratios) != len(thresholds) + 1:
            raise ValueError(
                f'keep_ratios needs a ratio for each of the {len(thresholds) + 1} bands that '
                f'thresholds {list(thresholds)} make, got {list(keep_ratios)}'
            )
        if not all(0 < ratio < 1 for ratio in keep_ratios):
            raise ValueError(
                f'keep_ratios must lie strictly between 0 and 1, got {list(keep_ratios)}'
            )
        if distance not in ('metres', 'corner_index'):
            raise ValueError(f"distance must be 'metres' or 'corner_index', got {distance!r}")
        self.corner = (point_cloud_range[0], point_cloud_range[1])
        self.voxel_size = (voxel_size[0], voxel_size[1])
        self.thresholds = tuple(thresholds)
        self.keep_ratios = tuple(keep_ratios)
        self.distance = distance

    def bands(self, coors: Tensor) -> Tensor:
        """(M,) int64 band of each voxel, 0 is the nearest; ``coors`` (M, 4) as b, z, y, x."""
        y, x = coors[:, 2:].float().unbind(1)
        if self.distance == 'metres':
            x = self.corner[0] + (x + 0.5) * self.voxel_size[0]
            y = self.corner[1] + (y + 0.5) * self.voxel_size[1]
        distance = torch.hypot(x, y)
        band = torch.zeros_like(coors[:, 0])
        for threshold in self.thresholds:
            band += distance >= threshold
        return band

    def _keep(self, count: Tensor) -> Tensor:
        """(B, bands) int64 voxels -> how many of them stay."""
        # float64: int(n * ratio) must be exact for any count
        keep = [
            (n.double() * r).long() for n, r in zip(count.unbind(1), self.keep_ratios, strict=True)
        ]
        return torch.minimum(torch.stack(keep, 1).clamp(min=1), (count - 1).clamp(min=1))

    @torch.no_grad()
    def __call__(
        self, coors: Tensor, batch_size: int, sparse_shape: Sequence[int], seeds: Tensor
    ) -> VoxelMasks:
        """Draw the masks.

        Args:
            coors: (M, 4) int64 b, z, y, x.
            batch_size: B.
            sparse_shape: D, H, W of the voxel grid.
            seeds: (B,) int64, one a sample.

        Returns:
            The partition; one host read gives its sizes.
        """
        sample, z, y, x = coors.unbind(1)
        place = (z * sparse_shape[1] + y) * sparse_shape[2] + x
        num_bands = len(self.keep_ratios)
        group = sample * num_bands + self.bands(coors)
        # by group, at random within
        order = counter_bits(seeds[sample], place, stream=_STREAM).argsort()
        order = order[group[order].argsort(stable=True)]
        group = group[order]
        count = torch.zeros(batch_size * num_bands, dtype=torch.int64, device=coors.device)
        count.index_add_(0, group, torch.ones_like(group))
        rank = torch.arange(len(group), device=coors.device) - (count.cumsum(0) - count)[group]
        keep = self._keep(count.view(batch_size, num_bands)).flatten()
        masked = torch.empty_like(group, dtype=torch.uint8)
        masked[order] = (rank >= keep[group]).to(torch.uint8)
        rows = masked.sort(stable=True).indices
        (num_masked,) = masked.sum(dtype=torch.int64)[None].tolist()
        num_visible = len(rows) - num_masked
        return VoxelMasks(rows[:num_visible], rows[num_visible:])
