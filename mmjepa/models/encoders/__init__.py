"""Encoders."""

from .sparse_voxel_encoder import SparseVoxelEncoder

__all__ = ['SparseVoxelEncoder']
