"""Transforms: callables from a ``results`` dict to a ``results`` dict."""

from .gt_sampling import GTSampling
from .images import LoadCroppedImage, RandomFlipImage, ResizeCenterCrop
from .loading import AggregateSweeps, LoadPoints
from .packing import PackJEPAInputs
from .points import (
    CropToCameraView,
    GlobalRotScale,
    NormalizeIntensity,
    PointShuffle,
    PointsRangeFilter,
    RandomFlipPoints,
)
from .rand_augment import RandAugmentImage
from .video import RandomResizedCropVideo, ResizeCenterCropVideo, ThreeCropVideo
from .video_clips import SampleClips

__all__ = [
    'AggregateSweeps',
    'CropToCameraView',
    'GTSampling',
    'GlobalRotScale',
    'LoadCroppedImage',
    'LoadPoints',
    'NormalizeIntensity',
    'PackJEPAInputs',
    'PointShuffle',
    'PointsRangeFilter',
    'RandAugmentImage',
    'RandomFlipImage',
    'RandomFlipPoints',
    'RandomResizedCropVideo',
    'ResizeCenterCrop',
    'ResizeCenterCropVideo',
    'SampleClips',
    'ThreeCropVideo',
]
