"""Looking inside: functions on features, probes on frozen encoders, detection metrics."""

from .metrics import Accuracy, KittiAPMetric, ONCEAPMetric

__all__ = ['Accuracy', 'KittiAPMetric', 'ONCEAPMetric']
