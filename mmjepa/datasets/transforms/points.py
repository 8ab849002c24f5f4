"""Transforms of ``results['points']``, (N, F) float32: x, y, z in metres, then features.

They draw from ``results['rng']`` only, so a sample is a function of its seed. They may change the
array in place: it belongs to the sample.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mmjepa.registry import TRANSFORMS

from ..bad_sample import BadSampleError
from ..kitti import DEFAULT_IMAGE_HW, KittiCalib, png_size
from ..worker_log import log_once


@TRANSFORMS.register_module()
class CropToCameraView:
    """Keeps the points that the frame's camera sees (KITTI's ``FOV_POINTS_ONLY``).

    KITTI's objects are labelled in the camera image only. Sets ``results['fov_cropped']``.

    Args:
        fov_crop: 'auto' crops where a calibration for the frame exists
            (``<velodyne>/../calib/<frame>.txt``), True demands one, False leaves the sweep whole.
        image_hw: (height, width) assumed for frames without an image; said once in the log.

    Raises:
        ValueError: unknown ``fov_crop``.
        BadSampleError: when called, if the calibration is missing (True only) or damaged.
    """

    def __init__(
        self,
        fov_crop: Literal['auto'] | bool = 'auto',
        image_hw: tuple[int, int] = DEFAULT_IMAGE_HW,
    ) -> None:
        if fov_crop not in ('auto', True, False):
            raise ValueError(f"fov_crop must be 'auto', True or False, got {fov_crop!r}")
        self.fov_crop = fov_crop
        self.image_hw = (int(image_hw[0]), int(image_hw[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Crops ``points``."""
        results['fov_cropped'] = False
        if self.fov_crop is False:
            return results
        folder, name = os.path.split(results['path'])
        frame_root, frame = os.path.dirname(folder), name.split('.')[0]
        calib_path = os.path.join(frame_root, 'calib', f'{frame}.txt')
        try:
            calib = KittiCalib.from_file(calib_path)
        except FileNotFoundError:
            if self.fov_crop is True:
                raise BadSampleError(
                    results['path'],
                    f'fov_crop=True, but {calib_path} does not exist',
                    "Download KITTI's calib files, or set fov_crop='auto' or False",
                ) from None
            log_once(
                f'{folder}: no calibration, whole sweeps are used (fov_crop=auto)',
                key=f'no calib {folder}',
            )
            return results
        except ValueError as error:
            raise BadSampleError(
                results['path'], str(error), 'Fetch the calibration again'
            ) from None
        points = results['points']
        results['points'] = points[calib.fov_mask(points, self._image_hw(frame_root, frame))]
        results['fov_cropped'] = True
        return results

    def _image_hw(self, frame_root: str, frame: str) -> tuple[int, int]:
        image = os.path.join(frame_root, 'image_2', f'{frame}.png')
        try:
            return png_size(image)
        except (OSError, ValueError):
            height, width = self.image_hw
            log_once(
                f'{image} is not there: camera view cropped to an assumed {height}x{width} image '
                '(frames with an image use its size)',
                key=f'image size {frame_root}',
                level=logging.WARNING,
            )
            return self.image_hw


@TRANSFORMS.register_module()
class RandomFlipPoints:
    """Mirrors the sweep, each axis by itself.

    Args:
        axes: coordinates that may change sign: 'y' swaps left and right, 'x' front and back.
        prob: probability per axis.

    Raises:
        ValueError: unknown axis or probability outside [0, 1].
    """

    def __init__(self, axes: str | Sequence[str] = ('y',), prob: float = 0.5) -> None:
        unknown = sorted(set(axes) - {'x', 'y'})
        if unknown or not axes:
            raise ValueError(f"axes must be of 'x' and 'y', got {axes!r}")
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must lie in [0, 1], got {prob}')
        self.columns = sorted({'x': 0, 'y': 1}[axis] for axis in axes)
        self.prob = prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Flips ``points`` in place."""
        for column in self.columns:
            if results['rng'].random() < self.prob:
                results['points'][:, column] *= -1
        return results


@TRANSFORMS.register_module()
class GlobalRotScale:
    """Rotates about the vertical axis and scales, both uniformly drawn.

    Args:
        yaw: smallest and largest angle in radians, counter-clockwise.
        scale: smallest and largest factor.

    Raises:
        ValueError: a range is reversed, or a scale isn't positive.
    """

    def __init__(
        self,
        yaw: tuple[float, float] = (-np.pi / 4, np.pi / 4),
        scale: tuple[float, float] = (0.95, 1.05),
    ) -> None:
        if yaw[0] > yaw[1]:
            raise ValueError(f'yaw must be (smallest, largest), got {yaw}')
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f'scale must be (smallest, largest) and positive, got {scale}')
        self.yaw = (float(yaw[0]), float(yaw[1]))
        self.scale = (float(scale[0]), float(scale[1]))

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Rotates and scales ``points`` in place."""
        yaw = results['rng'].uniform(*self.yaw)
        scale = results['rng'].uniform(*self.scale)
        cos, sin = np.cos(yaw) * scale, np.sin(yaw) * scale
        matrix = np.array([[cos, sin], [-sin, cos]], np.float32)
        points = results['points']
        points[:, :2] = points[:, :2] @ matrix
        points[:, 2] *= np.float32(scale)
        return results


@TRANSFORMS.register_module()
class PointsRangeFilter:
    """Keeps the points with lower bound <= coordinate < upper bound, as the voxel grid does.

    Args:
        point_cloud_range: x, y, z lower bounds, then upper bounds, metres.
        min_points: a sweep with fewer points in range is bad: BatchNorm cannot train on one voxel.

    Raises:
        ValueError: not six numbers, an empty range, or ``min_points`` below 1.
        BadSampleError: when called, if too few points are in range.
    """

    def __init__(self, point_cloud_range: Sequence[float], min_points: int = 10) -> None:
        bounds = np.asarray(point_cloud_range, dtype=np.float32)
        if bounds.shape != (6,) or not (bounds[:3] < bounds[3:]).all():
            raise ValueError(
                'point_cloud_range must be [x0, y0, z0, x1, y1, z1] with lower < upper, got '
                f'{list(point_cloud_range)}'
            )
        if min_points < 1:
            raise ValueError(f'min_points must be at least 1, got {min_points}')
        self.low, self.high = bounds[:3], bounds[3:]
        self.min_points = min_points

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Filters ``points``."""
        points = results['points']
        keep = np.ones(len(points), dtype=bool)
        for column in range(3):  # by column: no (N, 3) temporaries
            values = points[:, column]
            keep &= (values >= self.low[column]) & (values < self.high[column])
        count = int(np.count_nonzero(keep))
        if count < self.min_points:
            bounds = [round(float(value), 3) for value in (*self.low, *self.high)]
            raise BadSampleError(
                results['path'],
                f'{count or "none"} of its {len(points)} points {"lie" if count > 1 else "lies"} '
                f'in point_cloud_range={bounds}, min_points is {self.min_points}',
                'Check the range (and the unit and axes of the sensor); '
                '`python tools/create_data.py inspect FOLDER` suggests one',
            )
        results['points'] = points[keep]
        return results


@TRANSFORMS.register_module()
class PointShuffle:
    """Shuffles the points, so that a cap that keeps the first ones doesn't favour a ring."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Permutes ``points``."""
        points = results['points']
        results['points'] = points[results['rng'].permutation(len(points))]
        return results


@TRANSFORMS.register_module()
class NormalizeIntensity:
    """Brings the intensity to about [0, 1].

    Args:
        method: 'tanh' (Waymo, whose intensities are unbounded) or 'divide'.
        column: of the intensity.
        divisor: intensities are divided by it first (255 for byte-valued sensors).

    Raises:
        ValueError: unknown method or divisor not positive.
        BadSampleError: when called, if there is no such column.
    """

    def __init__(
        self,
        method: Literal['tanh', 'divide'] = 'tanh',
        column: int = 3,
        divisor: float = 1.0,
    ) -> None:
        if method not in ('tanh', 'divide'):
            raise ValueError(f"method must be 'tanh' or 'divide', got {method!r}")
        if not divisor > 0:
            raise ValueError(f'divisor must be positive, got {divisor}')
        self.method = method
        self.column = column
        self.divisor = divisor

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Normalises the column in place."""
        points = results['points']
        if points.shape[1] <= self.column:
            raise BadSampleError(
                results['path'],
                f'no column {self.column} for the intensity, a point has {points.shape[1]} values',
                'Leave NormalizeIntensity out, or correct load_dim and use_dim',
            )
        values = points[:, self.column]
        if self.divisor != 1:
            values /= np.float32(self.divisor)
        if self.method == 'tanh':
            np.tanh(values, out=values)
        return results
