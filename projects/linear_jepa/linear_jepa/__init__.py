"""Deep linear JEPA against deep linear MAE: importing the package registers the components."""

from .dataset import LinearProcessDataset
from .hooks import LinearDynamicsHook
from .model import DeepLinear, HalfSquaredError, LinearJEPA, SecondViewMaskGenerator
from .processes import (
    LinearProcess,
    direct_process,
    mixed_process,
    static_process,
    temporal_process,
)

__all__ = [
    'DeepLinear',
    'HalfSquaredError',
    'LinearDynamicsHook',
    'LinearJEPA',
    'LinearProcess',
    'LinearProcessDataset',
    'SecondViewMaskGenerator',
    'direct_process',
    'mixed_process',
    'static_process',
    'temporal_process',
]
