"""Info files of mmdet3d: its own converters run and checked, and label subsets of the result."""

from .kitti import SETS, convert_kitti, verify_kitti
from .nuscenes import convert_nuscenes, verify_nuscenes
from .subset import SubsetReport, find_database, fraction_count, subset_database, write_subset
from .verify import ConversionReport
from .waymo import verify_waymo, waymo_commands

__all__ = [
    'SETS',
    'ConversionReport',
    'SubsetReport',
    'convert_kitti',
    'convert_nuscenes',
    'find_database',
    'fraction_count',
    'subset_database',
    'verify_kitti',
    'verify_nuscenes',
    'verify_waymo',
    'waymo_commands',
    'write_subset',
]
