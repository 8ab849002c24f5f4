"""Data preprocessors."""

from .image import ImagePreprocessor
from .jepa import JEPAPreprocessor
from .video import VideoPreprocessor
from .voxel import VoxelPreprocessor

__all__ = ['ImagePreprocessor', 'JEPAPreprocessor', 'VideoPreprocessor', 'VoxelPreprocessor']
