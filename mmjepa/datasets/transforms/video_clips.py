"""Reads clips of a video: which frames, and getting them."""

import math
import os
import stat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmjepa.registry import TRANSFORMS

from ..bad_sample import BadSampleError, reading
from ..video_backends import Backend, Frames, Video, build_backend
from ..video_backends.abandon import within

Indices = NDArray[np.int64]


def clip_indices(
    length: int,
    num_frames: int,
    step: int,
    num_clips: int = 1,
    rng: np.random.Generator | None = None,
    overlap: bool = False,
    middle: bool = False,
) -> Indices:
    """Frames of the clips of a video, as V-JEPA's code takes them.

    One clip from each of ``num_clips`` equal partitions. In a longer partition it spans
    ``num_frames * step`` frames, first and last included, so its spacing is a little more than
    ``step``: 0, 4, 8, 12, 17, ... 59, 63 for 16 frames and step 4. In a shorter one the frames
    spread over all of it and the last is repeated; with ``overlap`` the clips then reach over
    their partitions.

    Args:
        length: frames of the video.
        num_frames: T, of a clip.
        step: between frames.
        num_clips: n.
        rng: draws where in a partition the clip lies; None takes its beginning.
        overlap: clips may share frames.
        middle: without ``rng``, clips lie in the middle of their partitions.

    Returns:
        (n, T) int64, ascending in each row.

    Raises:
        ValueError: fewer frames than clips, without overlap.
    """
    part, span = length // num_clips, num_frames * step
    if part > span:
        fixed = (part + span) // 2 if middle else span
        ends = np.array([
            fixed if rng is None else int(rng.integers(span, part)) for _ in range(num_clips)
        ])  # fmt: skip
        rows = [np.clip(np.linspace(e - span, e, num_frames), 0, e - 1) for e in ends]
        starts = np.arange(num_clips) * part
    else:
        if not part and not overlap:
            raise ValueError(f'{length} frames cannot give {num_clips} clips without overlap')
        reach = min(span, length) - 1 if overlap else part
        row = np.full(num_frames, reach, np.float64)
        row[: reach // step] = np.linspace(0, reach, reach // step)
        rows = [np.clip(row, 0, max(reach - 1, 0))] * num_clips
        shift = max(length - span, 0) // max(num_clips - 1, 1) if overlap else part
        starts = np.arange(num_clips) * shift
    return np.stack(rows).astype(np.int64) + starts[:, None]


@TRANSFORMS.register_module()
class SampleClips:
    """Reads clips of the video ``results['path']``: :func:`clip_indices`.

    Sets ``frames``, (n, T, H, W, 3) uint8 at full size; ``frame_ids``, (n, T) int64;
    ``video_fps``, frames a second of the file or None. The step between frames is one of

    * ``frame_step``: raw frames (V-JEPA, SALT, probes: 4);
    * ``duration``: of a clip in seconds, ``int(duration * video_fps / num_frames)``;
    * ``fps``: frames a second of the clip, ``ceil(video_fps) // fps`` (V-JEPA 2: 4).

    A still image is a video of one frame: its clip repeats it.

    Args:
        num_frames: T, of a clip.
        frame_step: see above; exactly one of the three is given.
        duration: see above.
        fps: see above.
        num_clips: n.
        random: draw where the clips lie; else they begin with their parts of the video.
        middle: not random, but in the middle of their parts: probes, where V-JEPA's code draws.
        overlap: clips may share frames where the video is short (probes).
        short: what to do with a video shorter than a clip: 'repeat' its last frame or 'refuse' it
            as bad.
        backend: name or config of a video backend; 'auto' goes by the kind of file. The decoder
            for video files, where there are arrays and images as well:
            ``dict(type='auto', video='pyav')``.
        timeout: seconds after which a decoder is left behind and the file counts as bad.
            None: never.
        max_bytes: longer files count as bad, as in the published runs. None: no file does.

    Raises:
        ValueError: an argument is out of its range.
        BadSampleError: when called, if the video cannot be used.
    """

    def __init__(
        self,
        num_frames: int = 16,
        frame_step: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
        num_clips: int = 1,
        random: bool = True,
        overlap: bool = False,
        middle: bool = False,
        short: Literal['repeat', 'refuse'] = 'repeat',
        backend: Backend = 'auto',
        timeout: float | None = 60.0,
        max_bytes: int | None = 10**9,
    ) -> None:
        given = {'frame_step': frame_step, 'duration': duration, 'fps': fps}
        chosen = {name: value for name, value in given.items() if value is not None}
        if len(chosen) != 1 or min(chosen.values()) <= 0:
            raise ValueError(f'give one of frame_step, duration and fps, above 0: got {given}')
        if random and middle:
            raise ValueError('middle goes with random=False: clips lie there or anywhere')
        if frame_step is not None and frame_step != int(frame_step):
            raise ValueError(f'frame_step must be a whole number of frames, got {frame_step}')
        if min(num_frames, num_clips) < 1:
            raise ValueError(f'{num_frames=} and {num_clips=} must be at least 1')
        if timeout is not None and timeout <= 0:
            raise ValueError(f'timeout must be seconds above 0, or None: got {timeout}')
        if short not in ('repeat', 'refuse'):
            raise ValueError(f"short must be 'repeat' or 'refuse', got {short!r}")
        self.num_frames = num_frames
        self.frame_step = frame_step
        self.duration = duration
        self.fps = fps
        self.num_clips = num_clips
        self.random = random
        self.overlap = overlap
        self.middle = middle
        self.short = short
        self.backend = build_backend(backend)
        self.timeout = timeout
        self.max_bytes = max_bytes

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Reads the clips."""
        path, rng = results['path'], results['rng'] if self.random else None
        self._check_file(path)
        frames, ids, fps = within(self.timeout, lambda: self._read(path, rng), path)
        results['frames'] = frames.reshape(*ids.shape, *frames.shape[1:])
        results['frame_ids'] = ids
        results['video_fps'] = fps
        return results

    def indices(self, video: Video, rng: np.random.Generator | None) -> Indices:
        """(n, T) frames to read.

        Raises:
            BadSampleError: the video is too short, or its frame rate doesn't fit.
        """
        step = self.step(video)
        length, span = len(video), step * self.num_frames
        few = length < self.num_clips and not self.overlap
        if few or (self.short == 'refuse' and length < span):
            need = max(span, self.num_clips) if self.short == 'refuse' else self.num_clips
            raise BadSampleError(
                video.path,
                f'too short: {length} frames, at least {need} are needed',
                "Leave it out, or set on_error='skip'",
            )
        return clip_indices(
            length, self.num_frames, step, self.num_clips, rng, self.overlap, self.middle
        )

    def step(self, video: Video) -> int:
        """Frames of the file from one frame of a clip to the next."""
        if self.frame_step is not None:
            return self.frame_step
        if len(video) == 1:
            return 1
        name = 'fps' if self.fps else 'duration'
        if video.fps is None:
            raise BadSampleError(
                video.path,
                f'its frame rate is unknown and {name} needs it',
                "Set backend=dict(type='auto', fps=...), or frame_step",
            )
        if self.fps is not None:
            step = int(math.ceil(round(video.fps, 3)) // self.fps)
        else:
            assert self.duration is not None
            step = int(self.duration * video.fps / self.num_frames)
        if step < 1:
            raise BadSampleError(
                video.path,
                f'{video.fps:g} frames a second are too few for {name}='
                f'{self.fps or self.duration:g} with {self.num_frames} frames',
                "Lower what is asked for, or set on_error='skip'",
            )
        return step

    def _check_file(self, path: str) -> None:
        with reading(path):
            told = os.stat(path)
        if stat.S_ISDIR(told.st_mode):
            return
        if not told.st_size:
            raise BadSampleError(
                path, 'the file is empty', "Fetch it again, or set on_error='skip'"
            )
        if self.max_bytes is not None and told.st_size > self.max_bytes:
            raise BadSampleError(
                path, f'{told.st_size} bytes, more than {self.max_bytes}', 'Raise max_bytes'
            )

    def _read(
        self, path: str, rng: np.random.Generator | None
    ) -> tuple[Frames, Indices, float | None]:
        video = self.backend.open(path)
        try:
            ids = self.indices(video, rng)
            return video.get(ids.ravel()), ids, video.fps
        finally:
            video.close()
