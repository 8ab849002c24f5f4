"""Where targets come from."""

from .neighbours import NeighbourTargets
from .pixels import PixelTargets
from .target_encoder import TargetEncoder

__all__ = ['NeighbourTargets', 'PixelTargets', 'TargetEncoder']
