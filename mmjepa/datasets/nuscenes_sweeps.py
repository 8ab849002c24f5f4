"""The LiDAR sweeps of nuScenes in time order, with poses, from the data set's JSON tables.

The tables are read directly, so nuscenes-devkit isn't needed; only the official split by scenes
comes from it. Reading the full tables takes minutes and several GB, so the result is cached.

Source: Caesar et al., "nuScenes: A multimodal dataset for autonomous driving", CVPR 2020.
"""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from numpy.typing import NDArray

from .file_index import atomic_write, cache_file

PathLike = str | Path
_TABLES = ('sample_data', 'sample', 'scene', 'ego_pose', 'calibrated_sensor')
_VERSIONS = ('v1.0-trainval', 'v1.0-mini', 'v1.0-test')


class NuScenesSweeps:
    """All ``LIDAR_TOP`` sweeps of one version of the tables, by scene and time.

    Attributes:
        root: the data set's folder.
        version: folder of the tables below it.
        paths: relative paths of the sweeps.
        scenes: (N,) scene names.
        stamps: (N,) int64, microseconds.
        key_frames: (N,) bool.
        poses: (N, 3, 4) float64, LiDAR to global frame.

    Args:
        root: the data set's folder.
        version: e.g. ``v1.0-trainval``.
        cache: use and write the cache.

    Raises:
        FileNotFoundError: a table is missing.
        ValueError: a table is damaged.
    """

    def __init__(self, root: PathLike, version: str, cache: bool = True) -> None:
        self.root = Path(root)
        self.version = version
        missing = [table for table in _TABLES if not self._table(table).is_file()]
        if missing:
            raise FileNotFoundError(
                f'{self.root / version}: no {", ".join(f"{table}.json" for table in missing)}; '
                'unpack the nuScenes metadata archive there'
            )
        stats = [os.stat(self._table(table)) for table in _TABLES]
        key = [f'{stat.st_mtime_ns}:{stat.st_size}' for stat in stats]
        file = cache_file('nuscenes', str(self.root.resolve()), version, *key, suffix='.npz')
        arrays = _load_arrays(file) if cache else None
        if arrays is None:
            print_log(f'reading the nuScenes tables {self.root / version} ...', logger='current')
            try:
                arrays = self._read_tables()
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f'{self.root / version}: damaged nuScenes tables ({error!r}); unpack them again'
                ) from error
            if cache:
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)
                atomic_write(file, buffer.getvalue())
        self.paths = [str(path) for path in arrays['paths']]
        self.scenes = arrays['scenes']
        self.stamps = arrays['stamps']
        self.key_frames = arrays['key_frames']
        self.poses = arrays['poses']
        self._row = {path: i for i, path in enumerate(self.paths)}

    @classmethod
    def find(cls, root: PathLike, version: str | None = None) -> 'NuScenesSweeps | None':
        """The tables below ``root`` (trainval before mini before test); None without any."""
        for name in (version,) if version else _VERSIONS:
            if (Path(root) / name / 'sample_data.json').is_file():
                return cls(root, name)
        return None

    def split_paths(self, split: str | None) -> list[str]:
        """Relative paths of the key frames of a split, by scene and time.

        Args:
            split: 'train', 'val' or 'test' of the official scenes (their mini counterparts in
                v1.0-mini); None for all key frames.

        Raises:
            ImportError: nuscenes-devkit, which holds the list of scenes, isn't installed.
            ValueError: no such split.
        """
        keep = self.key_frames.copy()
        if split is not None:
            try:
                from nuscenes.utils.splits import create_splits_scenes
            except ImportError as error:
                raise ImportError(
                    f'{self.root}: the scenes of the split {split!r} are listed in '
                    f"nuscenes-devkit, which does not import ({error}): pip install 'mmjepa[mm3d]' "
                    'or nuscenes-devkit (it needs numpy < 2). split=None reads every key frame, '
                    'validation scenes included'
                ) from None
            splits = create_splits_scenes()
            name = f'mini_{split}' if self.version.endswith('mini') else split
            if name not in splits:
                raise ValueError(f'nuScenes has no split {name!r}, only {sorted(splits)}')
            keep &= np.isin(self.scenes, splits[name])
        return [self.paths[i] for i in np.flatnonzero(keep)]

    def history(self, path: PathLike, count: int) -> list[tuple[str, NDArray[np.float64], float]]:
        """The sweeps before one, newest first, from the same scene.

        Args:
            path: of the sweep, absolute or relative to ``root``.
            count: at most this many.

        Returns:
            (absolute path, (4, 4) transform into the frame of ``path``, age in seconds) each; an
            empty list for a sweep that isn't in the tables.
        """
        path = os.fspath(path)
        row = self._row.get(path, self._row.get(os.path.relpath(path, self.root)))
        if row is None:
            return []
        to_current = np.linalg.inv(_square(self.poses[row]))
        result = []
        for other in range(row - 1, max(row - 1 - count, -1), -1):
            if self.scenes[other] != self.scenes[row]:
                break
            age = float(self.stamps[row] - self.stamps[other]) * 1e-6
            transform = to_current @ _square(self.poses[other])
            result.append((str(self.root / self.paths[other]), transform, age))
        return result

    def _table(self, name: str) -> Path:
        return self.root / self.version / f'{name}.json'

    def _read_tables(self) -> dict[str, NDArray[Any]]:
        def rows(name: str) -> list[dict[str, Any]]:
            return json.loads(self._table(name).read_bytes())

        sweeps = [row for row in rows('sample_data') if '/LIDAR_TOP/' in row['filename']]
        names = {row['token']: row['name'] for row in rows('scene')}
        scene_of = {row['token']: names[row['scene_token']] for row in rows('sample')}
        sweeps.sort(key=lambda row: (scene_of[row['sample_token']], row['timestamp']))
        needed = {row['ego_pose_token'] for row in sweeps}
        egos = {row['token']: _pose(row) for row in rows('ego_pose') if row['token'] in needed}
        sensors = {row['token']: _pose(row) for row in rows('calibrated_sensor')}
        poses = [
            (egos[row['ego_pose_token']] @ sensors[row['calibrated_sensor_token']])[:3]
            for row in sweeps
        ]
        return {
            'paths': np.array([row['filename'] for row in sweeps], dtype=np.str_),
            'scenes': np.array([scene_of[row['sample_token']] for row in sweeps], dtype=np.str_),
            'stamps': np.array([row['timestamp'] for row in sweeps], dtype=np.int64),
            'key_frames': np.array([row['is_key_frame'] for row in sweeps], dtype=bool),
            'poses': np.array(poses, dtype=np.float64).reshape(-1, 3, 4),
        }


def _load_arrays(file: Path) -> dict[str, NDArray[Any]] | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # no cache yet, or a damaged one


def _square(pose: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 4) -> (4, 4)."""
    return np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])


def _pose(row: dict[str, Any]) -> NDArray[np.float64]:
    """(4, 4) from a table row's quaternion (w, x, y, z) and translation."""
    w, x, y, z = np.asarray(row['rotation'], dtype=np.float64) / np.linalg.norm(row['rotation'])
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = row['translation']
    return pose
