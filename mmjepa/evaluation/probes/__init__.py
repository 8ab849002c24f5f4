"""Probes on frozen encoders."""

from .bev_cells import BEVGrid, CellRule, label_cells
from .bev_probe import ARMS, BEVProbeSettings, probe_bev_cells
from .protocols import PROTOCOLS, ProtocolSettings, Samples, run_protocol
from .report import format_table, headline, write_results

__all__ = [
    'ARMS',
    'PROTOCOLS',
    'BEVGrid',
    'BEVProbeSettings',
    'CellRule',
    'ProtocolSettings',
    'Samples',
    'format_table',
    'headline',
    'label_cells',
    'probe_bev_cells',
    'run_protocol',
    'write_results',
]
