import pytest
import torch

from mmjepa.models.preprocessors import ImagePreprocessor, JEPAPreprocessor
from mmjepa.registry import MODELS

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def batch(images, **inputs):
    return {
        'inputs': {'image': images, **inputs},
        'data_samples': [{'sample_seed': 2**61 + i} for i in range(len(images))],
    }


def pixels(count=2, size=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def test_normalises_bytes_by_channel():
    images = pixels()
    before = images.clone()
    out = MODELS.build({'type': 'ImagePreprocessor'})(batch(images))
    expected = torch.stack([(images[:, c].double() - MEAN[c]) / STD[c] for c in range(3)], 1)
    assert out['inputs']['images'].dtype == torch.float32
    assert torch.allclose(out['inputs']['images'].double(), expected, atol=1e-6)
    assert torch.equal(images, before)
    assert set(out['inputs']) == {'images', 'seeds'}


def test_as_torchvisions_to_tensor_and_normalize():
    images = pixels()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = (images.float() / 255 - mean) / std
    assert torch.allclose(
        ImagePreprocessor()(batch(images))['inputs']['images'], expected, atol=1e-5
    )


def test_a_list_is_as_good_as_a_tensor():
    images = pixels()
    a = ImagePreprocessor()(batch(images))['inputs']['images']
    b = ImagePreprocessor()(batch(list(images)))['inputs']['images']
    assert torch.equal(a, b)


def test_seeds_and_samples_go_through():
    data = batch(pixels(3), extra=torch.ones(3))
    out = ImagePreprocessor()(data, training=True)
    assert out['inputs']['seeds'].tolist() == [2**61, 2**61 + 1, 2**61 + 2]
    assert out['inputs']['seeds'].dtype == torch.int64
    assert torch.equal(out['inputs']['extra'], torch.ones(3))
    assert out['data_samples'] is data['data_samples']
    assert set(data['inputs']) == {'image', 'extra'}  # the batch is left as it was
    assert isinstance(ImagePreprocessor(), JEPAPreprocessor)


def test_seeds_stay_on_the_cpu_and_bytes_are_what_is_copied():
    """The meta device stands for any other one."""
    preprocessor = ImagePreprocessor().to('meta')
    moved = []
    cast = preprocessor.cast_data
    preprocessor.cast_data = lambda data: moved.append(data) or cast(data)
    inputs = preprocessor(batch(pixels()))['inputs']
    assert inputs['images'].device.type == 'meta'
    assert inputs['images'].dtype == torch.float32
    assert inputs['seeds'].device.type == 'cpu'
    assert [data.dtype for data in moved if isinstance(data, torch.Tensor)] == [torch.uint8]


@pytest.mark.cuda
def test_cuda_gives_the_same_and_keeps_the_seeds_on_the_host():
    images = pixels(4, 32)
    expected = ImagePreprocessor()(batch(images))['inputs']['images']
    out = ImagePreprocessor().cuda()(batch(images.pin_memory()))['inputs']
    assert out['images'].is_cuda and not out['seeds'].is_cuda
    assert torch.allclose(out['images'].cpu(), expected, atol=1e-6)


def test_buffers_are_no_part_of_checkpoints():
    assert not ImagePreprocessor().state_dict()


@pytest.mark.parametrize(
    ('data', 'said'),
    [(batch(pixels().float()), 'must be .B, 3, H, W. uint8'),
     (batch(pixels()[:, :1]), 'uint8, got'),
     (batch([pixels()[0], pixels(1, 9)[0]]), 'images of one shape')],
)  # fmt: skip
def test_other_inputs_are_refused(data, said):
    with pytest.raises(ValueError, match=said):
        ImagePreprocessor()(data)


def test_missing_image_and_impossible_constants():
    with pytest.raises(KeyError, match=r"PackJEPAInputs\(keys=\['image'\]\)"):
        ImagePreprocessor()({'inputs': {'points': []}, 'data_samples': []})
    with pytest.raises(ValueError, match='three numbers'):
        ImagePreprocessor(mean=(0.5,))
    with pytest.raises(ValueError, match='std above 0'):
        ImagePreprocessor(std=(1, 0, 1))
