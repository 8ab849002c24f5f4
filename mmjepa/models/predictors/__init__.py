"""Predictors."""

from .bev_conv import BEVConvPredictor
from .vit import ViTPredictor

__all__ = ['BEVConvPredictor', 'ViTPredictor']
