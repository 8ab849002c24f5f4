"""Videos by decord, the reference's decoder."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import VIDEO_BACKENDS, CodecBackend, Frames, Video, decoding


@VIDEO_BACKENDS.register_module(name='decord')
class DecordBackend(CodecBackend):
    """Seeks by an index of the packets; one thread (the reference opens with all of them)."""

    name = 'decord'
    package = 'decord'

    def load(self) -> Any:
        """The package."""
        import decord

        return decord

    def open(self, path: str) -> Video:
        """Opens a file."""
        return _Decord(path, self.require())


class _Decord(Video):
    def __init__(self, path: str, decord: Any) -> None:
        # DECORDError is no subclass of RuntimeError, which a file that doesn't open raises
        self._errors = (decord.DECORDError, RuntimeError)
        with decoding(path, 'decord', *self._errors):
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            length, fps = len(self._reader), float(self._reader.get_avg_fps())
        super().__init__(path, length, fps)

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        with decoding(self.path, 'decord', *self._errors):
            return self._reader.get_batch(indices.tolist()).asnumpy()

    def close(self) -> None:
        del self._reader
