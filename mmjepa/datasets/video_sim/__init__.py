"""Generated clips: textured sprites that move over textured grounds; the class is the motion.

``render_clips`` makes clips in memory on any device, ``write_clips`` a whole folder;
``tools/create_data.py sim-video`` is the command. A clip is a function of (seed, number), whatever
the batch and, up to rounding, the device.
"""

from .motions import MOTIONS, Motion, trajectories
from .render import ClipSettings, labels_of, render_clips
from .writer import write_clips

__all__ = [
    'MOTIONS',
    'ClipSettings',
    'Motion',
    'labels_of',
    'render_clips',
    'trajectories',
    'write_clips',
]
