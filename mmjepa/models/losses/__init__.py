"""Losses: functions first, thin registered modules second."""

from .bev import BEVJEPALoss
from .functional import cosine_distance, global_denominators, variance_hinge
from .regression import RegressionLoss

__all__ = [
    'BEVJEPALoss',
    'RegressionLoss',
    'cosine_distance',
    'global_denominators',
    'variance_hinge',
]
