"""mmdet3d 1.x: the encoder as ``SparseEncoder`` in a detector's state dict.

Importing mmdet3d replaces spconv's loader by one that takes every state dict without
``_metadata`` version 2 for the convolution's own prefix for mmcv's kernel layout and permutes it.
MMEngine then only warns about the shapes and trains on with random kernels. The versions are
written for each prefix that a detector may ask for, so ``revise_keys`` between them stays safe;
``init_cfg=dict(type='Pretrained', prefix=...)`` drops ``_metadata`` and stays unsafe: use
``load_from``.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from torch import Tensor

from mmjepa.adapters.base import Encoder, EncoderAdapter

DETECTOR_PREFIXES = {
    'second': 'middle_encoder.',  # VoxelNet
    'dynamic_second': 'middle_encoder.',  # DynamicVoxelNet
    'pvrcnn': 'middle_encoder.',  # PointVoxelRCNN
    'centerpoint': 'pts_middle_encoder.',
    'mvxnet': 'pts_middle_encoder.',  # MVXFasterRCNN
}


class MMDet3DAdapter(EncoderAdapter):
    """The keys are the common form's already; what matters is the prefix and ``_metadata``."""

    name = 'mmdet3d'
    prefixes = ('middle_encoder.', 'pts_middle_encoder.')

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """Add ``_metadata`` version 2 below every prefix in use."""
        ordered = collections.OrderedDict(state)
        written = next(iter(state)).removesuffix('conv_input.0.weight')
        modules = {key.rsplit('.', 1)[0].removeprefix(written) for key in state}
        prefixes = dict.fromkeys((written, *self.prefixes, ''))
        ordered._metadata = collections.OrderedDict(  # type: ignore[attr-defined]
            (prefix + module, {'version': 2}) for prefix in prefixes for module in sorted(modules)
        )
        return {'meta': meta, 'state_dict': ordered}

    def remarks(self, encoder: Encoder, out: Path) -> list[str]:
        """How to load it."""
        return [f"fine-tune with load_from='{out}' (not init_cfg, which drops kernel versions)"]
