"""Models: methods, encoders, predictors, targets, masks, losses, preprocessors."""

from .encoders import *  # noqa: F403
from .jepa import *  # noqa: F403
from .losses import *  # noqa: F403
from .masks import *  # noqa: F403
from .predictors import *  # noqa: F403
from .preprocessors import *  # noqa: F403
from .targets import *  # noqa: F403
