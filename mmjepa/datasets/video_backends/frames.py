"""Videos that lie as folders of images, and images as videos of one frame."""

import os
import re

import numpy as np
from numpy.typing import NDArray

from ..bad_sample import BadSampleError, reading
from ..image_files import decode_image, is_image, read_bytes, read_header
from .base import VIDEO_BACKENDS, Frames, Video, VideoBackend


@VIDEO_BACKENDS.register_module(name='frames')
class FramesBackend(VideoBackend):
    """A folder whose images are the frames, by the numbers in their names; or one image.

    Args:
        fps: frames a second, which the files don't say.
    """

    name = 'frames'

    def __init__(self, fps: float | None = None) -> None:
        self.fps = fps

    def open(self, path: str) -> Video:
        """Lists the images."""
        return _Images(path, self.fps)


class _Images(Video):
    def __init__(self, path: str, fps: float | None) -> None:
        with reading(path):
            if os.path.isdir(path):
                names = sorted(filter(is_image, os.listdir(path)), key=_numbers)
                self._files = [os.path.join(path, name) for name in names if name[0] != '.']
            else:
                os.stat(path)
                self._files = [path]
        super().__init__(path, len(self._files), fps)

    def _read(self, indices: NDArray[np.int64]) -> Frames:
        frames = []
        for index in indices.tolist():
            file = self._files[index]
            data = read_bytes(file)
            frames.append(decode_image(data, read_header(data, file), file)[..., ::-1])
            if frames[-1].shape != frames[0].shape:
                raise BadSampleError(
                    file,
                    f'{frames[-1].shape[:2]} pixels, another frame of the video has '
                    f'{frames[0].shape[:2]}',
                    'Frames of a video must have one size',
                )
        return np.stack(frames)


def _numbers(name: str) -> list[tuple[bool, int, str]]:
    """Sorts frame_10 behind frame_9."""
    parts = re.split(r'(\d+)', name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]
