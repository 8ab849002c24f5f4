"""Data sets and their transforms; pre-training's are label-free."""

from .bad_sample import BadSampleError
from .collate import jepa_collate
from .image_folder import ImageFolderDataset
from .image_shards import TarShardDataset
from .inspect_sweeps import FolderReport, inspect_folder
from .kitti import KittiCalib, KittiObjects, points_in_boxes
from .labelled_images import LabelledImageDataset
from .nuscenes_sweeps import NuScenesSweeps
from .point_files import read_points
from .point_sweeps import PointSweepDataset
from .seeded import SeededDataset
from .transforms import (
    AggregateSweeps,
    CropToCameraView,
    GlobalRotScale,
    GTSampling,
    LoadCroppedImage,
    LoadPoints,
    NormalizeIntensity,
    PackJEPAInputs,
    PointShuffle,
    PointsRangeFilter,
    RandAugmentImage,
    RandomFlipImage,
    RandomFlipPoints,
    RandomResizedCropVideo,
    ResizeCenterCrop,
    ResizeCenterCropVideo,
    SampleClips,
    ThreeCropVideo,
)
from .video import LabelledVideoDataset, VideoDataset
from .video_backends import VIDEO_BACKENDS, Video, VideoBackend, build_backend

__all__ = [
    'VIDEO_BACKENDS',
    'AggregateSweeps',
    'BadSampleError',
    'CropToCameraView',
    'FolderReport',
    'GTSampling',
    'GlobalRotScale',
    'ImageFolderDataset',
    'KittiCalib',
    'KittiObjects',
    'LabelledImageDataset',
    'LabelledVideoDataset',
    'LoadCroppedImage',
    'LoadPoints',
    'NormalizeIntensity',
    'NuScenesSweeps',
    'PackJEPAInputs',
    'PointShuffle',
    'PointSweepDataset',
    'PointsRangeFilter',
    'RandAugmentImage',
    'RandomFlipImage',
    'RandomFlipPoints',
    'RandomResizedCropVideo',
    'ResizeCenterCrop',
    'ResizeCenterCropVideo',
    'SampleClips',
    'SeededDataset',
    'TarShardDataset',
    'ThreeCropVideo',
    'Video',
    'VideoBackend',
    'VideoDataset',
    'build_backend',
    'inspect_folder',
    'jepa_collate',
    'points_in_boxes',
    'read_points',
]
