"""What detectors of mmdet3d need besides the core; imported by the downstream configs alone."""

from . import cbgs, center_head, mmdet3d_compat, object_database, once_dataset

__all__ = ['cbgs', 'center_head', 'mmdet3d_compat', 'object_database', 'once_dataset']
