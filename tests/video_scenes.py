"""Video files for tests."""

import cv2
import numpy as np

from mmjepa.datasets.video_backends import build_backend
from mmjepa.datasets.video_backends.auto import CODECS

INSTALLED = [name for name in CODECS if not build_backend(name).missing()]


def clip(frames=24, height=64, width=96, seed=0):
    """(T, H, W, 3) uint8 RGB: soft blobs, another picture in each frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, 5, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) for c in coarse])


def write_lossless(path, frames=24, fps=10, **options):
    """An AVI file of FFV1, every frame a keyframe; returns its (T, H, W, 3) RGB."""
    pixels = clip(frames, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = pixels.shape[2], pixels.shape[1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'FFV1'), fps, size)
    assert writer.isOpened()
    for frame in pixels:
        writer.write(frame[..., ::-1])
    writer.release()
    return pixels


def write_npy(path, frames=24, **options):
    """An array; returns it."""
    pixels = clip(frames, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pixels)
    return pixels


def write_mp4(av, path, pixels, rotation=0, fps=10, **codec):
    """H.264 with B-frames and keyframes every 12, its index in front of the pixels."""
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
        stream = container.add_stream('libx264', rate=fps, options=codec)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.gop_size = 12
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
