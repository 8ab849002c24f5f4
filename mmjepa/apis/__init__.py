"""Three lines from a sweep or an image to its features, or to the objects in it."""

from .detection import detect, init_detector
from .images import extract_tokens, image_inputs
from .inference import extract_bev, init_model
from .sweeps import SweepPipeline

__all__ = [
    'SweepPipeline',
    'detect',
    'extract_bev',
    'extract_tokens',
    'image_inputs',
    'init_detector',
    'init_model',
]
