"""Probes of encoders: frozen, and fine-tuned for whole samples."""

from .bev_cells import BEVGrid, CellRule, label_cells
from .bev_probe import ARMS, BEVProbeSettings, probe_bev_cells
from .features import ENCODERS
from .finetune import FinetuneSettings
from .inputs import input_kind
from .protocols import PROTOCOLS, ProtocolSettings, Samples, run_protocol
from .report import format_table, headline, write_results
from .sample_probe import probe_samples
from .sample_protocols import SAMPLE_PROTOCOLS, SampleProtocolSettings
from .sample_report import format_samples, write_samples
from .sample_settings import SAMPLE_ARMS, SampleProbeSettings

__all__ = [
    'ARMS',
    'ENCODERS',
    'PROTOCOLS',
    'SAMPLE_ARMS',
    'SAMPLE_PROTOCOLS',
    'BEVGrid',
    'BEVProbeSettings',
    'CellRule',
    'FinetuneSettings',
    'ProtocolSettings',
    'SampleProbeSettings',
    'SampleProtocolSettings',
    'Samples',
    'format_samples',
    'format_table',
    'headline',
    'input_kind',
    'label_cells',
    'probe_bev_cells',
    'probe_samples',
    'run_protocol',
    'write_results',
    'write_samples',
]
