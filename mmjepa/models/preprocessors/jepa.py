"""Common preprocessor."""

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor

from mmjepa.registry import MODELS


@MODELS.register_module()
class JEPAPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and adds the samples' seeds, from which masks are drawn.

    Args:
        non_blocking: overlap the copy with computation (needs pinned memory).
    """

    def __init__(self, non_blocking: bool = True):
        super().__init__(non_blocking=non_blocking)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """``dict(inputs, data_samples)`` of the loader -> the same on the device, with seeds."""
        inputs = dict(self.cast_data(data['inputs']))
        samples = data['data_samples']
        seeds = torch.tensor([s['sample_seed'] for s in samples], dtype=torch.int64)
        inputs['seeds'] = seeds.to(self.device, non_blocking=self._non_blocking)
        return dict(inputs=inputs, data_samples=samples)
