"""Metrics for MMEngine's evaluators."""

from .kitti_ap_metric import KittiAPMetric
from .once_ap_metric import ONCEAPMetric

__all__ = ['KittiAPMetric', 'ONCEAPMetric']
