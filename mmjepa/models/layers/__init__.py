"""Layers: sparse convolution and its backends."""

from .sparse_ops import (
    SparseBasicBlock,
    SparseBatchNorm1d,
    SparseConv3d,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    backend_name,
    bev_rows,
)

__all__ = [
    'SparseBasicBlock',
    'SparseBatchNorm1d',
    'SparseConv3d',
    'SparseSequential',
    'SparseTensor',
    'SubMConv3d',
    'backend_name',
    'bev_rows',
]
