"""Hard voxelisation with mean features, vectorised over the batch, on any device."""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_uniform

_RANK_BITS = 24  # as many random bits as counter_uniform gives
_POINT_STREAM, _VOXEL_STREAM = 11, 12


class VoxelBatch(NamedTuple):
    """Voxels of a batch, sorted by (b, z, y, x).

    Attributes:
        feats: (M, F) float32, mean of the points that were kept.
        coors: (M, 4) int64 b, z, y, x.
        num_points: (M,) int64, points behind each mean.
        dropped_points: 0-d float32, share of the points in range that no voxel holds.
        dropped_voxels: 0-d float32, share of the occupied voxels that were left out.
    """

    feats: Tensor
    coors: Tensor
    num_points: Tensor
    dropped_points: Tensor
    dropped_voxels: Tensor


@functools.lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Small float32 tensor, copied to the device once: each copy would wait for it."""
    return torch.tensor(values, dtype=torch.float32, device=device)


def grid_shape(
    point_cloud_range: Sequence[float], voxel_size: Sequence[float]
) -> tuple[int, int, int]:
    """Voxels in z, y and x.

    Args:
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max in metres.
        voxel_size: x, y, z in metres.

    Raises:
        ValueError: an empty range, or one that is no multiple of the voxel size.
    """
    if len(point_cloud_range) != 6 or len(voxel_size) != 3:
        raise ValueError(
            'point_cloud_range takes 6 numbers (x, y, z minimum, then maximum) and voxel_size 3; '
            f'got {list(point_cloud_range)} and {list(voxel_size)}'
        )
    shape = []
    for axis, name in enumerate('xyz'):
        low, high, size = point_cloud_range[axis], point_cloud_range[axis + 3], voxel_size[axis]
        cells = round((high - low) / size) if size > 0 else 0
        if cells < 1:
            raise ValueError(f'no voxel of {size} m fits {name} from {low} to {high} m')
        if abs(low + cells * size - high) > 1e-3 * size:
            raise ValueError(
                f'{name} from {low} to {high} m is no whole number of voxels of {size} m: '
                f'{cells} voxels would end at {low + cells * size:.6g} m'
            )
        shape.append(cells)
    return shape[2], shape[1], shape[0]


def hard_voxelize_mean(
    points: Sequence[Tensor],
    seeds: Tensor,
    point_cloud_range: Sequence[float],
    voxel_size: Sequence[float],
    max_points: int = 5,
    max_voxels: int = 16000,
    drop: Literal['random', 'first'] = 'random',
) -> VoxelBatch:
    """Voxels of a batch of clouds, each the mean of at most ``max_points`` of its points.

    The same voxels, points and means as mmcv's hard voxelisation and mmdet3d's
    ``HardSimpleVFE`` where no cap binds, and with ``drop='first'`` also where one does: mmcv
    keeps a voxel's first points and a sweep's first voxels in the order of the points. On a
    sweep ordered by ring or azimuth that leaves out a whole sector, hence ``drop='random'``,
    drawn from the sample's seed alone. Waits for the device once.

    Args:
        points: one (N_i, F) float tensor a sample on one device, x, y, z in metres first;
            points that are out of range or not finite are left out.
        seeds: (B,) int64, one a sample.
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max in metres; the maximum is
            outside.
        voxel_size: x, y, z in metres.
        max_points: most points averaged in a voxel.
        max_voxels: most voxels of a sample.
        drop: what is kept where a cap binds.

    Raises:
        ValueError: no sample, clouds of different or too few features, a sample without a
            point in range (named by its number in the batch), a range that is no multiple of
            the voxel size, or a cap below 1.
    """
    _check_arguments(points, max_points, max_voxels, drop)
    shape = grid_shape(point_cloud_range, voxel_size)
    batch_size, device = len(points), points[0].device
    cloud = torch.cat([p.float() for p in points])
    lengths = torch.tensor([len(p) for p in points]).to(device, non_blocking=True)
    sample = torch.repeat_interleave(
        torch.arange(batch_size, device=device), lengths, output_size=len(cloud)
    )
    cell, valid = _cell_numbers(cloud, sample, batch_size, shape, point_cloud_range, voxel_size)
    if drop == 'random':
        within = torch.arange(len(cloud), device=device) - (lengths.cumsum(0) - lengths)[sample]
        draw = counter_uniform(seeds.to(device)[sample], within, stream=_POINT_STREAM)
        key, order = torch.sort((cell << _RANK_BITS) + _as_rank(draw), stable=True)
        cell = key >> _RANK_BITS
    else:
        cell, order = torch.sort(cell, stable=True)

    # first row of each voxel among the sorted points, of which the invalid ones come last
    first = torch.ones_like(valid)
    first[1:] = cell[1:] != cell[:-1]
    first &= valid[order]
    per_sample = torch.zeros(batch_size, dtype=torch.int64, device=device)
    per_sample.index_add_(0, sample[order], first.long())
    counts = per_sample.tolist()  # the one wait for the device
    if 0 in counts:
        raise ValueError(
            f'sample {counts.index(0)} of the batch has no point within '
            f'{list(point_cloud_range)} m: wrong units, wrong axes or an empty sweep'
        )
    num_valid = valid.sum()
    starts = _select(first, torch.arange(len(cell), device=device), sum(counts))
    sizes = torch.diff(starts, append=num_valid[None])
    if max(counts) > max_voxels:
        kept = _cap_voxels(cell[starts], order[starts], counts, seeds, shape, max_voxels, drop)
        starts, sizes = starts[kept], sizes[kept]
    num_points = sizes.clamp(max=max_points)
    return VoxelBatch(
        _means(cloud, order, starts, num_points, max_points),
        _coordinates(cell[starts], shape),
        num_points,
        1 - num_points.sum().float() / num_valid.float(),
        torch.full((), 1 - len(starts) / sum(counts), device=device),
    )


def _means(
    cloud: Tensor, order: Tensor, starts: Tensor, num_points: Tensor, max_points: int
) -> Tensor:
    """(M, F) means of the first points of each voxel; no atomics, hence the same every time."""
    slot = torch.arange(max_points, device=cloud.device)
    rows = order[(starts[:, None] + slot).clamp(max=len(order) - 1)]
    gathered = cloud[rows].masked_fill((slot >= num_points[:, None])[..., None], 0)
    return gathered.sum(1) / num_points[:, None].float()


def _coordinates(cells: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(M, 4) b, z, y, x of voxel numbers."""
    columns = []
    for size in reversed(shape):
        columns.append(cells % size)
        cells = cells // size
    return torch.stack([cells, *reversed(columns)], 1)


def _as_rank(draw: Tensor) -> Tensor:
    return (draw * 2**_RANK_BITS).long()


def _check_arguments(points: Sequence[Tensor], max_points: int, max_voxels: int, drop: str) -> None:
    if not points:
        raise ValueError('no sample to voxelise: points is an empty list')
    features = [tuple(p.shape[1:]) for p in points]
    if any(p.ndim != 2 for p in points) or len(set(features)) > 1 or features[0][0] < 3:
        raise ValueError(
            'point clouds must be (N, F) with the same F >= 3 in all samples, '
            f'got {[tuple(p.shape) for p in points]}'
        )
    if max_points < 1 or max_voxels < 1:
        raise ValueError(f'caps must be at least 1: {max_points=}, {max_voxels=}')
    if drop not in ('random', 'first'):
        raise ValueError(f"drop must be 'random' or 'first', got {drop!r}")


def _cell_numbers(
    cloud: Tensor,
    sample: Tensor,
    batch_size: int,
    shape: tuple[int, int, int],
    point_cloud_range: Sequence[float],
    voxel_size: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Number of each point's voxel, ((b * D + z) * H + y) * W + x, and whether it is in range.

    Points out of range get a number beyond all voxels.
    """
    depth, height, width = shape
    total = batch_size * depth * height * width
    if total >= 2 ** (62 - _RANK_BITS):
        raise ValueError(f'a grid of {batch_size} x {shape} voxels is too large to number')
    low = _constant(tuple(point_cloud_range[:3]), cloud.device)
    size = _constant(tuple(voxel_size), cloud.device)
    # float32 and a true division, as mmcv: a scalar divisor becomes a product on CUDA
    place = torch.floor((cloud[:, :3] - low) / size)
    inside = (place >= 0) & (place < _constant((width, height, depth), cloud.device))
    valid = inside.all(1) & torch.isfinite(cloud).all(1)
    x, y, z = place.nan_to_num(0, 0, 0).long().unbind(1)
    key = ((sample * depth + z) * height + y) * width + x
    return key.masked_fill(~valid, total), valid


def _select(chosen: Tensor, values: Tensor, count: int) -> Tensor:
    """``values[chosen]`` where their number is known, which spares a wait for the device."""
    place = (chosen.cumsum(0) - 1).masked_fill(~chosen, count)
    return values.new_empty(count + 1).scatter_(0, place, values)[:count]


def _cap_voxels(
    cells: Tensor,
    first_points: Tensor,
    counts: list[int],
    seeds: Tensor,
    shape: tuple[int, int, int],
    max_voxels: int,
    drop: str,
) -> Tensor:
    """Rows of the voxels that the cap leaves, in their order."""
    device = cells.device
    volume = shape[0] * shape[1] * shape[2]
    sample = cells // volume
    if drop == 'random':
        draw = counter_uniform(seeds.to(device)[sample], cells % volume, stream=_VOXEL_STREAM)
        rank = (sample << _RANK_BITS) + _as_rank(draw)
    else:
        rank = first_points  # the samples' points follow each other
    order = torch.sort(rank, stable=True)[1]
    number = torch.tensor(counts).to(device, non_blocking=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=device)
    position -= (number.cumsum(0) - number)[sample]
    left = sum(min(count, max_voxels) for count in counts)
    return _select(position < max_voxels, torch.arange(len(cells), device=device), left)
