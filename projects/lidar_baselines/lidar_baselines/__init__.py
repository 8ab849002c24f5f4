"""LiDAR pre-training baselines beside AD-L-JEPA: importing the package registers them."""

from .bev_mae import BEVMAE
from .decoders import CellPointDecoder, OccupancyDecoder
from .losses import CellPointLoss
from .masks import RangeAwareMaskGenerator
from .occupancy_mae import OccupancyMAE
from .preprocessors import PointVoxelPreprocessor
from .targets import CellPoints, OccupiedVoxels

__all__ = [
    'BEVMAE',
    'CellPointDecoder',
    'CellPointLoss',
    'CellPoints',
    'OccupancyDecoder',
    'OccupancyMAE',
    'OccupiedVoxels',
    'PointVoxelPreprocessor',
    'RangeAwareMaskGenerator',
]
