"""Mask generators: pure functions of (grid, seeds) to index tensors."""

from .bev import BEVMaskGenerator, BEVMasks
from .multiblock import BlockMasks, MultiBlockMaskGenerator

__all__ = ['BEVMaskGenerator', 'BEVMasks', 'BlockMasks', 'MultiBlockMaskGenerator']
