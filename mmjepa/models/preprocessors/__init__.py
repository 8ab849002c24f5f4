"""Data preprocessors."""

from .jepa import JEPAPreprocessor
from .voxel import VoxelPreprocessor

__all__ = ['JEPAPreprocessor', 'VoxelPreprocessor']
