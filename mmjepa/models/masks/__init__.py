"""Mask generators: pure functions of (grid, seeds) to index tensors."""

from .bev import BEVMaskGenerator, BEVMasks
from .clips import ClipMaskGenerator, ClipMasks
from .multiblock import BlockMasks, MultiBlockMaskGenerator
from .multiblock3d import MultiBlock3DMaskGenerator
from .tubes import FrameMaskGenerator, TubeMaskGenerator

__all__ = [
    'BEVMaskGenerator',
    'BEVMasks',
    'BlockMasks',
    'ClipMaskGenerator',
    'ClipMasks',
    'FrameMaskGenerator',
    'MultiBlock3DMaskGenerator',
    'MultiBlockMaskGenerator',
    'TubeMaskGenerator',
]
