"""mmjepa: joint-embedding predictive architectures for OpenMMLab users.

Importing this package needs torch, mmengine and numpy only.
"""

from mmengine.config.utils import MODULE2PACKAGE

from .version import __version__

# Lets `_base_ = ['mmjepa::adl_jepa/kitti.py']` resolve in a user's own config. MMEngine finds the
# folder of a name that is a module but no distribution through the import system, which is right
# for wheels, editable installs and PYTHONPATH alike; the distribution's location is not.
MODULE2PACKAGE.setdefault('mmjepa', 'mmjepa.version')

__all__ = ['__version__']
