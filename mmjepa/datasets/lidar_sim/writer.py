"""Writes simulated frames as a KITTI object data set, in parallel, resumably."""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .camera import CALIB_TEXT, write_png
from .frame import Frame, simulate_frame
from .raycast import Caster, make_caster

VERSION = 1  # of the simulator: frames of another version differ
DONE, PARTIAL = 'sim_kitti.json', 'sim_kitti.partial.json'


@dataclass(frozen=True)
class SimSettings:
    """What the data set's content depends on.

    Attributes:
        frames: labelled frames, in ``training``.
        seed: not negative.
        frustum_only: only points that the camera sees.
        val_fraction: share of the frames listed in ``val.txt``, the others in ``train.txt``.
        test_frames: unlabelled frames, in ``testing``. mmdet3d's converter wants one at least, as
            in each of the other image sets.
        version: of the simulator.

    Raises:
        ValueError: a value is out of range.
    """

    frames: int
    seed: int = 0
    frustum_only: bool = False
    val_fraction: float = 0.2
    test_frames: int = 1
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f'frames must be at least 1, got {self.frames}')
        if self.seed < 0:
            raise ValueError(f'seed must not be negative, got {self.seed}')
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f'val_fraction must lie in [0, 1), got {self.val_fraction}')
        if self.test_frames < 0:
            raise ValueError(f'test_frames must not be negative, got {self.test_frames}')
        if max(self.frames, self.test_frames) > 10**6:
            raise ValueError('KITTI numbers frames with six digits: at most 1000000')

    def splits(self) -> dict[str, list[int]]:
        """Frame numbers by name of the image set; train and val are disjoint."""
        count = round(self.frames * self.val_fraction)
        if self.val_fraction > 0 and self.frames > 1:
            count = min(max(count, 1), self.frames - 1)
        order = np.random.default_rng([self.seed, 99]).permutation(self.frames)
        val = sorted(int(i) for i in order[:count])
        train = sorted(set(range(self.frames)) - set(val))
        return {
            'train': train,
            'val': val,
            'trainval': list(range(self.frames)),
            'test': list(range(self.test_frames)),
        }


def write_data_set(
    out: str | Path,
    settings: SimSettings,
    workers: int | None = None,
    caster: str = 'auto',
    device: str = 'auto',
    overwrite: bool = False,
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Simulates a KITTI object data set.

    Files are written under temporary names and renamed; while the run lasts the folder holds
    ``sim_kitti.partial.json``, in the end ``sim_kitti.json`` with the settings. Called again with
    the same settings, an interrupted run goes on where it stopped.

    Args:
        out: folder to make.
        settings: what to write.
        workers: processes; the number of usable cores when None (at most 4 where the caster
            computes on CUDA: each holds a context there).
        caster: 'auto', 'open3d' or 'torch'.
        device: of the torch caster.
        overwrite: replace a simulated data set that is there. Anything else is never touched.
        stream: where progress goes, stderr when None.

    Returns:
        dict: out, frames, seconds, frames_per_second (of the frames written now), caster.

    Raises:
        FileExistsError: the folder is not empty and can't be resumed.
        ValueError, ImportError, RuntimeError: bad arguments.
    """
    if workers is not None and workers < 1:
        raise ValueError(f'workers must be at least 1, got {workers}')
    stream = sys.stderr if stream is None else stream
    out = Path(out)
    made = make_caster(caster, device)  # bad arguments show before any folder is made
    used = made.name
    _prepare(out, settings, overwrite, stream)
    jobs = _missing(out, settings)
    count = min(workers or _default_workers(made), max(1, len(jobs)))
    start = time.monotonic()
    progress = _Progress(len(jobs), stream)
    try:
        with _frames_done(out, settings, jobs, count, (used, device)) as done:
            for _ in done:
                progress.step()
    finally:
        progress.close()
    seconds = time.monotonic() - start
    _finish(out, settings)
    total = settings.frames + settings.test_frames
    return {
        'out': str(out),
        'frames': total,
        'seconds': seconds,
        'frames_per_second': len(jobs) / max(seconds, 1e-9),
        'caster': used,
    }


def _default_workers(caster: Caster) -> int:
    usable = getattr(os, 'sched_getaffinity', None)  # Linux only
    cores = len(usable(0)) if usable else (os.cpu_count() or 1)
    return min(cores, 4) if str(caster.device).startswith('cuda') else cores


def _finish(out: Path, settings: SimSettings) -> None:
    """Writes the image sets and turns the partial marker into the final one."""
    folder = out / 'ImageSets'
    folder.mkdir(exist_ok=True)
    for name, numbers in settings.splits().items():
        (folder / f'{name}.txt').write_text(''.join(f'{number:06d}\n' for number in numbers))
    _write_json(out / DONE, asdict(settings))
    (out / PARTIAL).unlink()


def write_frame(out: Path, frame: Frame, number: int, split: str = 'training') -> None:
    """Writes one frame's files; the sweep comes last and marks the frame as complete."""
    base, name = out / split, f'{number:06d}'
    with _renamed(base / 'calib' / f'{name}.txt') as path:
        path.write_text(CALIB_TEXT)
    with _renamed(base / 'image_2' / f'{name}.png') as path:
        write_png(path, frame.picture)
    if split == 'training':
        with _renamed(base / 'label_2' / f'{name}.txt') as path:
            frame.labels.write(path)
    with _renamed(base / 'velodyne' / f'{name}.bin') as path:
        frame.points.tofile(path)


def _folders(settings: SimSettings) -> dict[str, list[str]]:
    folders = {'training': ['velodyne', 'label_2', 'calib', 'image_2']}
    if settings.test_frames:
        folders['testing'] = ['velodyne', 'calib', 'image_2']
    return folders


def _prepare(out: Path, settings: SimSettings, overwrite: bool, stream: TextIO) -> None:
    """Makes the folders, after checking that nothing foreign is in the way."""
    wanted = asdict(settings)
    if out.exists() and not out.is_dir():
        raise FileExistsError(f'{out} is a file; --out must name a folder')
    if out.exists() and any(out.iterdir()):
        ours = [name for name in (DONE, PARTIAL) if (out / name).is_file()]
        if not ours:
            raise FileExistsError(
                f'{out} is not empty and holds no simulated data set: choose another folder '
                '(it is not overwritten either, it might be real data)'
            )
        if overwrite:
            _remove(out)
        elif PARTIAL not in ours:
            raise FileExistsError(
                f'{out} already holds a simulated data set: --overwrite replaces it'
            )
        elif _read_json(out / PARTIAL) != wanted:
            raise FileExistsError(
                f'{out} holds an interrupted run with other settings '
                f'({_read_json(out / PARTIAL)}): repeat those to go on, or --overwrite'
            )
        else:
            print(f'{out}: going on with an interrupted run', file=stream)
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / PARTIAL, wanted)
    for split, names in _folders(settings).items():
        for name in names:
            (out / split / name).mkdir(parents=True, exist_ok=True)


def _remove(out: Path) -> None:
    """Removes a simulated data set and what was derived from it, but no foreign file."""
    for name in ('training', 'testing', 'ImageSets'):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (DONE, PARTIAL):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / 'kitti_gt_database', ignore_errors=True)  # left by the converter
    for path in [*out.glob('kitti_infos_*.pkl'), *out.glob('kitti_dbinfos_*.pkl')]:
        path.unlink()


def _missing(out: Path, settings: SimSettings) -> list[tuple[str, int]]:
    """Frames whose sweep isn't there; leftovers of a killed writer are removed."""
    jobs = []
    for split, total in (('training', settings.frames), ('testing', settings.test_frames)):
        for leftover in (out / split).glob('*/*.tmp*'):
            leftover.unlink()
        folder = out / split / 'velodyne'
        jobs += [(split, i) for i in range(total) if not (folder / f'{i:06d}.bin').is_file()]
    return jobs


_caster: Caster | None = None  # of this worker process


def _start_worker(name: str, device: str, threads: int) -> None:
    global _caster
    if threads == 1 and 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)
    _caster = make_caster(name, device, threads)


def _write_one(out: Path, settings: SimSettings, split: str, number: int) -> int:
    assert _caster is not None
    frame = simulate_frame(settings.seed, number, _caster, settings.frustum_only, split)
    write_frame(out, frame, number, split)
    return number


@contextmanager
def _frames_done(
    out: Path,
    settings: SimSettings,
    jobs: list[tuple[str, int]],
    workers: int,
    caster: tuple[str, str],
) -> Iterator[Iterator[int]]:
    """Yields an iterator over the numbers of the frames as they get done."""
    if workers == 1:
        _start_worker(*caster, 0)
        yield (_write_one(out, settings, *job) for job in jobs)
        return
    # not fork: threads of torch or open3d in this process would leave the children hanging.
    # A fork server imports the packages once and then forks
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if 'forkserver' in methods else 'spawn')
    if 'forkserver' in methods:
        preload = ['open3d'] if caster[0] != 'torch' and not caster[1].startswith('cuda') else []
        context.set_forkserver_preload([__name__, *preload])
    with _single_threaded_children():
        pool = ProcessPoolExecutor(workers, context, _start_worker, (*caster, 1))
        futures = [pool.submit(_write_one, out, settings, *job) for job in jobs]
        try:
            yield (future.result() for future in as_completed(futures))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Children start with one BLAS/OpenMP thread: the frames are what runs in parallel."""
    names = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends well."""
    temporary = path.with_name(f'{path.name}.tmp{os.getpid()}')
    yield temporary
    os.replace(temporary, path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _renamed(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


class _Progress:
    """Bar with rate and ETA; one line every few seconds where stderr isn't a terminal."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.done, self.start, self.shown = 0, time.monotonic(), 0.0
        self.tty = stream.isatty()

    def step(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.shown > (0.2 if self.tty else 5.0) or self.done == self.total:
            self.shown = now
            rate = self.done / max(now - self.start, 1e-9)
            eta = int((self.total - self.done) / rate)
            filled = 24 * self.done // self.total
            text = f'[{"#" * filled}{"." * (24 - filled)}] {self.done}/{self.total} frames, '
            text += f'{rate:.1f}/s, ETA {eta // 60}:{eta % 60:02d}'
            print(f'\r{text} ' if self.tty else text, end='' if self.tty else '\n',
                  file=self.stream, flush=True)  # fmt: skip

    def close(self) -> None:
        if self.tty and self.done:
            print(file=self.stream)
