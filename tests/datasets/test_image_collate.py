import pytest
import torch
from torch.utils.data import DataLoader

from mmjepa.datasets import jepa_collate


def sample(index, shape=(3, 4, 4), dtype=torch.uint8):
    image = torch.full(shape, index).to(dtype)
    inputs = {'image': image, 'points': torch.zeros(index + 1, 4)}
    return {'inputs': inputs, 'data_samples': {'index': index, 'path': f'{index}.jpg'}}


def test_named_inputs_are_stacked_and_the_others_listed():
    batch = jepa_collate([sample(0), sample(1)], stack=['image'])
    assert batch['inputs']['image'].shape == (2, 3, 4, 4)
    assert batch['inputs']['image'].dtype == torch.uint8
    assert batch['inputs']['image'][:, 0, 0, 0].tolist() == [0, 1]
    assert [len(points) for points in batch['inputs']['points']] == [1, 2]
    assert [meta['index'] for meta in batch['data_samples']] == [0, 1]


def test_nothing_is_stacked_unasked():
    assert isinstance(jepa_collate([sample(0), sample(1)])['inputs']['image'], list)


def test_shapes_that_differ_name_their_files():
    with pytest.raises(ValueError, match=r"'image' differs.*0\.jpg: \(3, 4, 4\).*2\.jpg: \(3, 5"):
        jepa_collate([sample(0), sample(1), sample(2, (3, 5, 4))], stack=['image'])
    with pytest.raises(ValueError, match=r'1\.jpg: .*float32'):
        jepa_collate([sample(0), sample(1, dtype=torch.float32)], stack=['image'])


def test_settings_that_cannot_be():
    with pytest.raises(KeyError, match=r"no inputs \['images'\] to stack, there are \['image'"):
        jepa_collate([sample(0)], stack=['images'])
    with pytest.raises(TypeError, match=r"\['image'\]"):
        jepa_collate([sample(0)], stack='image')


def test_a_worker_hands_over_one_shared_tensor():
    loader = DataLoader(
        [sample(i) for i in range(4)], batch_size=4, num_workers=1,
        collate_fn=lambda batch: jepa_collate(batch, stack=['image']),
        multiprocessing_context='fork',
    )  # fmt: skip
    (batch,) = loader
    assert batch['inputs']['image'].is_shared()
    assert batch['inputs']['image'][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
