"""Encoders."""

from .jepa_vit import JEPAViT
from .sparse_voxel_encoder import SparseVoxelEncoder

__all__ = ['JEPAViT', 'SparseVoxelEncoder']
