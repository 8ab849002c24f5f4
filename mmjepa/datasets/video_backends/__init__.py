"""Readers of videos: ``build_backend('auto').open(path)`` gives length, frame rate and frames.

decord, torchcodec, PyAV and OpenCV decode files with one thread each; 'frames' reads folders of
images and single images, 'npy' arrays. They are imported at the first file.
"""

from .arrays import NpyBackend
from .auto import VIDEO_SUFFIXES, AutoBackend, is_video
from .base import VIDEO_BACKENDS, Backend, Frames, Video, VideoBackend, build_backend
from .decord import DecordBackend
from .frames import FramesBackend
from .opencv import OpenCVBackend
from .pyav import PyAVBackend
from .torchcodec import TorchCodecBackend

__all__ = [
    'VIDEO_BACKENDS',
    'VIDEO_SUFFIXES',
    'AutoBackend',
    'Backend',
    'DecordBackend',
    'Frames',
    'FramesBackend',
    'NpyBackend',
    'OpenCVBackend',
    'PyAVBackend',
    'TorchCodecBackend',
    'Video',
    'VideoBackend',
    'build_backend',
    'is_video',
]
