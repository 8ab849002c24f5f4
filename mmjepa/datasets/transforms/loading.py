"""Transforms that read sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjepa.registry import TRANSFORMS

from ..nuscenes_sweeps import NuScenesSweeps
from ..point_files import MAX_RANGE, keep_valid, read_points, select_columns
from ..worker_log import log_once


@TRANSFORMS.register_module()
class LoadPoints:
    """Reads ``results['path']`` into ``results['points']``, (N, F) float32.

    Points that aren't finite or lie beyond ``max_range`` are dropped.

    Args:
        load_dim: values per point in the file; default: the dataset's, else by suffix.
        use_dim: leading columns to keep, or column numbers; default: the dataset's, else all.
        max_range: metres.
        min_valid: share of good points below which the sweep is bad.
        check_dim: refuse a raw file whose numbers contradict ``load_dim``.

    Raises:
        BadSampleError: when called, if the file cannot be used.
    """

    def __init__(
        self,
        load_dim: int | None = None,
        use_dim: int | Sequence[int] | None = None,
        max_range: float = MAX_RANGE,
        min_valid: float = 0.5,
        check_dim: bool = True,
    ) -> None:
        if not 0 <= min_valid <= 1:
            raise ValueError(f'min_valid must lie in [0, 1], got {min_valid}')
        self.load_dim = load_dim
        self.use_dim = use_dim
        self.max_range = max_range
        self.min_valid = min_valid
        self.check_dim = check_dim

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads the file."""
        path = results['path']
        load_dim = results.get('load_dim') if self.load_dim is None else self.load_dim
        use_dim = results.get('use_dim') if self.use_dim is None else self.use_dim
        points = read_points(path, load_dim, check_dim=self.check_dim)
        # columns first: a bad value in a column that nobody uses does no harm
        points = select_columns(points, use_dim, path)
        results['points'] = keep_valid(points, path, self.max_range, self.min_valid)
        return results


@TRANSFORMS.register_module()
class AggregateSweeps:
    """nuScenes: merges the last sweeps into the frame of the newest; adds a time-lag channel.

    Points (N, F) become (N', use_dim + 1): x, y, z, intensity, and the age in seconds (0 for the
    newest). The order of sweeps and poses comes from the nuScenes tables below ``data_root``;
    without them the single sweep gets the channel 0, and the log says so. At the start of a scene
    there are fewer sweeps; nothing is padded.

    Args:
        num_sweeps: sweeps to merge, the newest included.
        load_dim: values per point in the files.
        use_dim: leading columns to keep of each.
        remove_close: older sweeps lose points with |x| and |y| below this (the car itself), metres.
    """

    def __init__(
        self,
        num_sweeps: int = 10,
        load_dim: int = 5,
        use_dim: int = 4,
        remove_close: float = 1.0,
    ) -> None:
        if num_sweeps < 1:
            raise ValueError(f'num_sweeps must be at least 1, got {num_sweeps}')
        self.num_sweeps = num_sweeps
        self.load_dim = load_dim
        self.use_dim = use_dim
        self.remove_close = remove_close
        self._tables: dict[str, NuScenesSweeps | None] = {}

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Merges the sweeps."""
        points = select_columns(results['points'], self.use_dim, results['path'])
        merged = [np.pad(points, ((0, 0), (0, 1)))]
        tables = self._tables_of(results.get('data_root'))
        if tables is not None and self.num_sweeps > 1:
            for path, transform, age in tables.history(results['path'], self.num_sweeps - 1):
                if Path(path).is_file():
                    merged.append(self._older(path, transform, age))
                else:
                    log_once(
                        f'AggregateSweeps: {path} is missing (nuScenes "sweeps" not downloaded?); '
                        'such sweeps are left out',
                        key='AggregateSweeps missing',
                    )
        results['points'] = np.concatenate(merged)
        return results

    def _older(self, path: str, transform: np.ndarray, age: float) -> np.ndarray:
        """(N, use_dim + 1) points of an older sweep in the newest one's frame."""
        points = keep_valid(read_points(path, self.load_dim, self.use_dim), path)
        points = points[(np.abs(points[:, :2]) >= self.remove_close).any(axis=1)]
        out = np.empty((len(points), self.use_dim + 1), np.float32)
        out[:, :-1] = points
        out[:, :3] = points[:, :3] @ transform[:3, :3].T + transform[:3, 3]
        out[:, -1] = age
        return out

    def _tables_of(self, data_root: str | None) -> NuScenesSweeps | None:
        key = data_root or ''
        if key not in self._tables:
            self._tables[key] = NuScenesSweeps.find(data_root) if data_root else None
            if self._tables[key] is None:
                log_once(
                    f'AggregateSweeps: no nuScenes tables (v1.0-*/sample_data.json) below '
                    f'{data_root}: single sweeps, time lag 0'
                )
        return self._tables[key]
