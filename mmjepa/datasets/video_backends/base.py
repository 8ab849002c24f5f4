"""What every reader of videos gives."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from mmengine.registry import Registry
from numpy.typing import NDArray

from ..bad_sample import BadSampleError

Frames = NDArray[np.uint8]

VIDEO_BACKENDS = Registry(
    'video backend', scope='mmjepa', locations=['mmjepa.datasets.video_backends']
)


class Video(ABC):
    """An open video.

    Args:
        path: of the file or folder.
        length: frames that its header, or an index of its packets, promises.
        fps: frames a second; None where nothing says it.

    Raises:
        BadSampleError: no frame is promised.
    """

    def __init__(self, path: str, length: int, fps: float | None) -> None:
        if length < 1:
            raise BadSampleError(path, 'no frame in it', "Fetch it again, or set on_error='skip'")
        self.path = path
        self.length = length
        self.fps = fps or None

    def __len__(self) -> int:
        return self.length

    def get(self, indices: Sequence[int] | NDArray[np.int64]) -> Frames:
        """Frames in the order asked for, each decoded once however often it is asked for.

        Args:
            indices: (N,) in [0, len(self)), any order, repeats allowed.

        Returns:
            (N, H, W, 3) uint8, red first.

        Raises:
            IndexError: an index is out of range.
            BadSampleError: a frame that the header promises isn't there, or cannot be decoded.
        """
        asked = np.asarray(indices, np.int64)
        wanted, back = np.unique(asked, return_inverse=True)
        if not len(wanted) or wanted[0] < 0 or wanted[-1] >= self.length:
            raise IndexError(f'{self.path}: frames {list(indices)} of {self.length}')
        frames = self._read(wanted)
        if len(frames) != len(wanted) or frames.ndim != 4 or frames.shape[3] != 3:
            raise BadSampleError(
                self.path,
                f'decoded to shape {frames.shape}, not ({len(wanted)}, H, W, 3)',
                "Fetch it again, or set on_error='skip'",
            )
        return frames if np.array_equal(asked, wanted) else frames[back]

    @abstractmethod
    def _read(self, indices: NDArray[np.int64]) -> Frames:
        """(N, H, W, 3) uint8, red first; the indices ascend."""

    def close(self) -> None:  # noqa: B027 (arrays have nothing to close)
        """Lets go of the file."""

    def short(self, index: int) -> BadSampleError:
        """The error for a promised frame that doesn't come."""
        return BadSampleError(
            self.path,
            f'{self.length} frames promised by its header, but frame {index} is not there',
            "Fetch it again, or set on_error='skip'",
        )


class VideoBackend(ABC):
    """Opens videos. A subclass is registered in ``VIDEO_BACKENDS`` under its ``name``."""

    name = ''

    @abstractmethod
    def open(self, path: str) -> Video:
        """Opens a file or folder.

        Raises:
            ImportError: a package is missing; names the extra.
            BadSampleError: it cannot be read.
        """


class CodecBackend(VideoBackend):
    """A backend that needs a package to decode compressed video."""

    package = ''

    @abstractmethod
    def load(self) -> Any:
        """The package.

        Raises:
            ImportError, OSError, RuntimeError: as the package has it.
        """

    def version(self) -> str:
        """Of the package."""
        return self.load().__version__

    def require(self) -> Any:
        """The package.

        Raises:
            ImportError: it doesn't import; names the extra.
        """
        try:
            return self.load()
        except (ImportError, OSError, RuntimeError) as error:  # the last two: FFmpeg is missing
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ImportError(
                f'the video backend {self.name!r} needs {self.package}, which does not import '
                f"({said[0]}): pip install 'mmjepa[video]' {self.package}, or set backend to "
                'another one'
            ) from None

    def missing(self) -> str:
        """Why it cannot be used here; empty if it can."""
        try:
            self.require()
        except ImportError as error:
            return str(error)
        return ''


Backend = VideoBackend | Mapping[str, Any] | str


def build_backend(backend: Backend) -> VideoBackend:
    """A backend from its name, its config or itself.

    Raises:
        KeyError: there is no such backend.
    """
    if isinstance(backend, VideoBackend):
        return backend
    config = {'type': backend} if isinstance(backend, str) else dict(backend)
    return VIDEO_BACKENDS.build(config)


@contextmanager
def decoding(path: str, backend: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns what a decoder says about a file into BadSampleError."""
    try:
        yield
    except BadSampleError:
        raise
    except errors as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0][-300:]
        raise BadSampleError(
            path, f'{backend} cannot decode it ({reason})', "Convert it, or set on_error='skip'"
        ) from None
