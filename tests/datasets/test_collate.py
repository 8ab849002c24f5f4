import pytest
import torch

from mmjepa.datasets import jepa_collate
from mmjepa.registry import FUNCTIONS


def sample(points, index):
    return {'inputs': {'points': torch.zeros(points, 4)}, 'data_samples': {'index': index}}


def test_sweeps_are_listed_not_stacked():
    batch = FUNCTIONS.get('jepa_collate')([sample(3, 0), sample(5, 1)])
    assert [tuple(points.shape) for points in batch['inputs']['points']] == [(3, 4), (5, 4)]
    assert [meta['index'] for meta in batch['data_samples']] == [0, 1]


def test_unpacked_empty_and_mixed_batches_are_refused():
    with pytest.raises(KeyError, match='PackJEPAInputs'):
        jepa_collate([{'points': torch.zeros(3, 4)}])
    with pytest.raises(ValueError, match='empty batch'):
        jepa_collate([])
    other = {'inputs': {'image': torch.zeros(3)}, 'data_samples': {}}
    with pytest.raises(ValueError, match='different inputs'):
        jepa_collate([sample(3, 0), other])


def test_a_batch_that_the_data_set_made_whole_is_passed_on():
    batch = {
        'inputs': {'rows': torch.zeros(3, 4)},
        'data_samples': [{'index': i} for i in range(3)],
    }
    assert jepa_collate(batch) is batch
    assert jepa_collate(batch, stack=['rows']) is batch
    with pytest.raises(KeyError, match=r"\['image'\] among the inputs"):
        jepa_collate(batch, stack=['image'])
    with pytest.raises(KeyError, match='dict\\(inputs, data_samples\\)'):
        jepa_collate({'inputs': {'rows': torch.zeros(3, 4)}})
