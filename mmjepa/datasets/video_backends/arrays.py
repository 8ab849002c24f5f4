"""Videos as arrays."""

import numpy as np
from numpy.typing import NDArray

from ..bad_sample import BadSampleError, reading
from .base import VIDEO_BACKENDS, Frames, Video, VideoBackend

_REMEDY = "Save uint8 frames (T, H, W, 3), or set on_error='skip'"


@VIDEO_BACKENDS.register_module(name='npy')
class NpyBackend(VideoBackend):
    """``.npy`` files of (T, H, W, 3) uint8, red first; only the frames asked for are read.

    Args:
        fps: frames a second, which the file doesn't say.
    """

    name = 'npy'

    def __init__(self, fps: float | None = None) -> None:
        self.fps = fps

    def open(self, path: str) -> Video:
        """Maps the file."""
        return _Array(path, self.fps)


class _Array(Video):
    def __init__(self, path: str, fps: float | None) -> None:
        try:
            with reading(path):
                self._array = np.load(path, mmap_mode='r', allow_pickle=False)
        except BadSampleError:
            raise
        except (ValueError, EOFError) as error:  # fewer bytes than its header promises, pickled
            raise BadSampleError(path, f'numpy cannot read it ({error})', _REMEDY) from None
        array = self._array
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise BadSampleError(path, f'shape {array.shape} of {array.dtype}', _REMEDY)
        super().__init__(path, len(array), fps)

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        return np.asarray(self._array[indices])

    def close(self) -> None:
        del self._array
