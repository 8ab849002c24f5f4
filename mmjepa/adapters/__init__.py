"""Key and layout maps between checkpoint formats, one file per format; they fail loud."""

from mmjepa.adapters.base import Encoder, EncoderAdapter
from mmjepa.adapters.convert import (
    ALL_FORMATS,
    FORMATS,
    VIDEO_FORMATS,
    VIT_FORMATS,
    detect_format,
    read_encoder,
    write_encoder,
)
from mmjepa.adapters.mmdet3d import DETECTOR_PREFIXES
from mmjepa.adapters.resize import adjust_vit, fit_vit
from mmjepa.adapters.vit_encoder import vit_config_of

__all__ = [
    'ALL_FORMATS',
    'DETECTOR_PREFIXES',
    'FORMATS',
    'VIDEO_FORMATS',
    'VIT_FORMATS',
    'Encoder',
    'EncoderAdapter',
    'adjust_vit',
    'detect_format',
    'fit_vit',
    'read_encoder',
    'vit_config_of',
    'write_encoder',
]
