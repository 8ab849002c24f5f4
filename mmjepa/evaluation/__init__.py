"""Looking inside: functions on features, probes on frozen encoders, detection metrics."""

from .metrics import KittiAPMetric, ONCEAPMetric

__all__ = ['KittiAPMetric', 'ONCEAPMetric']
