"""Methods."""

from .ad_l_jepa import ADLJEPA
from .base import BaseJEPA
from .dmt_jepa import DMTJEPA
from .ijepa import IJEPA
from .salt import SALT, VPixel
from .vjepa import VJEPA

__all__ = ['ADLJEPA', 'DMTJEPA', 'IJEPA', 'SALT', 'VJEPA', 'BaseJEPA', 'VPixel']
