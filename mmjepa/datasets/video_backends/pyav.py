"""Videos by PyAV."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bad_sample import BadSampleError
from .base import VIDEO_BACKENDS, CodecBackend, Frames, Video, decoding


@VIDEO_BACKENDS.register_module(name='pyav')
class PyAVBackend(CodecBackend):
    """Goes to the keyframe before a frame and on from there.

    One thread: decoding with several can hang in forked workers.
    """

    name = 'pyav'
    package = 'av'

    def load(self) -> Any:
        """The package."""
        import av

        return av

    def open(self, path: str) -> Video:
        """Opens a file."""
        return _PyAV(path, self.require())


class _PyAV(Video):
    def __init__(self, path: str, av: Any) -> None:
        self._errors = (av.FFmpegError, av.error.EOFError)
        with decoding(path, 'pyav', *self._errors):
            self._container = av.open(path)
            if not self._container.streams.video:
                raise BadSampleError(path, 'no video in it', "Replace it, or set on_error='skip'")
            self._stream = self._container.streams.video[0]
            self._stream.thread_count = 1
            self._stream.thread_type = 'SLICE'
            packets = [p for p in self._container.demux(self._stream) if p.size]
        rate = self._stream.average_rate
        super().__init__(path, self._stream.frames or len(packets), float(rate) if rate else None)
        if len(packets) < self.length:
            raise self.short(len(packets))
        shown = [p for p in packets if not p.is_discard]  # an edit list may cut some off
        self.length = len(shown)
        times = [p.pts for p in shown]
        self._times: NDArray[np.int64] | None = None
        self._keys = np.zeros(1, np.int64)
        # AVI stores no times of presentation: there, frames are counted from the first one
        if self._container.format.name != 'avi' and None not in times:
            self._times = np.unique(np.array(times, np.int64))
            self.length = len(self._times)
            keys = np.array([p.pts for p in shown if p.is_keyframe], np.int64)
            self._keys = np.union1d(self._keys, np.searchsorted(self._times, keys))

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        frames = []
        decoded: Iterator[tuple[int, Any]] = iter(())
        position, frame = self.length, None  # none decoded yet
        with decoding(self.path, 'pyav', *self._errors):
            for index in indices.tolist():
                key = int(self._keys[np.searchsorted(self._keys, index, 'right') - 1])
                if position >= index or position + 1 < key:
                    decoded, position = self._from(key), -1
                while position < index:
                    position, frame = next(decoded, (self.length, None))
                if position != index:
                    raise self.short(index)
                frames.append(_upright(frame))
        return np.stack(frames)

    def _from(self, key: int) -> Iterator[tuple[int, Any]]:
        """Frames with their numbers, from a keyframe on."""
        if self._times is None:
            self._container.seek(0)
            yield from enumerate(self._container.decode(self._stream))
            return
        self._container.seek(int(self._times[key]), stream=self._stream)
        for frame in self._container.decode(self._stream):
            if frame.pts is not None:
                yield int(np.searchsorted(self._times, frame.pts)), frame

    def close(self) -> None:
        self._container.close()


def _upright(frame: Any) -> Frames:
    """Pixels of a frame, turned as the file asks for (telephones film upright)."""
    pixels = frame.to_ndarray(format='rgb24')
    return np.rot90(pixels, round(getattr(frame, 'rotation', 0) / 90))
