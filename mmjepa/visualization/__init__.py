"""Pictures of sweeps, images, embeddings, masks, spectra and training curves.

Matplotlib is imported when a picture is drawn.
"""

from .bev import SweepViews, save_figure, sweep_figure, view_sweep
from .colours import pca_colours, principal_axes
from .curves import curves_figure, read_scalars
from .detections import compare_detections, detections_figure
from .images import ImageViews, image_figure, view_image

__all__ = [
    'ImageViews',
    'SweepViews',
    'compare_detections',
    'curves_figure',
    'detections_figure',
    'image_figure',
    'pca_colours',
    'principal_axes',
    'read_scalars',
    'save_figure',
    'sweep_figure',
    'view_image',
    'view_sweep',
]
