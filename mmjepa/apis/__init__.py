"""Three lines from a sweep to its features, or to the objects in it."""

from .detection import detect, init_detector
from .inference import extract_bev, init_model
from .sweeps import SweepPipeline

__all__ = ['SweepPipeline', 'detect', 'extract_bev', 'init_detector', 'init_model']
