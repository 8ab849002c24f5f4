"""DMT-JEPA's targets: a patch is told by its most similar neighbours."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmjepa.models.layers.aggregation import AggregationHead
from mmjepa.models.masks import BlockMasks
from mmjepa.registry import MODELS


def neighbour_table(grid: tuple[int, int], window: int, wrap: bool) -> tuple[Tensor, Tensor]:
    """Neighbours of every patch.

    Args:
        grid: rows and columns.
        window: odd side of the square around a patch, which is no neighbour of itself.
        wrap: the grid is a torus; else it ends at its borders.

    Returns:
        (N, window^2 - 1) int64 patch numbers, and bool, False where there is none.
    """
    reach = window // 2
    steps = torch.arange(-reach, reach + 1)
    steps = torch.cartesian_prod(steps, steps)
    steps = steps[(steps != 0).any(1)]
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1]))
    near = places[:, None] + steps
    size = torch.tensor(grid)
    there = torch.ones(near.shape[:2], dtype=torch.bool)
    if not wrap:
        there = ((near >= 0) & (near < size)).all(2)
    near = near % size
    return near[..., 0] * grid[1] + near[..., 1], there


@MODELS.register_module()
class NeighbourTargets:
    """Aggregates, for every target patch, its k most similar neighbours (arXiv 2405.17995).

    Args:
        window: odd side of the neighbourhood.
        k: neighbours taken, fewer where there are fewer.
        border: ``'clip'`` to the image; ``'block'`` to the patch's own target block, as in the
            paper's figure; ``'wrap'`` to the opposite side, as released.
        query: ``'image'``: the mean of the image's target tokens; ``'patch'``: the token itself;
            ``'released'``: the mean of some image of the batch, as the released code tiles them.
        aggregate: ``'attention'`` of the head; ``'mean'`` or ``'max'`` of the neighbours, which
            need no head (ablations).

    Raises:
        ValueError: a setting out of range, or a window that wraps around a smaller grid.
    """

    def __init__(
        self,
        window: int = 3,
        k: int = 4,
        border: Literal['clip', 'block', 'wrap'] = 'clip',
        query: Literal['image', 'patch', 'released'] = 'image',
        aggregate: Literal['attention', 'mean', 'max'] = 'attention',
    ):
        if window < 3 or window % 2 == 0:
            raise ValueError(f'window must be odd and at least 3, got {window}')
        if not 1 <= k < window**2:
            raise ValueError(f'k must lie in [1, {window**2 - 1}], got {k}')
        for name, value, allowed in (
            ('border', border, ('clip', 'block', 'wrap')),
            ('query', query, ('image', 'patch', 'released')),
            ('aggregate', aggregate, ('attention', 'mean', 'max')),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        self.window, self.k = window, k
        self.border, self.query, self.aggregate = border, query, aggregate
        self._tables: dict[tuple, tuple[Tensor, Tensor]] = {}

    def _table(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        key = (grid, device)
        if key not in self._tables:
            if self.border == 'wrap' and self.window > min(grid):
                raise ValueError(
                    f"window={self.window} with border='wrap' meets patches of a {grid[0]} x "
                    f"{grid[1]} grid twice; take a smaller window, or border='clip'"
                )
            table = neighbour_table(grid, self.window, self.border == 'wrap')
            self._tables[key] = (table[0].to(device), table[1].to(device))
        return self._tables[key]

    def choose(
        self, tokens: Tensor, masks: BlockMasks, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The chosen neighbours.

        Args:
            tokens: (B, N, D) target tokens.
            masks: of the batch.
            grid: rows and columns.

        Returns:
            (R,) patches, (R, k) their neighbours, both as b * N + number, and (R, k) bool, False
            where there are fewer. R counts the different target patches, or, where the block
            decides (``border='block'``), all B * M * K_t.
        """
        near, there = self._table(grid, tokens.device)
        batch, count = tokens.shape[:2]
        with torch.autocast(tokens.device.type, enabled=False):
            unit = F.normalize(tokens.float(), dim=2)
            similar = unit @ unit.transpose(1, 2)  # float32: neighbours tie in bfloat16
        similar = similar.gather(2, near.expand(batch, -1, -1)).masked_fill(~there, -torch.inf)
        image = torch.arange(batch, device=tokens.device)
        if self.border == 'block':
            inside = F.one_hot(masks.targets, count).sum(2).bool()  # B, M, N
            own = near[masks.targets]
            member = inside.gather(2, own.flatten(2)).view_as(own)
            patches = (masks.targets + image[:, None, None] * count).flatten()
            scores = similar.flatten(0, 1)[patches].masked_fill(~member.flatten(0, 2), -torch.inf)
        else:
            patches = masks.rows
            scores = similar.flatten(0, 1)[patches]
        best, which = scores.topk(self.k, dim=1)
        ids = near[patches % count].gather(1, which) + (patches // count * count)[:, None]
        return patches, ids, best > -torch.inf

    def __call__(
        self,
        tokens: Tensor,
        masks: BlockMasks,
        grid: tuple[int, int],
        head: AggregationHead | None,
    ) -> Tensor:
        """Make the targets.

        Args:
            tokens: (B, N, D) normalised tokens of the target encoder.
            masks: of the batch.
            grid: rows and columns.
            head: the target's; None where ``aggregate`` needs none.

        Returns:
            (B, M, K_t, D).
        """
        patches, ids, seen = self.choose(tokens, masks, grid)
        flat = tokens.flatten(0, 1)
        if self.aggregate == 'attention':
            assert head is not None
            made = head.aggregate(self._queries(tokens, patches), flat, ids, seen)
        else:
            if self.aggregate == 'mean':
                weight = seen.to(flat.dtype)[..., None]
                made = (flat[ids] * weight).sum(1) / weight.sum(1)
            else:
                made = flat[ids].masked_fill(~seen[..., None], -torch.inf).amax(1)
            made = torch.where(seen.any(1, keepdim=True), made, flat[patches])
        if self.border == 'block':
            return made.view(*masks.targets.shape, -1)
        return made[masks.places]

    def _queries(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """(R, D)."""
        batch, count = tokens.shape[:2]
        if self.query == 'patch':
            return tokens.flatten(0, 1)[patches]
        image = patches // count if self.query == 'image' else patches % batch
        return tokens.mean(1)[image]
