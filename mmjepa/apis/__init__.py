"""Three lines from a sweep to its features."""

from .inference import extract_bev, init_model
from .sweeps import SweepPipeline

__all__ = ['SweepPipeline', 'extract_bev', 'init_model']
