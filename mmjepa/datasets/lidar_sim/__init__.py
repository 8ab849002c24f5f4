"""LiDAR simulator: traffic scenes seen by an HDL-64-like sensor, written as a KITTI data set.

``simulate_frame`` makes one frame in memory, ``write_data_set`` a whole folder;
``tools/create_data.py sim-kitti`` is the command. A frame is a function of (seed, number),
whatever the number of workers; the two ray casters see the same triangles.
"""

from .frame import Frame, simulate_frame
from .layout import random_scene
from .raycast import CASTERS, Caster, make_caster
from .scene import STYLES, Scene
from .sensor import Sweep, take_sweep
from .writer import SimSettings, write_data_set, write_frame

__all__ = [
    'CASTERS',
    'STYLES',
    'Caster',
    'Frame',
    'Scene',
    'SimSettings',
    'Sweep',
    'make_caster',
    'random_scene',
    'simulate_frame',
    'take_sweep',
    'write_data_set',
    'write_frame',
]
