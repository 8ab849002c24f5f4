"""Rows of a table -> device, with what masks are drawn from."""

from typing import Any

import torch
from torch import Tensor

from mmjepa.models.preprocessors.jepa import JEPAPreprocessor
from mmjepa.registry import MODELS


@MODELS.register_module()
class TabularPreprocessor(JEPAPreprocessor):
    """Moves rows and their seeds to the device; refuses values that would spoil a whole row.

    Args:
        non_blocking: overlap the copy with computation (needs pinned memory).
    """

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """``rows`` (B, D) float32 and, unless the samples tell them, ``seeds`` (B,) -> device.

        Returns:
            ``inputs``: ``rows`` and ``seeds`` (B,) int64 on the device, and ``batch_seed``, the
            first seed as a number, which decides over the sizes of the masks.

        Raises:
            KeyError: no ``rows`` among the inputs.
            ValueError: rows that aren't (B, D) float32, or hold NaN or infinity.
        """
        if 'rows' not in data['inputs']:
            raise KeyError(
                f"TabularPreprocessor: no 'rows' among the inputs {sorted(data['inputs'])}; they "
                'come from TabularDataset'
            )
        rows, samples = data['inputs']['rows'], data['data_samples']
        check_rows(rows)
        seeds = data['inputs'].get('seeds')
        if seeds is None:
            seeds = torch.tensor([s['sample_seed'] for s in samples], dtype=torch.int64)
        # read here, on the host: sizes of tensors that depend on the device would be waited for
        inputs = dict(self.cast_data(dict(rows=rows, seeds=seeds)), batch_seed=int(seeds[0]))
        return dict(inputs=inputs, data_samples=samples)


def check_rows(rows: Tensor) -> None:
    """Raise ValueError unless ``rows`` is (B, D) float32 and, on the host, finite."""
    if not isinstance(rows, Tensor) or rows.ndim != 2 or rows.dtype != torch.float32:
        kind = f'{tuple(rows.shape)} {rows.dtype}' if isinstance(rows, Tensor) else type(rows)
        raise ValueError(f'TabularPreprocessor: rows must be a (B, D) float32 tensor, got {kind}')
    # on a device the answer would have to be waited for; LossGuardHook stops the run there
    if rows.device.type == 'cpu' and not torch.isfinite(rows).all():
        row, column = (~torch.isfinite(rows)).nonzero()[0].tolist()
        raise ValueError(
            f'TabularPreprocessor: {rows[row, column]} in row {row} of the batch, feature {column} '
            'would spoil every token of the row; impute or drop it (TableTransform: missing)'
        )
