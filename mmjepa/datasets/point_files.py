"""Readers of LiDAR sweeps: ``.bin``, ``.pcd.bin``, ``.npy`` and ``.pcd`` files.

No format needs a package besides numpy. Raw ``.bin`` files don't say how many values a point has;
:func:`guess_load_dim` tells it from the numbers, which is what catches a wrong ``load_dim``.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bad_sample import BadSampleError, PathLike, reading

Points = NDArray[np.float32]

# the longest suffix first: '.pcd.bin' also ends with '.bin'
SUFFIX_DIMS: dict[str, int | None] = {'.pcd.bin': 5, '.bin': 4, '.npy': None, '.pcd': None}
MAX_RANGE = 300.0  # metres; no automotive LiDAR measures further
INTENSITY_NAMES = ('intensity', 'intensities', 'i', 'reflectivity', 'reflectance', 'remission')

_DIMS = range(3, 9)
_DIM_BLOCK = math.lcm(*_DIMS)  # blocks that start at a multiple of this keep every dim's phase


def sweep_suffix(path: PathLike) -> str | None:
    """The suffix of a sweep file among ``SUFFIX_DIMS``, None for other files."""
    name = os.fspath(path).lower()
    return next((suffix for suffix in SUFFIX_DIMS if name.endswith(suffix)), None)


def read_points(
    path: PathLike,
    load_dim: int | None = None,
    use_dim: int | Sequence[int] | None = None,
    check_dim: bool = True,
) -> Points:
    """Reads one sweep.

    Args:
        path: the file; its suffix decides the format. ``.bin`` is float32, row after row.
        load_dim: values per point in the file. Default: 4 for ``.bin`` (KITTI, ONCE), 5 for
            ``.pcd.bin`` (nuScenes: x y z intensity ring), what the file says for the others.
        use_dim: number of leading columns to keep, or the columns themselves. Default: all.
        check_dim: for raw files, refuse a ``load_dim`` that the numbers contradict.

    Returns:
        (N, F) float32: x, y, z in metres, then intensity where there is one.

    Raises:
        BadSampleError: the file is missing, unreadable, empty, truncated, or of another dimension.
    """
    suffix = sweep_suffix(path)
    if suffix is None:
        raise BadSampleError(
            path, 'unknown suffix', f'Readable are {", ".join(SUFFIX_DIMS)}; convert the file'
        )
    with reading(path):
        if suffix == '.npy':
            points = _read_npy(path)
        elif suffix == '.pcd':
            points = _read_pcd(path)
        else:
            points = _read_raw(path, load_dim or SUFFIX_DIMS[suffix] or 4, check_dim)
    if load_dim is not None and points.shape[1] != load_dim:
        raise BadSampleError(
            path,
            f'{points.shape[1]} values per point, load_dim is {load_dim}',
            f'Set load_dim={points.shape[1]} and pick columns with use_dim',
        )
    return select_columns(points, use_dim, path)


def select_columns(
    points: Points, use_dim: int | Sequence[int] | None, path: PathLike = 'points'
) -> Points:
    """The columns that ``use_dim`` (a count or column numbers) names; None keeps all.

    Raises:
        BadSampleError: there are fewer columns.
    """
    if use_dim is None or use_dim == points.shape[1]:
        return points
    columns = list(range(use_dim)) if isinstance(use_dim, int) else list(use_dim)
    if min(columns) < 0 or max(columns) >= points.shape[1]:
        raise BadSampleError(
            path,
            f'use_dim={use_dim} asks for column {max(columns)}, a point has {points.shape[1]}',
            'Lower use_dim or correct load_dim',
        )
    return np.ascontiguousarray(points[:, columns])


def keep_valid(
    points: Points, path: PathLike, max_range: float = MAX_RANGE, min_share: float = 0.5
) -> Points:
    """Drops points that aren't finite or lie beyond ``max_range``.

    Args:
        points: (N, F).
        path: the file, for the error.
        max_range: largest distance of a coordinate from the sensor, metres.
        min_share: share of good points below which the sweep is bad.

    Raises:
        BadSampleError: the share of good points is below ``min_share``.
    """
    # ordered comparisons are False for NaN; one sum over the rest finds a NaN or inf feature
    good = (np.abs(points[:, :3]) <= max_range).all(axis=1)
    with np.errstate(invalid='ignore', over='ignore'):
        if not np.isfinite(points[:, 3:].sum(dtype=np.float64)):
            good &= np.isfinite(points).all(axis=1)
    count = int(np.count_nonzero(good))
    if count == len(points) and count:
        return points
    if count < min_share * len(points) or count == 0:
        raise BadSampleError(
            path,
            f'only {count} of {len(points)} points are finite and within {max_range:g} m',
            'The file is damaged, in another unit, or has another number of values per point '
            '(load_dim); `python tools/create_data.py inspect FOLDER` shows what it holds',
        )
    return points[good]


def dim_scores(values: NDArray[np.float32]) -> dict[int, float]:
    """How well each number of values per point explains a raw stream of numbers.

    The columns of a point cloud have different distributions (metres ahead, height, intensity), so
    with the right period the mean ranks of |value| differ between columns; with a wrong one every
    column holds the same mixture. Only numbers that divide the stream's length are scored.

    Args:
        values: (K,) float32.

    Returns:
        period -> share of the rank variance that the column explains, in [0, 1].
    """
    blocks = len(values) // _DIM_BLOCK
    if blocks == 0:  # too few: chance alone scores
        return {}
    if blocks > 10:
        starts = np.linspace(0, blocks - 1, 10).astype(np.int64) * _DIM_BLOCK
        sample = np.concatenate([values[start : start + _DIM_BLOCK] for start in starts])
    else:
        sample = values[: 10 * _DIM_BLOCK]
    ranks = np.empty(len(sample))
    ranks[np.argsort(np.abs(sample), kind='stable')] = np.arange(len(sample))
    ranks -= ranks.mean()
    scores = {}
    for dim in _DIMS:
        if len(values) % dim == 0:
            columns = ranks[: len(ranks) // dim * dim].reshape(-1, dim)
            scores[dim] = float(np.square(columns.mean(axis=0)).mean() / np.square(columns).mean())
    return scores


def guess_load_dim(values: NDArray[np.float32]) -> int | None:
    """The smallest number of values per point that explains a raw stream; None if none does.

    Args:
        values: (K,) float32, the file's numbers.
    """
    scores = dim_scores(values)
    best = max(scores.values(), default=0.0)
    if best < 0.1:
        return None
    # a multiple of the right period scores as high
    return min(dim for dim, score in scores.items() if score > 0.9 * best)


def _read_raw(path: PathLike, load_dim: int, check_dim: bool) -> Points:
    size = os.stat(path).st_size
    if size == 0:
        raise BadSampleError(path, 'the file is empty', 'Fetch it again')
    if size % (4 * load_dim):
        fits = [dim for dim in _DIMS if size % (4 * dim) == 0]
        raise BadSampleError(
            path,
            f'{size} bytes are not a whole number of points of {load_dim} float32 values',
            f'The file is truncated, or load_dim is wrong (the size would fit {fits or "none"})',
        )
    values = np.fromfile(path, dtype=np.float32)
    if check_dim:
        scores = dim_scores(values)
        guess = guess_load_dim(values) if scores else None
        stated = scores.get(load_dim, 1.0)
        if guess is not None and load_dim % guess and stated < 0.5 * scores[guess]:
            raise BadSampleError(
                path,
                f'the numbers look like {guess} values per point, load_dim is {load_dim}',
                f'Set load_dim={guess}, or check_dim=False in LoadPoints if {load_dim} is right',
            )
    return values.reshape(-1, load_dim)


def _read_npy(path: PathLike) -> Points:
    try:
        points = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy's header parser lets its tokenizer's errors out, too
        raise BadSampleError(
            path,
            f'not a readable .npy array ({error})',
            'Save it with numpy.save, as (N, F) floats',
        ) from None
    if not isinstance(points, np.ndarray):
        raise BadSampleError(path, 'a .npz archive', 'Save the sweep with numpy.save, as (N, F)')
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in 'fiu':
        raise BadSampleError(
            path,
            f'an array of shape {points.shape} and type {points.dtype}',
            'A sweep is an (N, F) array of numbers with x, y, z first',
        )
    if len(points) == 0:
        raise BadSampleError(path, 'no points in it', 'Fetch it again')
    return np.ascontiguousarray(points, dtype=np.float32)


def _read_pcd(path: PathLike) -> Points:
    """Point Cloud Library files, version .7: ascii, binary or binary_compressed."""
    data = Path(path).read_bytes()
    header, body = _pcd_header(path, data)
    try:
        names, dtype = _pcd_dtype(header)
        count = int(header['POINTS'][0])
        encoding = header['DATA'][0].lower()
        if count < 0 or encoding not in ('ascii', 'binary', 'binary_compressed'):
            raise ValueError(f'POINTS {count}, DATA {encoding}')
    except (ValueError, TypeError, OverflowError) as error:
        raise BadSampleError(path, f'damaged PCD header ({error})', 'Write it again') from None
    try:
        if encoding == 'ascii':
            rows = np.array(data[body:].split(), dtype=np.float64).reshape(count, -1)
            starts = np.cumsum(
                [0, *(int(np.prod(dtype[name].shape)) for name in dtype.names or ())]
            )
            columns = {
                name: rows[:, start]
                for name, start in zip(dtype.names or (), starts[:-1], strict=True)
            }
        elif encoding == 'binary':
            table = np.frombuffer(data, dtype, count, body)
            columns = {name: table[name] for name in dtype.names or ()}
        else:
            packed, size = np.frombuffer(data, '<u4', 2, body)
            raw = lzf_decompress(data[body + 8 : body + 8 + int(packed)], int(size))
            columns, offset = {}, 0
            for name in dtype.names or ():  # compressed files are column after column
                columns[name] = np.frombuffer(raw, dtype[name], count, offset)
                offset += dtype[name].itemsize * count
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise BadSampleError(
            path, f'truncated or damaged .pcd data ({error})', 'Fetch or write the file again'
        ) from None
    if count == 0:
        raise BadSampleError(path, 'no points in it', 'Fetch it again')
    return np.stack([columns[name] for name in names], axis=1).astype(np.float32)


def _pcd_header(path: PathLike, data: bytes) -> tuple[dict[str, list[str]], int]:
    """Header fields, and the offset where the data begins."""
    header: dict[str, list[str]] = {}
    position = 0
    while 'DATA' not in header:
        end = data.find(b'\n', position)
        if end < 0 or position > 100_000:
            raise BadSampleError(path, 'no PCD header', 'Is it really a .pcd file?')
        words = data[position:end].decode('ascii', 'replace').split()
        if words and not words[0].startswith('#'):
            header[words[0].upper()] = words[1:]
        position = end + 1
    missing = [key for key in ('FIELDS', 'SIZE', 'TYPE', 'POINTS') if not header.get(key)]
    if missing or not header['DATA']:
        raise BadSampleError(path, f'PCD header without {missing or "DATA"}', 'Write it again')
    return header, position


def _pcd_dtype(header: dict[str, list[str]]) -> tuple[list[str], np.dtype[Any]]:
    """Columns to read (x, y, z, intensity, then other scalars), and the record type of a point.

    Raises:
        ValueError: an entry is unknown or missing.
    """
    fields = header['FIELDS']
    counts = [int(count) for count in header.get('COUNT', ['1'] * len(fields))]
    lengths = {'SIZE': len(header['SIZE']), 'TYPE': len(header['TYPE']), 'COUNT': len(counts)}
    if set(lengths.values()) != {len(fields)}:
        raise ValueError(f'{len(fields)} FIELDS, but entries in {lengths}')
    kinds = {'F4', 'F8', *(f'{sign}{size}' for sign in 'IU' for size in (1, 2, 4, 8))}
    record: list[tuple[Any, ...]] = []
    scalars = []
    for i, field in enumerate(fields):
        name = field if field not in scalars and field != '_' else f'_{i}'
        kind = f'{header["TYPE"][i].upper()}{header["SIZE"][i]}'
        if kind not in kinds or counts[i] < 1:
            raise ValueError(f'field {field} of type {kind}, count {counts[i]}')
        kind = f'<{kind.lower()}'
        record.append((name, kind) if counts[i] == 1 else (name, kind, (counts[i],)))
        if counts[i] == 1 and not name.startswith('_') and name not in ('rgb', 'rgba'):
            scalars.append(name)
    if not {'x', 'y', 'z'} <= set(scalars):
        raise ValueError(f'no x, y, z among the fields {fields}')
    intensity = [name for name in scalars if name.lower() in INTENSITY_NAMES][:1]
    first = ['x', 'y', 'z', *intensity]
    return first + [name for name in scalars if name not in first], np.dtype(record)


def lzf_decompress(packed: bytes, size: int) -> bytes:
    """Decompresses LZF (Marc Lehmann's LibLZF), which ``binary_compressed`` PCD files use.

    Args:
        packed: the compressed bytes.
        size: length of the result in bytes.

    Raises:
        ValueError: the stream is damaged.
    """
    out = bytearray()
    position, end = 0, len(packed)
    while position < end:
        control = packed[position]
        position += 1
        if control < 32:  # literal run
            out += packed[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[position]
            position += 1
        start = len(out) - ((control & 31) << 8) - packed[position] - 1
        position += 1
        length += 2
        if start < 0:
            raise ValueError('LZF reference before the start')
        while length > 0:  # the reference may overlap what it writes
            piece = out[start : start + length]
            out += piece
            start += len(piece)
            length -= len(piece)
    if len(out) != size:
        raise ValueError(f'LZF gave {len(out)} bytes, the header says {size}')
    return bytes(out)
