"""Videos by OpenCV."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bad_sample import BadSampleError
from .base import VIDEO_BACKENDS, CodecBackend, Frames, Video

# their headers hold the number of frames; others have OpenCV guess it from duration and rate
_COUNTED = ('.avi', '.m4v', '.mov', '.mp4')


@VIDEO_BACKENDS.register_module(name='opencv')
class OpenCVBackend(CodecBackend):
    """Decodes from the first frame on, as OpenCV seeks by time and misses frames where it varies.

    Long videos take long so.

    Args:
        seek: let OpenCV seek: fast, right where the frame rate is constant.
    """

    name = 'opencv'
    package = 'opencv-python'

    def __init__(self, seek: bool = False) -> None:
        self.seek = seek

    def load(self) -> Any:
        """The package."""
        import cv2

        return cv2

    def open(self, path: str) -> Video:
        """Opens a file."""
        return _OpenCV(path, self.require(), self.seek)


class _OpenCV(Video):
    def __init__(self, path: str, cv2: Any, seek: bool) -> None:
        self._cv2, self._seek, self.path = cv2, seek, path
        self._capture = self._open()
        length = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if os.path.splitext(path)[1].lower() not in _COUNTED:
            length = self._packets()
        super().__init__(path, length, float(self._capture.get(cv2.CAP_PROP_FPS)))
        self._next = 0

    def _open(self) -> Any:
        cv2 = self._cv2
        capture = cv2.VideoCapture(self.path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not capture.isOpened():
            raise BadSampleError(
                self.path, 'opencv cannot open it', "Convert it, or set on_error='skip'"
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # upright, as the other decoders
        return capture

    def _packets(self) -> int:
        capture, count = self._open(), 0
        capture.set(self._cv2.CAP_PROP_FORMAT, -1)  # packets, not decoded
        while capture.grab():
            count += 1
        capture.release()
        return count

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        frames = []
        for index in indices.tolist():
            if index < self._next or (self._seek and index > self._next):
                self._capture.set(self._cv2.CAP_PROP_POS_FRAMES, index if self._seek else 0)
                self._next = index if self._seek else 0
            while self._next < index:
                if not self._capture.grab():
                    raise self.short(self._next)
                self._next += 1
            good, frame = self._capture.read()
            if not good:
                raise self.short(index)
            self._next += 1
            frames.append(self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB))
        return np.stack(frames)

    def close(self) -> None:
        self._capture.release()
