"""Transforms: callables from a ``results`` dict to a ``results`` dict."""

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

__all__ = [
    'AggregateSweeps',
    'CropToCameraView',
    'GlobalRotScale',
    'LoadPoints',
    'NormalizeIntensity',
    'PackJEPAInputs',
    'PointShuffle',
    'PointsRangeFilter',
    'RandomFlipPoints',
]
