"""Pictures of sweeps, embeddings, masks, spectra and training curves.

Matplotlib is imported when a picture is drawn.
"""

from .bev import SweepViews, save_figure, sweep_figure, view_sweep
from .colours import pca_colours, principal_axes
from .curves import curves_figure, read_scalars
from .detections import compare_detections, detections_figure

__all__ = [
    'SweepViews',
    'compare_detections',
    'curves_figure',
    'detections_figure',
    'pca_colours',
    'principal_axes',
    'read_scalars',
    'save_figure',
    'sweep_figure',
    'view_sweep',
]
