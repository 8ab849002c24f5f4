"""Label-free data sets and their transforms."""

from .collate import jepa_collate
from .inspect_sweeps import FolderReport, inspect_folder
from .kitti import KittiCalib, KittiObjects, points_in_boxes
from .nuscenes_sweeps import NuScenesSweeps
from .point_files import BadSampleError, read_points
from .point_sweeps import PointSweepDataset
from .seeded import SeededDataset
from .transforms import (
    AggregateSweeps,
    CropToCameraView,
    GlobalRotScale,
    GTSampling,
    LoadPoints,
    NormalizeIntensity,
    PackJEPAInputs,
    PointShuffle,
    PointsRangeFilter,
    RandomFlipPoints,
)

__all__ = [
    'AggregateSweeps',
    'BadSampleError',
    'CropToCameraView',
    'FolderReport',
    'GTSampling',
    'GlobalRotScale',
    'KittiCalib',
    'KittiObjects',
    'LoadPoints',
    'NormalizeIntensity',
    'NuScenesSweeps',
    'PackJEPAInputs',
    'PointShuffle',
    'PointSweepDataset',
    'PointsRangeFilter',
    'RandomFlipPoints',
    'SeededDataset',
    'inspect_folder',
    'jepa_collate',
    'points_in_boxes',
    'read_points',
]
