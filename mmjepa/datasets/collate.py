"""Collation of packed samples."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate

from mmjepa.registry import FUNCTIONS


@FUNCTIONS.register_module()
def jepa_collate(
    batch: Sequence[dict[str, Any]] | dict[str, Any], stack: Sequence[str] = ()
) -> dict[str, Any]:
    """Lists the samples of a batch; what has one shape in all of them can be stacked.

    Sweeps differ in length and are listed. Images don't: stacked in the worker, in shared memory,
    a batch is one tensor to pin and to copy.

    Args:
        batch: outputs of ``PackJEPAInputs``; or a whole batch that the data set made in one go
            (``__getitems__``), which is passed on.
        stack: keys of inputs that become one tensor (B, ...).

    Returns:
        ``dict(inputs={key: [Tensor, ...]}, data_samples=[dict, ...])``; a Tensor for keys in
        ``stack``.

    Raises:
        ValueError: an empty batch, samples with different inputs, or with different shapes of an
            input that is to be stacked; names their files.
        KeyError: a sample that wasn't packed, or no such input to stack.
    """
    if isinstance(stack, str):
        raise TypeError(f"jepa_collate: stack is a sequence of keys, e.g. ['{stack}']")
    if isinstance(batch, dict):
        return _whole(batch, stack)
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
    missing = sorted(set(stack) - set(keys))
    if missing:
        raise KeyError(f'jepa_collate: no inputs {missing} to stack, there are {sorted(keys)}')
    samples = [sample['data_samples'] for sample in batch]
    inputs: dict[str, Any] = {key: [sample['inputs'][key] for sample in batch] for key in keys}
    for key in stack:
        inputs[key] = _stack(key, inputs[key], samples)
    return {'inputs': inputs, 'data_samples': samples}


def _whole(batch: dict[str, Any], stack: Sequence[str]) -> dict[str, Any]:
    inputs = batch.get('inputs', {})
    if batch.keys() != {'inputs', 'data_samples'} or set(stack) - set(inputs):
        raise KeyError(
            f'jepa_collate: a whole batch is dict(inputs, data_samples) with {list(stack)} among '
            f'the inputs; this one has {sorted(batch)}, with inputs {sorted(inputs)}'
        )
    return batch


def _stack(key: str, tensors: list[Tensor], samples: Sequence[dict[str, Any]]) -> Tensor:
    kinds: dict[tuple[Any, ...], Any] = {}  # each shape and type, and the first file that has it
    for tensor, sample in zip(tensors, samples, strict=True):
        kinds.setdefault((tuple(tensor.shape), tensor.dtype), sample.get('path'))
    if len(kinds) > 1:
        found = '; '.join(f'{path}: {shape}, {dtype}' for (shape, dtype), path in kinds.items())
        raise ValueError(
            f'jepa_collate: {key!r} differs within a batch and cannot be stacked ({found}); crop '
            'or resize it to one shape, or leave it out of stack'
        )
    return default_collate(tensors)  # in a worker: written to shared memory at once
