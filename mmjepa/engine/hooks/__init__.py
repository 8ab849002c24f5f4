"""Hooks."""

from .checkpoint import JEPACheckpointHook
from .collapse_monitor import CollapseMonitorHook
from .load_encoder import LoadEncoderHook
from .logger import JEPALoggerHook
from .loss_guard import LossGuardHook
from .native_spconv import NativeSpconvHook
from .online_probe import OnlineBEVProbeHook, OnlineProbeHook
from .runtime_info import DeferredInfoHook
from .signal import SaveOnSignalHook
from .skipped_samples import SkippedSamplesHook
from .target_update import TargetUpdateHook

__all__ = [
    'CollapseMonitorHook',
    'DeferredInfoHook',
    'JEPACheckpointHook',
    'JEPALoggerHook',
    'LoadEncoderHook',
    'LossGuardHook',
    'NativeSpconvHook',
    'OnlineBEVProbeHook',
    'OnlineProbeHook',
    'SaveOnSignalHook',
    'SkippedSamplesHook',
    'TargetUpdateHook',
]
