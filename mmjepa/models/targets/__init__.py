"""Where targets come from."""

from .neighbours import NeighbourTargets
from .target_encoder import TargetEncoder

__all__ = ['NeighbourTargets', 'TargetEncoder']
