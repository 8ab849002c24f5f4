"""Methods."""

from .ad_l_jepa import ADLJEPA
from .base import BaseJEPA
from .dmt_jepa import DMTJEPA
from .ijepa import IJEPA

__all__ = ['ADLJEPA', 'DMTJEPA', 'IJEPA', 'BaseJEPA']
