"""Evaluation as plain functions of tensors; they know nothing about where features come from."""

from .knn import knn_predict, mean_class_accuracy, per_class_accuracy
from .linear import LinearProbe, fit_linear, fit_linear_selected, split_by_group, standardisation
from .spectrum import Spectrum, covariance_spectrum, effective_rank, feature_std

__all__ = [
    'LinearProbe',
    'Spectrum',
    'covariance_spectrum',
    'effective_rank',
    'feature_std',
    'fit_linear',
    'fit_linear_selected',
    'knn_predict',
    'mean_class_accuracy',
    'per_class_accuracy',
    'split_by_group',
    'standardisation',
]
