"""Runner, loop, sampler, schedules, optimizer wrappers, hooks."""

from .hooks import *  # noqa: F403
from .lars import LARS
from .loop import JEPATrainLoop
from .optim import JEPAFp16OptimWrapper, JEPAOptimWrapper, JEPAOptimWrapperConstructor
from .runner import JEPARunner
from .sampler import ResumableBatchSampler
from .schedules import PhasedScheduler

__all__ = [
    'LARS',
    'JEPAFp16OptimWrapper',
    'JEPAOptimWrapper',
    'JEPAOptimWrapperConstructor',
    'JEPARunner',
    'JEPATrainLoop',
    'PhasedScheduler',
    'ResumableBatchSampler',
]
