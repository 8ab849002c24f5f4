"""Evaluation as plain functions of tensors; they know nothing about where features come from."""

from .ap_result import APResult
from .kitti_annotations import kitti_annotation
from .kitti_ap import kitti_ap
from .knn import knn_predict, mean_class_accuracy, per_class_accuracy
from .linear import LinearProbe, fit_linear, fit_linear_selected, split_by_group, standardisation
from .once_ap import once_ap
from .rotated_iou import (
    overlaps_3d,
    paired_overlaps,
    paired_overlaps_3d,
    rotated_overlaps,
)
from .spectrum import (
    Spectrum,
    covariance_spectrum,
    effective_rank,
    feature_std,
    within_share,
)

__all__ = [
    'APResult',
    'LinearProbe',
    'Spectrum',
    'covariance_spectrum',
    'effective_rank',
    'feature_std',
    'fit_linear',
    'fit_linear_selected',
    'kitti_annotation',
    'kitti_ap',
    'knn_predict',
    'mean_class_accuracy',
    'once_ap',
    'overlaps_3d',
    'paired_overlaps',
    'paired_overlaps_3d',
    'per_class_accuracy',
    'rotated_overlaps',
    'split_by_group',
    'standardisation',
    'within_share',
]
