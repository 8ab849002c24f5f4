"""Key and layout maps between checkpoint formats, one file per family; they fail loud."""

from mmjepa.adapters.base import Encoder, EncoderAdapter
from mmjepa.adapters.convert import FORMATS, detect_format, read_encoder, write_encoder
from mmjepa.adapters.mmdet3d import DETECTOR_PREFIXES

__all__ = [
    'DETECTOR_PREFIXES',
    'FORMATS',
    'Encoder',
    'EncoderAdapter',
    'detect_format',
    'read_encoder',
    'write_encoder',
]
