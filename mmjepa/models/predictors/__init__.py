"""Predictors."""

from .bev_conv import BEVConvPredictor

__all__ = ['BEVConvPredictor']
