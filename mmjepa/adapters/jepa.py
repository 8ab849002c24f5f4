"""Checkpoints of this toolkit: ``encoder.`` (trained online) and ``target.encoder.`` (its EMA)."""

from mmjepa.adapters.base import FAMILIES, EncoderAdapter


class MMJEPAAdapter(EncoderAdapter):
    """mmjepa checkpoint; the paper's users fine-tune the online encoder."""

    name = 'mmjepa'
    families = FAMILIES
    prefixes = ('encoder.',)
    which = {'online': 'encoder.', 'target': 'target.encoder.'}
