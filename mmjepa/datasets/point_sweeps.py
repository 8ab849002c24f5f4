"""LiDAR sweeps without labels, from KITTI, nuScenes, Waymo, ONCE or any folder."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmjepa.registry import DATASETS

from .file_index import PathList
from .nuscenes_sweeps import NuScenesSweeps
from .point_files import SUFFIX_DIMS, sweep_suffix
from .sample_dataset import Pipeline, SampleDataset, take
from .sweep_index import read_split, scan_sweeps, select_split

_HINT = (
    'KITTI: download "velodyne point clouds" and "camera calibration matrices" of the object '
    'benchmark (https://www.cvlibs.net/datasets/kitti/eval_object.php) and unpack them as '
    '{root}/training/{{velodyne,calib}}; any other folder with {suffixes} sweeps below it will do. '
    'A simulated stand-in: `python tools/create_data.py sim-kitti --out {root} --frames 200`'
)
_NO_SPLIT = (
    '{root}: the sweeps of the split {split!r} cannot be told without the nuScenes tables '
    '(v1.0-trainval/*.json). Unpack the metadata archive there, or set split=None to read every '
    'sweep, validation scenes included'
)


@DATASETS.register_module()
class PointSweepDataset(SampleDataset):
    """LiDAR sweeps below a folder; opens sweeps (and calibrations), never a label file.

    ``data_root`` is a KITTI object folder (``training/velodyne``, ``testing/velodyne`` for the
    split 'test'), a nuScenes folder (``samples/LIDAR_TOP``), or any folder with sweeps below it.
    ``ImageSets/<split>.txt`` is obeyed where it exists; its lines name frames or sequences (the
    Waymo and ONCE layouts of OpenPCDet). Order: by path (nuScenes tables: by scene and time).

    Bad sweeps (missing, truncated, empty, wrong dimension, mostly not finite, nothing in range)
    raise :class:`BadSampleError`, or with ``on_error='skip'`` the next good sweep takes the place:
    deterministic, logged, counted in ``skipped`` of this process and listed in the sample's
    ``data_samples['skipped']``, which ``SkippedSamplesHook`` adds up over workers and ranks.

    Args:
        data_root: the folder.
        pipeline: transforms, as configs or callables; ``results`` in, ``results`` out.
        split: name in ``ImageSets``, or of the official nuScenes scenes, which takes the tables
            and nuscenes-devkit; None reads every sweep.
        load_dim: values per point in raw files. Default: by suffix (``SUFFIX_DIMS``).
        use_dim: number of leading columns to keep, or the columns. Default: all.
        suffixes: kinds of files to take, among ``SUFFIX_DIMS``. Default: all.
        on_error: 'raise' or 'skip'.
        cache_index: keep the list of files in the cache folder (``$MMJEPA_CACHE``).
        load_interval: take every n-th sweep of the split, the first one included.
        indices: the first so many of these sweeps (int), or the ones with these numbers (sequence).
        download_hint: where the data comes from, for the error when it isn't there. Default:
            KITTI and its simulated stand-in.

    Raises:
        FileNotFoundError: no folder, no split file or no sweep; says what to do.
        ValueError: an argument is out of its set.
    """

    noun = 'sweep'

    def __init__(
        self,
        data_root: str | Path,
        pipeline: Pipeline = (),
        split: str | None = 'train',
        load_dim: int | None = None,
        use_dim: int | Sequence[int] | None = None,
        suffixes: Sequence[str] | None = None,
        on_error: str = 'raise',
        cache_index: bool = True,
        load_interval: int = 1,
        indices: int | Sequence[int] | None = None,
        download_hint: str | None = None,
    ) -> None:
        unknown = sorted(set(suffixes or ()) - set(SUFFIX_DIMS))
        if unknown:
            raise ValueError(f'suffixes {unknown} unknown, readable are {list(SUFFIX_DIMS)}')
        if load_dim is not None and load_dim < 3:
            raise ValueError(f'load_dim must be at least 3 (x, y, z), got {load_dim}')
        if load_interval < 1:
            raise ValueError(f'load_interval must be at least 1, got {load_interval}')
        hint = download_hint or _HINT.format(root=data_root, suffixes=', '.join(SUFFIX_DIMS))
        super().__init__(data_root, pipeline, on_error, hint)
        self.split = split
        self.load_dim = load_dim
        self.use_dim = use_dim
        self.suffixes = suffixes
        self.load_interval = load_interval
        self._cache = cache_index
        self._folder, paths, layout = self._find_sweeps()
        self._paths = PathList(paths[i] for i in take(len(paths), indices, self.noun))
        self.metainfo = {
            'data_root': str(self.data_root),
            'layout': layout,
            'split': split,
            'num_sweeps': len(self._paths),
        }

    def __len__(self) -> int:
        return len(self._paths)

    def get_path(self, index: int) -> str:
        """The file of a sweep."""
        return os.path.join(self._folder, self._paths[index])

    def _source(self, index: int) -> dict[str, Any]:
        return {
            'path': self.get_path(index),
            'load_dim': self.load_dim,
            'use_dim': self.use_dim,
        }

    def _find_sweeps(self) -> tuple[str, Sequence[str], str]:
        """The folder scanned, the sweeps below it (relative), and the name of the layout."""
        root, folder, layout = self._layout()
        if layout == 'nuscenes' and (tables := NuScenesSweeps.find(root)) is not None:
            paths: Sequence[str] = tables.split_paths(self.split)
            there = [path for path in paths if (root / path).is_file()]
            self._check_missing(
                f'{root / tables.version}', len(paths), sorted(set(paths) - set(there)), there, root
            )
            return str(root), self._log(there, tables.version), layout
        try:
            paths = scan_sweeps(folder, self.suffixes, self._cache)
        except PermissionError as error:
            raise PermissionError(
                f'data_root {self.data_root}: {error.filename} cannot be read; check its '
                'permissions'
            ) from None
        if not paths:
            kinds = ', '.join(self.suffixes or SUFFIX_DIMS)
            raise FileNotFoundError(f'{folder}: no sweep ({kinds}) in it. {self.download_hint}')
        return str(folder), self._obey_split(root, folder, paths, layout), layout

    def _layout(self) -> tuple[Path, Path, str]:
        """Root of the data set, folder to scan, layout."""
        root = self.data_root
        # pointing into a KITTI folder must not get around its split
        inside = Path(os.path.abspath(root))
        for candidate in list(inside.parents)[:2]:
            if (candidate / 'ImageSets').is_dir() and inside.is_relative_to(candidate / 'training'):
                root = candidate
        for part in ('testing', 'training') if self.split == 'test' else ('training',):
            for name in ('velodyne', 'velodyne_reduced'):
                if (root / part / name).is_dir():
                    return root, root / part / name, 'kitti'
        if (root / 'samples' / 'LIDAR_TOP').is_dir():
            return root, root / 'samples' / 'LIDAR_TOP', 'nuscenes'
        return root, root, 'folder'

    def _obey_split(
        self, root: Path, folder: Path, paths: Sequence[str], layout: str
    ) -> Sequence[str]:
        if self.split is None:
            return self._log(paths, 'every sweep')
        file = root / 'ImageSets' / f'{self.split}.txt'
        if not file.is_file():
            if layout == 'nuscenes':
                raise FileNotFoundError(_NO_SPLIT.format(root=root, split=self.split))
            self._check_unsplit(file, paths)
            return self._log(paths, f'no {file}: every sweep', warn=layout != 'folder')
        entries = read_split(file)
        chosen, missing = select_split(paths, entries)
        self._check_missing(str(file), len(entries), missing, chosen, folder)
        if not chosen:
            raise FileNotFoundError(
                f'{file} is empty; it should name a frame or sequence per line. (The Waymo '
                'converter of mmdet3d fills it from training/image_0/*.jpg: without images, write '
                'the names in velodyne that begin with 0 for train, 1 for validation, less .bin)'
            )
        source = f'{file}: {len(entries)} entries'
        if missing:
            source += f', {len(missing)} of them without a sweep'
        return self._log(chosen, f'{source}; {len(paths)} sweeps there', warn=bool(missing))

    def _check_unsplit(self, file: Path, paths: Sequence[str]) -> None:
        """Without a split file everything is read: only if no split can be meant.

        Raises:
            FileNotFoundError: there are other split files, or 'train' isn't asked for.
            ValueError: a KITTI folder with its own split lies deeper.
        """
        others = sorted(path.name for path in file.parent.glob('*.txt'))
        if others or self.split not in ('train', 'test'):
            found = f'only {others}' if others else 'no ImageSets folder'
            raise FileNotFoundError(
                f'{file}: no such file ({found}), so the split {self.split!r} is unknown. '
                'Write it (a frame or sequence per line), or set split=None to read every sweep'
            )
        marker = os.path.join('', 'training', 'velodyne', '')
        deeper = next((path for path in paths if f'{os.sep}{marker}' in path), None)
        if deeper is not None:
            kitti = self.data_root / deeper.split(f'{os.sep}{marker}')[0]
            raise ValueError(
                f'data_root {self.data_root}: the KITTI folder lies deeper. Set data_root={kitti}, '
                'so that its split is obeyed, or split=None to read every sweep'
            )

    def _check_missing(
        self, source: str, total: int, missing: Sequence[str], found: Sequence[str], folder: Path
    ) -> None:
        """Raises FileNotFoundError for listed sweeps that aren't there, unless told to skip."""
        if missing and (self.on_error == 'raise' or not found):
            raise FileNotFoundError(
                f'{source} names {total} frames or sequences, {len(missing)} of them are not below '
                f"{folder} (first: {missing[0]}). Fetch them, or set on_error='skip'"
            )

    def _log(self, paths: Sequence[str], source: str, warn: bool = False) -> Sequence[str]:
        """Every ``load_interval``-th of the paths; says what they are."""
        if self.load_interval > 1:
            source += f'; one in {self.load_interval} of {len(paths)}'
            paths = paths[:: self.load_interval]
        kinds = Counter(sweep_suffix(path) for path in paths)
        told = ', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items(), key=str))
        print_log(
            f'{type(self).__name__}: {len(paths)} sweeps ({told}) from {self.data_root}, split '
            f'{self.split!r} ({source})',
            logger='current',
            level=logging.WARNING if warn else logging.INFO,
        )
        return paths
