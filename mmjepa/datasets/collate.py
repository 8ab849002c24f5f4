"""Collation of packed samples."""

from collections.abc import Sequence
from typing import Any

from mmjepa.registry import FUNCTIONS


@FUNCTIONS.register_module()
def jepa_collate(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Lists the samples of a batch; sweeps differ in length, so nothing is stacked.

    Args:
        batch: outputs of ``PackJEPAInputs``.

    Returns:
        ``dict(inputs={key: [Tensor, ...]}, data_samples=[dict, ...])``.

    Raises:
        ValueError: an empty batch, or samples with different inputs.
        KeyError: a sample that wasn't packed.
    """
    if not batch:
        raise ValueError('jepa_collate: empty batch')
    for sample in batch:
        if 'inputs' not in sample or 'data_samples' not in sample:
            raise KeyError(
                f'jepa_collate: a sample has the keys {sorted(sample)}; the pipeline must end with '
                'PackJEPAInputs'
            )
    keys = batch[0]['inputs'].keys()
    if any(sample['inputs'].keys() != keys for sample in batch):
        found = sorted({tuple(sample['inputs']) for sample in batch})
        raise ValueError(f'jepa_collate: samples of one batch have different inputs: {found}')
    return {
        'inputs': {key: [sample['inputs'][key] for sample in batch] for key in keys},
        'data_samples': [sample['data_samples'] for sample in batch],
    }
