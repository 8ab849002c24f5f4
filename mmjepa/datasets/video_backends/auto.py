"""The backend by kind of file and by what is installed."""

import os
from functools import cached_property

from ..image_files import is_image
from ..worker_log import log_once
from .base import VIDEO_BACKENDS, CodecBackend, Video, VideoBackend, build_backend

VIDEO_SUFFIXES = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.npy', '.webm', '.wmv')
CODECS = ('decord', 'torchcodec', 'pyav', 'opencv')  # the first that imports is taken


def is_video(name: str) -> bool:
    """Whether a file's suffix is that of a video, or of an array."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


@VIDEO_BACKENDS.register_module(name='auto')
class AutoBackend(VideoBackend):
    """'npy' for ``.npy``, 'frames' for folders and images, a decoder for all other files.

    Args:
        video: the decoder; None takes the first of decord, torchcodec, PyAV and OpenCV that
            imports here, and says so in the log.
        fps: frames a second of arrays and images, which don't say it.

    Raises:
        ValueError: ``video`` is no decoder.
    """

    name = 'auto'

    def __init__(self, video: str | None = None, fps: float | None = None) -> None:
        if video not in (None, *CODECS):
            raise ValueError(f'video must be one of {", ".join(CODECS)}, got {video!r}')
        self.video = video
        self.fps = fps

    def open(self, path: str) -> Video:
        """Opens a file or folder."""
        return self.choose(path).open(path)

    def choose(self, path: str) -> VideoBackend:
        """The backend for a file or folder."""
        if path.lower().endswith('.npy'):
            return self._arrays
        if is_image(path) or os.path.isdir(path):
            return self._frames
        return self._codec

    @cached_property
    def _arrays(self) -> VideoBackend:
        return build_backend({'type': 'npy', 'fps': self.fps})

    @cached_property
    def _frames(self) -> VideoBackend:
        return build_backend({'type': 'frames', 'fps': self.fps})

    @cached_property
    def _codec(self) -> VideoBackend:
        reasons = []
        for name in (self.video,) if self.video else CODECS:
            backend = build_backend(name)
            assert isinstance(backend, CodecBackend)
            reason = backend.missing()
            if not reason:
                by = f'{name} {backend.version()}'
                log_once(f'videos are decoded by {by}, one thread a process')
                return backend
            reasons.append(reason)
        raise ImportError('no decoder of videos imports: ' + '; '.join(reasons))
