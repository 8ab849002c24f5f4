"""Cells of a bird's-eye-view grid: their points, their class, hand-made statistics.

The rule for a cell's class, in this order:

1. A cell without a point in range is no sample.
2. Points in the box of an evaluated class count for that class, points in a box of any other type
   (``Van``, ``Misc``, ...) count as *other*.
3. With in-box points, the cell has the class that holds at least ``purity`` of them; it is ignored
   when none does (mixed), when that is *other*, or when there are fewer than ``min_box_points``.
   Points outside all boxes don't matter here: a car's cell usually holds ground as well.
4. Without in-box points, it is background, unless a point of it is *unlabelled*: outside the view
   in which objects were annotated, or inside a ``DontCare`` region. Then it is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BACKGROUND = 'background'
IGNORED = -1
STATISTICS = ('count', 'log_count', 'mean_z', 'min_z', 'max_z', 'extent_z', 'std_z')
INTENSITY_STATISTICS = ('mean_intensity', 'std_intensity')


@dataclass(frozen=True)
class BEVGrid:
    """Where the cells of a BEV map lie.

    Row r, column c covers x in ``x_min + [c, c + 1) * cell_x`` and y likewise with r.

    Attributes:
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max in metres.
        cell_x, cell_y: Cell size in metres.
        h, w: Rows (y) and columns (x).
    """

    point_cloud_range: tuple[float, ...]
    cell_x: float
    cell_y: float
    h: int
    w: int

    @classmethod
    def from_map(
        cls,
        point_cloud_range: Sequence[float],
        shape: tuple[int, int],
        voxel_size: Sequence[float] | None = None,
        stride: int | None = None,
    ) -> BEVGrid:
        """Grid of a feature map of ``shape`` (h, w).

        With ``voxel_size`` and ``stride`` a cell is exactly their product; otherwise the range is
        divided evenly.

        Raises:
            ValueError: If the range is malformed or the map's shape doesn't fit the cell size.
        """
        limits = tuple(float(v) for v in point_cloud_range)
        if len(limits) != 6 or any(limits[i] >= limits[i + 3] for i in range(3)):
            raise ValueError(f'point_cloud_range must be 6 numbers, min < max, got {limits}')
        h, w = (int(v) for v in shape)
        extent_x, extent_y = limits[3] - limits[0], limits[4] - limits[1]
        if voxel_size is None or stride is None:
            return cls(limits, extent_x / w, extent_y / h, h, w)
        cell_x, cell_y = float(voxel_size[0]) * stride, float(voxel_size[1]) * stride
        expected = math.ceil(extent_y / cell_y - 1e-6), math.ceil(extent_x / cell_x - 1e-6)
        if expected != (h, w):
            raise ValueError(
                f'a BEV map of {h} x {w} cells does not fit the range {limits} with voxels '
                f'{tuple(voxel_size)} and stride {stride}, which give {expected[0]} x {expected[1]}'
            )
        return cls(limits, cell_x, cell_y, h, w)

    def cell_index(self, points: NDArray[Any]) -> NDArray[np.int64]:
        """(N, >=3) points to (N,) flat cell index row * w + column; -1 out of range or NaN."""
        low, high = self.point_cloud_range[:3], self.point_cloud_range[3:]
        xyz = points[:, :3].astype(np.float64)
        inside = np.isfinite(xyz).all(1) & (xyz >= low).all(1) & (xyz < high).all(1)
        result = np.full(len(points), -1, dtype=np.int64)
        column = np.floor((xyz[inside, 0] - low[0]) / self.cell_x).astype(np.int64)
        row = np.floor((xyz[inside, 1] - low[1]) / self.cell_y).astype(np.int64)
        result[inside] = row.clip(max=self.h - 1) * self.w + column.clip(max=self.w - 1)
        return result


@dataclass(frozen=True)
class CellRule:
    """Parameters of the rule in this module's docstring.

    Attributes:
        classes: Evaluated object types; class 0 is always background.
        merge: Object types to count as another, for example ``{'Van': 'Car'}``.
        purity: Least share of the in-box points that the cell's class holds, over 0.5.
        min_box_points: Least number of in-box points of an object cell.

    Raises:
        ValueError: On a repeated class, a merge into no class, or a number out of range.
    """

    classes: tuple[str, ...] = ('Car', 'Pedestrian', 'Cyclist')
    merge: Mapping[str, str] = field(default_factory=dict)
    purity: float = 2 / 3
    min_box_points: int = 1

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f'classes must be one or more different names, got {self.classes}')
        if BACKGROUND in self.classes:
            raise ValueError(f"'{BACKGROUND}' is always there; leave it out of classes")
        for source, target in self.merge.items():
            if target not in self.classes or source in self.classes:
                raise ValueError(
                    f'merge {source} -> {target}: the source must not be an evaluated class and '
                    f'the target must be one of {self.classes}'
                )
        if not 0.5 < self.purity <= 1 or self.min_box_points < 1:
            raise ValueError(
                f'purity must be in (0.5, 1] and min_box_points >= 1, got {self.purity} and '
                f'{self.min_box_points}'
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Background and the evaluated classes, in the order of the labels."""
        return (BACKGROUND, *self.classes)

    def class_of(self, object_type: str) -> int:
        """Label of an object type: 1..K, or K + 1 for *other*."""
        name = self.merge.get(object_type, object_type)
        return 1 + (self.classes.index(name) if name in self.classes else len(self.classes))


@dataclass
class FrameCells:
    """The labelled cells of one frame, n of them.

    Attributes:
        cells: (n,) int64 flat index in the grid, ascending.
        labels: (n,) int64, 0 = background, 1.. = classes of the rule.
        statistics: (n, S) float32, see :func:`cell_statistics`.
        ignored: Number of cells with points that the rule left out.
    """

    cells: NDArray[np.int64]
    labels: NDArray[np.int64]
    statistics: NDArray[np.float32]
    ignored: int


def cell_statistics(
    points: NDArray[Any], cell: NDArray[np.int64], cells: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Hand-made features of cells: count, heights, intensity.

    Args:
        points: (N, F), x y z and optionally intensity.
        cell: (N,) flat cell of each point, -1 = none.
        cells: (n,) ascending cells to describe, each with at least one point.

    Returns:
        (n, 7) or, with intensity, (n, 9) float32: the columns ``STATISTICS`` (heights in metres)
        and ``INTENSITY_STATISTICS``.
    """
    keep = np.isin(cell, cells)
    points = points[keep].astype(np.float64)
    slot = np.searchsorted(cells, cell[keep])
    count = np.bincount(slot, minlength=len(cells)).astype(np.float64)

    def mean_std(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        mean = np.bincount(slot, values, minlength=len(cells)) / count
        variance = np.bincount(slot, (values - mean[slot]) ** 2, minlength=len(cells)) / count
        return mean, np.sqrt(variance)

    z = points[:, 2]
    low, high = np.full(len(cells), np.inf), np.full(len(cells), -np.inf)
    np.minimum.at(low, slot, z)
    np.maximum.at(high, slot, z)
    mean, std = mean_std(z)
    columns = [count, np.log1p(count), mean, low, high, high - low, std]
    if points.shape[1] > 3:
        columns.extend(mean_std(points[:, 3]))
    return np.stack(columns, axis=1).astype(np.float32)


def label_cells(
    points: NDArray[Any],
    boxes: NDArray[Any],
    types: Sequence[str],
    grid: BEVGrid,
    rule: CellRule,
    unlabelled: NDArray[np.bool_] | None = None,
) -> FrameCells:
    """Give the cells of one frame their classes by the rule in this module's docstring.

    Args:
        points: (N, F) in the LiDAR frame.
        boxes: (M, 7) x y z of the gravity centre, dx dy dz, yaw; metres, radians.
        types: M object types.
        grid: The cells.
        rule: The rule's parameters.
        unlabelled: (N,) bool, points where a missing box means nothing.

    Returns:
        :class:`FrameCells`.

    Raises:
        ValueError: If boxes and types differ in number.
    """
    from mmjepa.datasets.kitti import points_in_boxes

    if len(boxes) != len(types):
        raise ValueError(f'{len(boxes)} boxes but {len(types)} types')
    other = len(rule.classes) + 1
    hidden = other + 1
    box_class = np.array([0, *(rule.class_of(t) for t in types)], dtype=np.int64)
    kind = box_class[points_in_boxes(points, np.asarray(boxes).reshape(-1, 7)) + 1]
    if unlabelled is not None:
        kind[(kind == 0) & unlabelled] = hidden
    cell = grid.cell_index(points)
    inside = cell >= 0
    cells, slot = np.unique(cell[inside], return_inverse=True)
    table = np.bincount(
        slot.reshape(-1) * (hidden + 1) + kind[inside], minlength=len(cells) * (hidden + 1)
    ).reshape(len(cells), hidden + 1)

    in_boxes = table[:, 1 : other + 1]
    total = in_boxes.sum(1)
    top = in_boxes.argmax(1) + 1
    pure = in_boxes.max(1, initial=0) >= rule.purity * total - 1e-9
    labels = np.where(
        total > 0,
        np.where(pure & (top != other) & (total >= rule.min_box_points), top, IGNORED),
        np.where(table[:, hidden] > 0, IGNORED, 0),
    )
    keep = labels != IGNORED
    return FrameCells(
        cells[keep],
        labels[keep],
        cell_statistics(points, cell, cells[keep]),
        int((~keep).sum()),
    )
