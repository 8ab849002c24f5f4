"""Metrics for MMEngine's evaluators."""

from .accuracy import Accuracy
from .kitti_ap_metric import KittiAPMetric
from .once_ap_metric import ONCEAPMetric

__all__ = ['Accuracy', 'KittiAPMetric', 'ONCEAPMetric']
