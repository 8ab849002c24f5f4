"""What an unknown sensor's folder holds, and which settings fit it."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .point_files import (
    SUFFIX_DIMS,
    BadSampleError,
    guess_load_dim,
    keep_valid,
    read_points,
    sweep_suffix,
)
from .sweep_index import scan_sweeps
from .transforms.points import CropToCameraView

PERCENTILES = (0.1, 1.0, 50.0, 99.0, 99.9)
_CELL = 8  # voxels per BEV cell along x and y
_NZ = 40  # height voxels: with 40 the encoder's two-level output fits the published layouts
_MAX_GRID = 1600  # voxels along a side


@dataclass
class FolderReport:
    """Facts about a folder of sweeps, and suggestions.

    Attributes:
        folder: the folder.
        suffixes: number of files by suffix.
        suffix: the one inspected.
        sampled: number of sweeps read.
        bad: messages of the sweeps that could not be used.
        load_dim: values per point.
        points_per_sweep: smallest, median, largest.
        percentiles: 'x', 'y', 'z', 'range' -> values at ``PERCENTILES``, metres.
        ground_z: commonest height, metres.
        rings: guess of the number of laser rings, None if unclear.
        columns: a line about every column after z.
        fov_cropped: the camera view was cropped, since calibrations are there.
        point_cloud_range: suggestion, x0 y0 z0 x1 y1 z1, metres.
        voxel_size: suggestion, x y z, metres.
        grid: voxels along z, y, x.
        in_range: share of the points in the suggested range.
        voxels_per_sweep: median and largest number of occupied voxels.
        max_voxels: suggested cap.
        notes: what to mind.
    """

    folder: str
    suffixes: dict[str, int]
    suffix: str
    sampled: int
    bad: list[str]
    load_dim: int
    points_per_sweep: tuple[int, int, int]
    percentiles: dict[str, list[float]]
    ground_z: float
    rings: int | None
    columns: list[str]
    fov_cropped: bool
    point_cloud_range: list[float]
    voxel_size: list[float]
    grid: tuple[int, int, int]
    in_range: float
    voxels_per_sweep: tuple[int, int]
    max_voxels: int
    notes: list[str] = field(default_factory=list)

    @property
    def bev_shape(self) -> tuple[int, int]:
        """BEV cells along y and x."""
        return self.grid[1] // _CELL, self.grid[2] // _CELL

    def cfg_options(self) -> dict[str, Any]:
        """The settings as top-level variables of ``configs/adl_jepa/kitti.py``."""
        options: dict[str, Any] = {
            'data_root': self.folder,
            'load_dim': self.load_dim,
            'point_cloud_range': self.point_cloud_range,
            'voxel_size': self.voxel_size,
            'max_voxels': [self.max_voxels, self.max_voxels],
            'max_voxels_whole': self.max_voxels,
        }
        if self.load_dim < 4:
            options['use_dim'] = self.load_dim
        return options

    def command(self) -> str:
        """A training command with the suggested settings."""
        options = []
        for key, value in self.cfg_options().items():
            text = f'[{",".join(f"{v:g}" for v in value)}]' if isinstance(value, list) else value
            options.append(f'{key}={shlex.quote(str(text))}')
        return 'python tools/train.py configs/adl_jepa/kitti.py --cfg-options ' + ' '.join(options)

    def text(self) -> str:
        """The report for the terminal."""
        kinds = ', '.join(f'{count} {suffix}' for suffix, count in sorted(self.suffixes.items()))
        low, median, high = self.points_per_sweep
        view = ' in the camera view (calibrations are there)' if self.fov_cropped else ''
        lines = [
            f'{self.folder}: {kinds}; {self.sampled} {self.suffix} sweeps read',
            f'values per point: {self.load_dim} (load_dim)',
            f'points per sweep{view}: {low} to {high}, median {median}',
            f'rings: {self.rings if self.rings else "unclear"}',
            f'ground at about z = {self.ground_z:.1f} m',
            'percentiles (m)' + ''.join(f'{p:>9g}%' for p in PERCENTILES),
        ]
        for name, values in self.percentiles.items():
            lines.append(f'  {name:<13}' + ''.join(f'{value:>10.2f}' for value in values))
        lines += [f'  {column}' for column in self.columns]
        nz, ny, nx = self.grid
        lines += [
            'suggested:',
            f'  point_cloud_range {self.point_cloud_range}: {self.in_range:.1%} of the points',
            f'  voxel_size {self.voxel_size}: {nz} x {ny} x {nx} voxels (z, y, x), '
            f'BEV {self.bev_shape[0]} x {self.bev_shape[1]} cells',
            f'  voxels per sweep: median {self.voxels_per_sweep[0]}, most '
            f'{self.voxels_per_sweep[1]}; max_voxels {self.max_voxels}',
        ]
        lines += [f'note: {note}' for note in self.notes]
        lines += [f'bad: {message}' for message in self.bad]
        return '\n'.join([*lines, '', self.command()])


def inspect_folder(
    folder: str | Path, max_files: int = 20, load_dim: int | None = None
) -> FolderReport:
    """Reads some sweeps of a folder and suggests settings for it.

    Args:
        folder: any folder with sweeps below it.
        max_files: sweeps to read, evenly spaced.
        load_dim: values per point, where the guess is wrong.

    Returns:
        The report; ``print(report.text())``.

    Raises:
        FileNotFoundError: no folder, or no sweep in it.
        BadSampleError: none of the sweeps read can be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder')
    paths = scan_sweeps(folder, cache=False)
    suffixes = Counter(sweep_suffix(path) or '' for path in paths)
    if not suffixes:
        raise FileNotFoundError(f'{folder}: no sweep ({", ".join(SUFFIX_DIMS)}) in it')
    suffix = suffixes.most_common(1)[0][0]
    files = [str(folder / path) for path in paths if sweep_suffix(path) == suffix]
    picks = np.unique(np.linspace(0, len(files) - 1, min(max_files, len(files))).astype(int))
    files = [files[i] for i in picks]
    notes = []
    if len(suffixes) > 1:
        notes.append(f'several kinds of files; suffixes=["{suffix}"] in the dataset keeps to one')
    if load_dim is None and SUFFIX_DIMS[suffix] is not None:
        load_dim = _vote_dim(files)
        if load_dim is None:
            load_dim = SUFFIX_DIMS[suffix]
            notes.append(f'values per point unclear, {load_dim} assumed; --load-dim overrides')
    sweeps, cropped, bad = _read(files, load_dim)
    if not sweeps:
        raise BadSampleError(
            folder, f'none of {len(files)} sweeps can be used; the first: {bad[0]}',
            'Try another load_dim',
        )  # fmt: skip
    return _report(folder, dict(suffixes), suffix, sweeps, cropped, bad, notes)


def suggest_range(points: NDArray[np.float32]) -> tuple[list[float], list[float]]:
    """A range and voxel size: 40 height voxels, BEV cells that divide the range.

    Args:
        points: (N, >=3) of many sweeps.

    Returns:
        point_cloud_range [x0, y0, z0, x1, y1, z1] and voxel_size [x, y, z], metres.
    """
    x_low, x_high = np.percentile(points[:, 0], (1, 99))
    reach = float(np.clip(np.percentile(np.abs(points[:, :2]).max(axis=1), 99), 8, 76))
    ahead = x_low > -2  # a forward-looking sensor or the camera view
    side = float(np.clip(np.percentile(np.abs(points[:, 1]), 99.5), 8, 76)) if ahead else reach
    length = float(np.clip(x_high, 8, 76)) if ahead else 2 * reach
    voxel = next(v for v in (0.05, 0.1, 0.2) if max(length, 2 * side) <= v * _MAX_GRID)
    cell = voxel * _CELL
    length = float(np.ceil(round(length / cell, 3)) * cell)
    half = float(np.ceil(round(side / cell, 3)) * cell)
    x0, x1 = (0.0, length) if ahead else (-half, half)
    near = points[np.abs(points[:, :2]).max(axis=1) <= reach]
    z_low, z_high = np.percentile(near[:, 2], (0.5, 99))
    z0 = float(np.floor(z_low * 2) / 2)
    height = next((h for h in (0.1, 0.15) if z0 + h * _NZ >= z_high), 0.2)
    bounds = [x0, -half, z0, x1, half, z0 + height * _NZ]
    return [round(value, 3) for value in bounds], [voxel, voxel, height]


def count_rings(points: NDArray[np.float32]) -> int | None:
    """Guesses the number of rings: from an integer column, else from the sweep's turns.

    Args:
        points: (N, F) of one sweep, in file order.

    Returns:
        None where neither is clear.
    """
    for column in range(4, points.shape[1]):
        values = np.unique(points[:, column])
        if 4 <= len(values) <= 256 and np.array_equal(values, np.arange(len(values))):
            return len(values)
    # files written ring by ring (KITTI): the azimuth jumps once per turn
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    jumps = np.diff(azimuth)
    crossings = (np.count_nonzero(jumps > np.pi), np.count_nonzero(jumps < -np.pi))
    # noise crosses the seam both ways; a first ring that starts there doesn't cross it
    rings = abs(crossings[0] - crossings[1]) + int(abs(azimuth[0]) > 0.97 * np.pi)
    return rings if 4 <= rings <= 160 and min(crossings) < rings // 2 else None


def _vote_dim(files: Sequence[str]) -> int | None:
    votes: Counter[int] = Counter()
    for file in files:
        size = Path(file).stat().st_size
        dim = guess_load_dim(np.fromfile(file, dtype=np.float32)) if size else None
        if dim is not None:
            votes[dim] += 1
    return votes.most_common(1)[0][0] if votes else None


def _read(
    files: Sequence[str], load_dim: int | None
) -> tuple[list[NDArray[np.float32]], bool, list[str]]:
    """Good sweeps (camera view where calibrated), whether any was cropped, messages of the bad."""
    crop = CropToCameraView('auto')
    sweeps: list[NDArray[np.float32]] = []
    cropped = False
    bad = []
    for file in files:
        try:
            points = keep_valid(read_points(file, load_dim), file)
            result = crop({'path': file, 'points': points})
        except BadSampleError as error:
            bad.append(str(error))
            continue
        if sweeps and points.shape[1] != sweeps[0].shape[1]:
            bad.append(f'{file}: {points.shape[1]} values per point, others {sweeps[0].shape[1]}')
        elif len(result['points']):
            sweeps.append(result['points'])
            cropped |= result['fov_cropped']
    return sweeps, cropped, bad


def _report(
    folder: Path,
    suffixes: dict[str, int],
    suffix: str,
    sweeps: list[NDArray[np.float32]],
    cropped: bool,
    bad: list[str],
    notes: list[str],
) -> FolderReport:
    points = np.concatenate(sweeps)
    bounds, voxel = suggest_range(points)
    low, high, size = (np.array(v) for v in (bounds[:3], bounds[3:], voxel))
    nx, ny, nz = (int(n) for n in np.round((high - low) / size))
    inside = 0
    voxels = []
    for sweep in sweeps:
        kept = sweep[((sweep[:, :3] >= low) & (sweep[:, :3] < high)).all(axis=1)]
        x, y, z = np.floor((kept[:, :3] - low) / size).astype(np.int64).T
        voxels.append(len(np.unique((z * (ny + 1) + y) * (nx + 1) + x)))
        inside += len(kept)
    counts = [len(sweep) for sweep in sweeps]
    rings = Counter(count_rings(sweep) for sweep in sweeps).most_common(1)[0][0]
    axes: dict[str, NDArray[Any]] = {name: points[:, i] for i, name in enumerate('xyz')}
    axes['range'] = np.hypot(points[:, 0], points[:, 1])
    away = points[axes['range'] > 3]  # the car itself is not the ground
    heights, edges = np.histogram(away[:, 2], bins=np.arange(-10, 10.1, 0.1))
    columns, column_notes = _columns(points)
    return FolderReport(
        folder=str(folder),
        suffixes=suffixes,
        suffix=suffix,
        sampled=len(sweeps) + len(bad),
        bad=bad,
        load_dim=points.shape[1],
        points_per_sweep=(min(counts), int(np.median(counts)), max(counts)),
        percentiles={
            name: [float(v) for v in np.percentile(values, PERCENTILES)]
            for name, values in axes.items()
        },
        ground_z=float(edges[heights.argmax()] + 0.05),
        rings=rings,
        columns=columns,
        fov_cropped=cropped,
        point_cloud_range=bounds,
        voxel_size=voxel,
        grid=(nz, ny, nx),
        in_range=inside / len(points),
        voxels_per_sweep=(int(np.median(voxels)), max(voxels)),
        max_voxels=int(np.ceil(1.15 * max(voxels) / 1000) * 1000),
        notes=notes + column_notes,
    )


def _columns(points: NDArray[np.float32]) -> tuple[list[str], list[str]]:
    """A line about every column after z, and notes."""
    lines, notes = [], []
    for column in range(3, points.shape[1]):
        values = points[:, column]
        low, p99, high = (float(v) for v in np.percentile(values, (0, 99, 100)))
        whole = bool((values[:10_000] == np.round(values[:10_000])).all())
        distinct = len(np.unique(values[:100_000]))
        if low == high:
            told = 'constant'
        elif column == 3:
            told = 'intensity'
            if high > 1.5:
                byte = high <= 255 and high > 16
                advice = (
                    "dict(type='NormalizeIntensity', method='divide', divisor=255)"
                    if byte
                    else "dict(type='NormalizeIntensity', method='tanh')"
                )
                notes.append(f'intensity up to {high:g}: {advice} in the pipeline brings it to 0-1')
        elif whole and distinct <= 256:
            told = 'ring or label'
        else:
            told = 'time or other'
        lines.append(f'column {column}: {low:.4g} to {high:.4g}, 99 % below {p99:.4g} ({told})')
    if points.shape[1] == 3:
        notes.append('no intensity: the encoder takes x, y, z only')
    elif points.shape[1] > 4:
        notes.append('use_dim=4 keeps x, y, z, intensity; further columns need more input channels')
    return lines, notes
