"""OpenPCDet: ``VoxelBackBone8x`` and ``VoxelResBackBone8x``, the layout of the released weights.

Its residual variant has a bias in the convolutions of the residual blocks, mmdet3d's has none. A
bias before a BatchNorm only shifts the mean, hence ``running_mean -= bias`` gives equal outputs.
"""

from __future__ import annotations

import collections
import re
from typing import Any

import torch
from torch import Tensor

from mmjepa.adapters.base import EncoderAdapter
from mmjepa.adapters.sparse_encoder import block_type_of
from mmjepa.engine.checkpoint import CheckpointError

_STAGE = 'encoder_layers.encoder_layer'


def to_common(key: str, residual: bool) -> str:
    """``conv2.0.0.weight`` to ``encoder_layers.encoder_layer2.0.0.weight`` (or 1.2 if residual)."""
    found = re.fullmatch(r'conv([1-4])\.(\d)\.(.+)', key)
    if not found:
        return key
    stage, block, rest = int(found[1]), int(found[2]), found[3]
    if residual and stage > 1:  # mmdet3d keeps the strided convolution at the end of a stage
        stage, block = (stage - 1, 2) if block == 0 else (stage, block - 1)
    return f'{_STAGE}{stage}.{block}.{rest}'


def from_common(key: str, residual: bool) -> str:
    """Inverse of :func:`to_common`."""
    found = re.fullmatch(re.escape(_STAGE) + r'([1-4])\.(\d)\.(.+)', key)
    if not found:
        return key
    stage, block, rest = int(found[1]), int(found[2]), found[3]
    if residual:
        stage, block = (stage + 1, 0) if block == 2 else (stage, block + (stage > 1))
    return f'conv{stage}.{block}.{rest}'


class OpenPCDetAdapter(EncoderAdapter):
    """``dict(model_state=...)`` with the encoder below ``backbone_3d.``."""

    name = 'openpcdet'
    prefixes = ('backbone_3d.',)
    roots = ('conv_input.', 'conv1.', 'conv2.', 'conv3.', 'conv4.', 'conv_out.')
    owns_prefix = False  # a pre-training model may keep its target and predictor there, too

    def decode(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Rename, and fold the biases of the residual variant into the BatchNorm means.

        Raises:
            CheckpointError: Only some residual convolutions have a bias.
        """
        residual = any(key.startswith('conv1.0.conv1.') for key in state)
        state = {to_common(key, residual): value for key, value in state.items()}
        biases = [k for k in state if re.search(r'\.conv[12]\.bias$', k)]
        weights = [k for k in state if re.search(r'\.conv[12]\.weight$', k)]
        if not biases:
            return state, []
        if len(biases) != len(weights):
            raise CheckpointError(
                f'{len(biases)} biases for {len(weights)} residual convolutions: '
                'an incomplete or altered backbone'
            )
        for key in biases:
            mean = re.sub(r'\.conv([12])\.bias$', r'.bn\1.running_mean', key)
            if mean in state:  # a missing one is reported with all other missing keys
                state[mean] = state[mean] - state[key]
            del state[key]
        return state, [f'folded {len(biases)} biases into running means']

    def encode(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename; the biases that OpenPCDet's residual blocks ask for are written as zeros."""
        residual = block_type_of(state) == 'basicblock'
        result = {}
        for key, value in state.items():
            name = from_common(key, residual)
            result[name] = value
            if re.search(r'\.conv[12]\.weight$', name):
                zeros = torch.zeros(value.shape[0], dtype=value.dtype)
                result[name.removesuffix('weight') + 'bias'] = zeros
        return result

    def pack(self, state: dict[str, Tensor], meta: dict[str, str]) -> dict[str, Any]:
        """OpenPCDet reads ``model_state`` and logs ``version``."""
        return {
            'model_state': collections.OrderedDict(state),
            'meta': meta,
            'version': f'mmjepa+{meta.get("mmjepa_version", "unknown")}',
        }
