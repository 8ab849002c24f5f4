"""Methods."""

from .ad_l_jepa import ADLJEPA
from .base import BaseJEPA

__all__ = ['ADLJEPA', 'BaseJEPA']
