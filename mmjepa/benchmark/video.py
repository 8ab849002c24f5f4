"""Clips per second of the video backends, and what a training would wait for data."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mmjepa.datasets import BadSampleError, VideoDataset, build_backend
from mmjepa.datasets.video_backends.auto import CODECS
from mmjepa.datasets.video_backends.base import CodecBackend

MAX_CLIPS = 1000  # tried a pass


@dataclass
class BackendTiming:
    """What one backend did.

    Attributes:
        name: of the backend.
        missing: why it cannot be used here; empty if it can.
        version: of its package.
        seconds: by the clock, a clip, one number a pass.
        cpu_seconds: of this process with all its threads, a clip, one number a pass.
        bad: what it says of files that it cannot use, by path.
    """

    name: str
    missing: str = ''
    version: str = ''
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Median clips per second of one process by the clock."""
        return 1 / statistics.median(self.seconds)

    @property
    def core_rate(self) -> float:
        """Median clips per second of processor time: what a process with its own core does."""
        return 1 / statistics.median(self.cpu_seconds)

    def wait(self, need: float, workers: int) -> float:
        """Share of its time that a training waits that needs so many clips a second."""
        return max(0.0, 1 - workers * self.core_rate / need)


@dataclass
class VideoReport:
    """What :func:`benchmark_video` measured."""

    source: str
    files: int
    clips: str
    workers: int
    batch_size: int
    step_ms: float
    timings: list[BackendTiming]

    @property
    def need(self) -> float:
        """Clips a second that the training consumes."""
        return 1e3 * self.batch_size / self.step_ms

    def text(self) -> str:
        """Table for the terminal."""
        lines = [
            f'{self.source}: {self.files} files, {self.clips}, one process',
            f'data wait: of steps of {self.step_ms:g} ms on {self.batch_size} clips, with '
            f'{self.workers} workers, by processor time: slow disks and busy cores come on top',
            f'{"backend":24s} {"clips/s":>8s} {"CPU ms":>8s} {"bad":>4s} {"data wait":>10s} '
            f'{"workers for none":>17s}',
        ]
        for timing in self.timings:
            name = f'{timing.name} {timing.version}'
            if timing.missing:
                lines.append(f'{timing.name:24s} not used: {timing.missing}')
            elif not timing.seconds:
                lines.append(f'{name:24s} read no file')
            else:
                lines.append(
                    f'{name:24s} {timing.rate:8.2f} '
                    f'{1e3 * statistics.median(timing.cpu_seconds):8.1f} {len(timing.bad):4d} '
                    f'{100 * timing.wait(self.need, self.workers):8.1f} % '
                    f'{self.need / timing.core_rate:17.1f}'
                )
        lines += [
            f'{timing.name}: {reason}' for timing in self.timings for reason in timing.bad.values()
        ]
        return '\n'.join(lines)


def benchmark_video(
    data: str | Path,
    backends: Sequence[str] = CODECS,
    num_frames: int = 16,
    frame_step: int = 4,
    size: int = 224,
    repeats: int = 3,
    workers: int = 8,
    batch_size: int = 24,
    step_ms: float = 150.0,
) -> VideoReport:
    """Times the training pipeline (open, seek, decode, crop, resize) with each backend.

    All backends read the same clips of the same files and take turns; a first pass, which fills
    the page cache and finds the bad files, isn't counted. One process, one thread.

    Args:
        data: folder of videos, or a list of them (see :func:`mmjepa.datasets.video_index.
            read_index`).
        backends: names of backends.
        num_frames: of a clip.
        frame_step: between frames.
        size: side of the output in pixels.
        repeats: passes measured.
        workers: of the training that the data wait is estimated for.
        batch_size: clips a step of it.
        step_ms: milliseconds of a step without waiting.

    Raises:
        FileNotFoundError: no video there.
    """
    torch.set_num_threads(1)
    path = Path(data)
    root, source = (path, '.') if path.is_dir() else (path.parent, path.name)
    timings, datasets = [], {}
    for name in backends:
        backend = build_backend(name)
        timing = BackendTiming(name, backend.missing() if isinstance(backend, CodecBackend) else '')
        timings.append(timing)
        if timing.missing:
            continue
        timing.version = backend.version() if isinstance(backend, CodecBackend) else ''
        # arrays and frame folders among the files are read as ever
        of_files = {'type': 'auto', 'video': name} if name in CODECS else name
        load = dict(
            type='SampleClips', num_frames=num_frames, frame_step=frame_step, backend=of_files
        )
        crop = dict(type='RandomResizedCropVideo', size=size)
        pack = dict(type='PackJEPAInputs', keys=['video'])
        datasets[name] = VideoDataset(root, [load, crop, pack], source)
    files = 0
    for number in range(repeats + 1):
        for timing in timings:
            if timing.name in datasets:
                files = len(datasets[timing.name])
                _one_pass(datasets[timing.name], timing, number)
    shape = f'{num_frames} frames, step {frame_step}, to {size}x{size}'
    clips = f'clips of {shape}, median of {repeats}'
    return VideoReport(str(data), files, clips, workers, batch_size, step_ms, timings)


def _one_pass(dataset: VideoDataset, timing: BackendTiming, number: int) -> None:
    """One clip of each file; the first pass only finds the bad ones."""
    done, start, cpu = 0, time.perf_counter(), time.process_time()
    for index in range(min(len(dataset), MAX_CLIPS)):
        path = dataset.get_path(index)
        if path in timing.bad:
            continue
        try:
            dataset[index, 1000 * number + index]
            done += 1
        except BadSampleError as error:
            timing.bad[path] = str(error)
    if number and done:
        timing.seconds.append((time.perf_counter() - start) / done)
        timing.cpu_seconds.append((time.process_time() - cpu) / done)
