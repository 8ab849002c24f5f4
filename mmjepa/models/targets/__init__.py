"""Where targets come from."""

from .target_encoder import TargetEncoder

__all__ = ['TargetEncoder']
