"""Videos by torchcodec, PyTorch's own decoder."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import VIDEO_BACKENDS, CodecBackend, Frames, Video, decoding


@VIDEO_BACKENDS.register_module(name='torchcodec')
class TorchCodecBackend(CodecBackend):
    """Needs FFmpeg's shared libraries and the release that fits torch.

    In AVI files with B-frames, whose packets carry no times of presentation, its frames come out
    of order (torchcodec 0.13); the other decoders are right there.

    Args:
        seek_mode: 'exact' scans the packets when it opens a file; 'approximate' doesn't and may
            give a frame beside the one asked for.

    Raises:
        ValueError: another ``seek_mode``.
    """

    name = 'torchcodec'
    package = 'torchcodec'

    def __init__(self, seek_mode: str = 'exact') -> None:
        if seek_mode not in ('exact', 'approximate'):
            raise ValueError(f"seek_mode must be 'exact' or 'approximate', got {seek_mode!r}")
        self.seek_mode = seek_mode

    def load(self) -> Any:
        """The package."""
        import torchcodec.decoders

        return torchcodec

    def open(self, path: str) -> Video:
        """Opens a file."""
        return _TorchCodec(path, self.require(), self.seek_mode)


class _TorchCodec(Video):
    _errors = (RuntimeError, ValueError, IndexError)

    def __init__(self, path: str, torchcodec: Any, seek_mode: str) -> None:
        with decoding(path, 'torchcodec', *self._errors):
            self._decoder = torchcodec.decoders.VideoDecoder(
                path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode=seek_mode
            )
        told = self._decoder.metadata
        rate, header = told.average_fps or 0, told.average_fps_from_header or 0
        # the mean of the packets' times may lie a hair above the true rate
        rate = header if abs(rate - header) < 1e-3 * header else rate
        super().__init__(path, told.num_frames or 0, rate)
        lacking = (told.duration_seconds_from_header or 0) - (told.duration_seconds or 0)
        # fewer frames in the same time: an edit list cuts some off
        if (told.num_frames_from_header or 0) > self.length and lacking * (self.fps or 0) > 1:
            there, self.length = self.length, told.num_frames_from_header
            raise self.short(there)

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        with decoding(self.path, 'torchcodec', *self._errors):
            return self._decoder.get_frames_at(indices.tolist()).data.numpy()

    def close(self) -> None:
        del self._decoder
