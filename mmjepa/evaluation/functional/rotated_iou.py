"""Overlap of rotated boxes in float64: exact where edges coincide, on CPU and CUDA.

An upright box is x, y, z of the gravity centre, dx, dy, dz and the yaw from +x towards +y; a
rotated rectangle leaves z and dz out. A box with a size <= 0 is empty and overlaps nothing.

No polygon is built: in the frame of the second rectangle the intersection is an integral along
the edges of the first one, clamped to the second. It is continuous in every coordinate, so rounding
cannot flip a decision; there are no vertices to sort or to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal['iou', 'first', 'intersection']
Overlap = Callable[[Tensor, Tensor], Tensor]

_PAIRS_AT_A_TIME = 1 << 16  # of clipping: 2 MB a temporary
_CANDIDATES_AT_A_TIME = 1 << 21  # of the distance test
_PLANE = [0, 1, 3, 4, 6]  # x, y, dx, dy, yaw of an upright box
_DUST = 1e-13  # of the larger area
_CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))  # counter-clockwise


def paired_overlaps(first: Tensor, second: Tensor, criterion: Criterion = 'iou') -> Tensor:
    """Overlap of rectangle i with rectangle i.

    Args:
        first: (P, 5) x, y, dx, dy, yaw.
        second: (P, 5).
        criterion: ``'iou'``; ``'first'``, intersection over the first one's area; or
            ``'intersection'``, the area.

    Returns:
        (P,) float64.

    Raises:
        ValueError: wrong shapes, values that aren't finite, unknown criterion.
    """
    first, second = _checked(first, second, 5, paired=True)
    intersection = _intersection(first, second)
    return _ratio(intersection, _volume(first[:, 2:4]), _volume(second[:, 2:4]), criterion)


def paired_overlaps_3d(first: Tensor, second: Tensor, criterion: Criterion = 'iou') -> Tensor:
    """Overlap of upright box i with upright box i.

    Args:
        first: (P, 7) x, y, z, dx, dy, dz, yaw; z is the middle of the height.
        second: (P, 7).
        criterion: as in :func:`paired_overlaps`, of volumes.

    Returns:
        (P,) float64.

    Raises:
        ValueError: wrong shapes, values that aren't finite, unknown criterion.
    """
    first, second = _checked(first, second, 7, paired=True)
    top = torch.minimum(first[:, 2] + first[:, 5] / 2, second[:, 2] + second[:, 5] / 2)
    bottom = torch.maximum(first[:, 2] - first[:, 5] / 2, second[:, 2] - second[:, 5] / 2)
    shared = (top - bottom).clamp(min=0)
    intersection = _intersection(first[:, _PLANE], second[:, _PLANE]) * shared
    return _ratio(intersection, _volume(first[:, 3:6]), _volume(second[:, 3:6]), criterion)


def paired_image_overlaps(first: Tensor, second: Tensor, criterion: Criterion = 'iou') -> Tensor:
    """Overlap of image box i with image box i, as KITTI counts it (no pixel is added).

    Args:
        first: (P, 4) left, top, right, bottom.
        second: (P, 4).
        criterion: as in :func:`paired_overlaps`.

    Returns:
        (P,) float64.

    Raises:
        ValueError: wrong shapes, values that aren't finite, unknown criterion.
    """
    first, second = _checked(first, second, 4, paired=True)
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, 2:], second[:, 2:])
    areas = [_volume(boxes[:, 2:] - boxes[:, :2]) for boxes in (first, second)]
    return _ratio(_volume(high - low), areas[0], areas[1], criterion)


def rotated_overlaps(first: Tensor, second: Tensor, criterion: Criterion = 'iou') -> Tensor:
    """Overlap of every rectangle with every other; only near pairs are computed.

    Args:
        first: (N, 5) x, y, dx, dy, yaw.
        second: (M, 5).
        criterion: as in :func:`paired_overlaps`.

    Returns:
        (N, M) float64.

    Raises:
        ValueError: wrong shapes, values that aren't finite, unknown criterion.
    """
    first, second = _checked(first, second, 5)
    return _matrix(first, second, lambda a, b: paired_overlaps(a, b, criterion))


def overlaps_3d(first: Tensor, second: Tensor, criterion: Criterion = 'iou') -> Tensor:
    """Overlap of every upright box with every other; only near pairs are computed.

    Args:
        first: (N, 7) x, y, z, dx, dy, dz, yaw; z is the middle of the height.
        second: (M, 7).
        criterion: as in :func:`paired_overlaps`, of volumes.

    Returns:
        (N, M) float64.

    Raises:
        ValueError: wrong shapes, values that aren't finite, unknown criterion.
    """
    first, second = _checked(first, second, 7)
    return _matrix(first, second, lambda a, b: paired_overlaps_3d(a, b, criterion))


def camera_boxes_upright(location: Tensor, dimensions: Tensor, rotation_y: Tensor) -> Tensor:
    """KITTI's camera boxes as upright boxes with the same overlaps.

    The camera's x (right) and z (ahead) become the plane, its y (down) becomes -z; rotation_y turns
    from +x towards -z of the camera, hence the sign.

    Args:
        location: (N, 3) centre of the bottom face.
        dimensions: (N, 3) length, height, width (mmdet3d's order).
        rotation_y: (N,).

    Returns:
        (N, 7) float64.
    """
    x, y, z = location.double().unbind(1)
    length, height, width = dimensions.double().unbind(1)
    yaw = -rotation_y.double()
    return torch.stack([x, z, height / 2 - y, length, width, height, yaw], dim=1)


def circles_meet(first: Tensor, second: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Which pairs can overlap: their circumscribed circles in the plane meet.

    Args:
        first: (N, 5) or (N, 7) boxes.
        second: (M, 5) or (M, 7).
        i: (P,) int64, rows of ``first``.
        j: (P,) int64, rows of ``second``.

    Returns:
        (P,) bool.
    """
    planes = [boxes[:, _PLANE] if boxes.shape[1] == 7 else boxes for boxes in (first, second)]
    a, b = (plane.double() for plane in planes)
    reach = [plane[:, 2:4].clamp(min=0).norm(dim=1) / 2 for plane in (a, b)]
    distance = torch.hypot(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1])
    # a hair wider: rounding must not lose a pair
    return distance <= (reach[0][i] + reach[1][j]) * (1 + 1e-9)


def in_chunks(overlap: Overlap, first: Tensor, second: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(P,) ``overlap`` of the pairs (i, j), with bounded memory for temporaries."""
    parts = zip(i.split(_PAIRS_AT_A_TIME), j.split(_PAIRS_AT_A_TIME), strict=True)
    return torch.cat([overlap(first[a], second[b]) for a, b in parts])


def _checked(
    first: Tensor, second: Tensor, columns: int, paired: bool = False
) -> tuple[Tensor, Tensor]:
    for boxes in (first, second):
        if boxes.ndim != 2 or boxes.shape[1] != columns:
            raise ValueError(f'boxes must be (N, {columns}), got {tuple(boxes.shape)}')
        if not torch.isfinite(boxes).all():
            row = int((~torch.isfinite(boxes).all(dim=1)).nonzero()[0, 0])
            raise ValueError(f'box {row} is not finite: {boxes[row].tolist()}')
    if paired and len(first) != len(second):
        raise ValueError(f'pairs need equally many boxes, got {len(first)} and {len(second)}')
    return first.double(), second.double()


def _volume(sizes: Tensor) -> Tensor:
    return sizes.clamp(min=0).prod(dim=1)


def _ratio(intersection: Tensor, first: Tensor, second: Tensor, criterion: Criterion) -> Tensor:
    # rounding must not lift a ratio above 1
    intersection = torch.minimum(intersection, torch.minimum(first, second))
    if criterion == 'intersection':
        return intersection
    if criterion not in ('iou', 'first'):
        raise ValueError(f"criterion is 'iou', 'first' or 'intersection', got {criterion!r}")
    whole = first if criterion == 'first' else first + second - intersection
    return torch.where(intersection > 0, intersection / whole, 0.0)


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    """(P, 5), (P, 5) -> (P,) area of the intersection."""
    x, y = _corners_seen_from(first, second)
    half = second[:, 2:4, None].clamp(min=0) / 2
    # each edge x0,y0 -> x1,y1, cut to the second rectangle's range of x
    x1, y1 = x.roll(-1, dims=1), y.roll(-1, dims=1)
    left = torch.maximum(torch.minimum(x, half[:, 0]), -half[:, 0])
    right = torch.maximum(torch.minimum(x1, half[:, 0]), -half[:, 0])
    run = torch.where(x1 == x, 1.0, x1 - x)
    start = y + ((left - x) / run).clamp(0, 1) * (y1 - y)
    stop = y + ((right - x) / run).clamp(0, 1) * (y1 - y)
    # counter-clockwise: lower edges run to the right, upper ones back
    below = _mean_of_clamped(start, stop, half[:, 1]) * (right - left)
    area = -below.sum(dim=1)
    solid = (first[:, 2:4] > 0).all(dim=1) & (second[:, 2:4] > 0).all(dim=1)
    # what rounding leaves of boxes that don't meet
    dust = _DUST * torch.maximum(_volume(first[:, 2:4]), _volume(second[:, 2:4]))
    return torch.where(solid & (area > dust), area, 0.0)


def _corners_seen_from(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x and y, (P, 4) each, of the first one's corners in the frame of the second."""
    shift = first[:, :2] - second[:, :2]
    cos, sin = torch.cos(second[:, 4]), torch.sin(second[:, 4])
    centre_x = cos * shift[:, 0] + sin * shift[:, 1]
    centre_y = cos * shift[:, 1] - sin * shift[:, 0]
    turn = first[:, 4] - second[:, 4]
    signs = first.new_tensor(_CORNERS)
    along = first[:, 2:3] * signs[:, 0]
    across = first[:, 3:4] * signs[:, 1]
    cos, sin = torch.cos(turn)[:, None], torch.sin(turn)[:, None]
    x = centre_x[:, None] + cos * along - sin * across
    y = centre_y[:, None] + sin * along + cos * across
    return x, y


def _mean_of_clamped(start: Tensor, stop: Tensor, limit: Tensor) -> Tensor:
    """Mean of clamp(y, -limit, limit) while y runs evenly from start to stop."""
    low, high = torch.minimum(start, stop), torch.maximum(start, stop)
    span = high - low
    level = torch.where(span > 0, span, 1.0)
    share_under = torch.minimum((-limit - low).clamp(min=0), span) / level
    share_over = torch.minimum((high - limit).clamp(min=0), span) / level
    middle = torch.maximum(torch.minimum(low, limit), -limit)
    middle = (middle + torch.maximum(torch.minimum(high, limit), -limit)) / 2
    return (share_over - share_under) * limit + (1 - share_under - share_over) * middle


def _matrix(first: Tensor, second: Tensor, overlap: Overlap) -> Tensor:
    matrix = first.new_zeros(len(first), len(second))
    rows = max(1, _CANDIDATES_AT_A_TIME // max(1, len(second)))
    for start in range(0, len(first), rows):
        block = torch.arange(start, min(start + rows, len(first)), device=first.device)
        i = block.repeat_interleave(len(second))
        j = torch.arange(len(second), device=first.device).repeat(len(block))
        near = circles_meet(first, second, i, j)
        i, j = i[near], j[near]
        matrix[i, j] = in_chunks(overlap, first, second, i, j)
    return matrix
