"""Mask generators: pure functions of (grid, seeds) to index tensors."""

from .bev import BEVMaskGenerator, BEVMasks

__all__ = ['BEVMaskGenerator', 'BEVMasks']
