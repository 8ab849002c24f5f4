"""BEV-guided masking of occupied and empty cells (AD-L-JEPA, arXiv 2501.04969)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .counter_rng import counter_bits, counter_uniform

VISIBLE_OCCUPIED, MASKED_OCCUPIED, VISIBLE_EMPTY, MASKED_EMPTY = range(4)


@dataclass
class BEVMasks:
    """A partition of all B*h*w BEV cells and of the voxels in them.

    Cell numbers are ``b * h * w + y * w + x``; every index tensor is ascending int64.

    Attributes:
        classes: (B, h, w) uint8: 0 visible occupied, 1 masked occupied, 2 visible empty,
            3 masked empty.
        visible_occupied: (n_CO,) cells whose voxels the context encoder sees.
        masked_occupied: (n_TO,) cells whose voxels the target encoder sees.
        visible_empty: (n_CE,) cells.
        masked_empty: (n_TE,) cells.
        visible_voxels: (M_c,) rows of the voxel tensors.
        masked_voxels: (M_t,) rows; the complement.
    """

    classes: Tensor
    visible_occupied: Tensor
    masked_occupied: Tensor
    visible_empty: Tensor
    masked_empty: Tensor
    visible_voxels: Tensor
    masked_voxels: Tensor


def _split_occupied(noise: Tensor, occupied: Tensor, keep_ratio: float) -> Tensor:
    """Mark exactly ``int(n * keep_ratio)`` (at least 1, at most n - 1) occupied blocks of each row.

    Args:
        noise: (R, K) int64 random bits below 2**62.
        occupied: (R, K) bool.
        keep_ratio: share that stays visible.

    Returns:
        (R, K) bool, True where an occupied block is visible.
    """
    last = 2**62
    keyed = torch.where(occupied, noise, last)
    count = occupied.sum(1, keepdim=True)
    # float64: int(n * ratio) must be exact for any count
    keep = (count.double() * keep_ratio).long()
    keep = torch.minimum(keep.clamp(min=1), (count - 1).clamp(min=1))
    ordered = torch.cat([keyed.sort(1).values, keyed.new_full((len(keyed), 1), last)], 1)
    return keyed < ordered.gather(1, keep)


@MODELS.register_module()
class BEVMaskGenerator:
    """Splits occupied cells exactly and empty cells by chance into visible and masked.

    Args:
        mask_ratio: share of the occupied cells that is masked.
        empty_mask_ratio: share of the empty cells that is masked; None: ``mask_ratio``.
            0 leaves every empty cell visible (the ablation without empty masking).
        mask_per: ``'batch'`` takes the exact ratio over all occupied cells of the batch (the
            released form; per rank when distributed), ``'sample'`` within each sample.
        cell_multiplier: masks blocks of this many cells a side instead of single cells.

    Raises:
        ValueError: a ratio or multiplier is out of range.
    """

    def __init__(
        self,
        mask_ratio: float = 0.5,
        empty_mask_ratio: float | None = None,
        mask_per: Literal['batch', 'sample'] = 'batch',
        cell_multiplier: int = 1,
    ):
        if not 0 < mask_ratio < 1:
            raise ValueError(f'mask_ratio must lie strictly between 0 and 1, got {mask_ratio}')
        if empty_mask_ratio is None:
            empty_mask_ratio = mask_ratio
        if not 0 <= empty_mask_ratio < 1:
            raise ValueError(f'empty_mask_ratio must lie in [0, 1), got {empty_mask_ratio}')
        if mask_per not in ('batch', 'sample'):
            raise ValueError(f"mask_per must be 'batch' or 'sample', got {mask_per!r}")
        if cell_multiplier < 1:
            raise ValueError(f'cell_multiplier must be at least 1, got {cell_multiplier}')
        self.mask_ratio = mask_ratio
        self.empty_mask_ratio = empty_mask_ratio
        self.mask_per = mask_per
        self.cell_multiplier = cell_multiplier

    def _visible(self, occupied: Tensor, seeds: Tensor) -> Tensor:
        """(B, h, w) bool occupancy of blocks -> (B, h, w) bool, True where visible."""
        flat = occupied.flatten(1)
        number = torch.arange(flat.shape[1], device=flat.device)
        noise = counter_bits(seeds[:, None], number, stream=1)
        if self.mask_per == 'batch':
            visible = _split_occupied(
                noise.reshape(1, -1), flat.reshape(1, -1), 1 - self.mask_ratio
            ).view_as(flat)
        else:
            visible = _split_occupied(noise, flat, 1 - self.mask_ratio)
        visible_empty = counter_uniform(seeds[:, None], number, stream=2) >= self.empty_mask_ratio
        return torch.where(flat, visible, visible_empty).view_as(occupied)

    @torch.no_grad()
    def __call__(
        self, cells: Tensor, batch_size: int, bev_shape: tuple[int, int], seeds: Tensor
    ) -> BEVMasks:
        """Draw the masks.

        Args:
            cells: (M,) int64 cell number of each voxel.
            batch_size: B.
            bev_shape: (h, w).
            seeds: (B,) int64, one a sample.

        Returns:
            The partition; one host read gives all its sizes.
        """
        h, w = bev_shape
        occupied = torch.zeros(batch_size * h * w, dtype=torch.bool, device=cells.device)
        occupied[cells] = True
        grid = occupied.view(batch_size, h, w)
        k = self.cell_multiplier
        if k == 1:
            visible = self._visible(grid, seeds)
        else:
            pad = torch.nn.functional.pad(grid, (0, -w % k, 0, -h % k))
            blocks = pad.unflatten(2, (-1, k)).any(3).unflatten(1, (-1, k)).any(2)
            visible = self._visible(blocks, seeds)
            visible = visible.repeat_interleave(k, 1).repeat_interleave(k, 2)[:, :h, :w]
        classes = (2 * (~grid).to(torch.uint8) + (~visible).to(torch.uint8)).contiguous()
        voxel_masked = classes.view(-1)[cells]
        # one sort each and one host read for all sizes, instead of a nonzero() per class
        order = classes.view(-1).sort(stable=True).indices
        voxels = voxel_masked.sort(stable=True).indices
        # comparisons, since bincount waits for the device to learn its length
        counted = classes.view(-1, 1) == torch.arange(4, dtype=torch.uint8, device=cells.device)
        sizes = torch.cat([counted.sum(0), voxel_masked.sum(dtype=torch.long)[None]]).tolist()
        parts = order.split(sizes[:4])
        n_visible = len(cells) - sizes[4]
        return BEVMasks(
            classes,
            visible_occupied=parts[0],
            masked_occupied=parts[1],
            visible_empty=parts[2],
            masked_empty=parts[3],
            visible_voxels=voxels[:n_visible],
            masked_voxels=voxels[n_visible:],
        )
