"""Data preprocessors."""

from .image import ImagePreprocessor
from .jepa import JEPAPreprocessor
from .voxel import VoxelPreprocessor

__all__ = ['ImagePreprocessor', 'JEPAPreprocessor', 'VoxelPreprocessor']
