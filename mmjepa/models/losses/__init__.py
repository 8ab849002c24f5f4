"""Losses: functions first, thin registered modules second."""

from .bev import BEVJEPALoss
from .functional import cosine_distance, global_denominators, variance_hinge

__all__ = ['BEVJEPALoss', 'cosine_distance', 'global_denominators', 'variance_hinge']
