"""Tokens of images from files and from memory."""

import cv2
import numpy as np
import pytest
import torch
from toy_images import colour_scene

from mmjepa.apis import extract_tokens, image_inputs, init_model

SMALL = {'arch': [32, 2, 2, 64], 'predictor_depth': 1, 'predictor_width': 16}


@pytest.fixture
def model(repo):
    torch.manual_seed(0)
    return init_model(repo / 'configs/ijepa/vit_tiny4_cifar10.py', cfg_options=SMALL)


@pytest.mark.parametrize('shape', [(32, 32), (48, 80), (90, 41)])
def test_a_file_and_its_pixels_give_the_same(model, tmp_path, shape):
    image = cv2.resize(colour_scene(3)[0], shape[::-1])
    cv2.imwrite(str(tmp_path / 'a.png'), image[:, :, ::-1])
    tokens = extract_tokens(model, tmp_path / 'a.png')
    assert tokens.shape == (8, 8, 32) and not tokens.requires_grad
    assert torch.equal(extract_tokens(model, image), tokens)
    red_last = extract_tokens(model, np.ascontiguousarray(image[:, :, ::-1]))
    assert not torch.allclose(red_last, tokens)


def test_tokens_are_those_of_extract_feat(model):
    image = colour_scene(3, 32)[0]
    model.train()
    tokens = extract_tokens(model, image)
    assert model.training
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    preprocessor = model.data_preprocessor
    wanted = model.eval().encoder((pixels - preprocessor.mean) / preprocessor.std)
    torch.testing.assert_close(tokens.flatten(0, 1), wanted[0], rtol=0, atol=1e-5)


def test_bad_input(model, repo, tmp_path):
    with pytest.raises(ValueError, match=r'\(H, W, 3\) uint8, red first; got \(8, 8\) uint8'):
        extract_tokens(model, np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match='float32'):
        extract_tokens(model, np.zeros((8, 8, 3), np.float32))
    (tmp_path / 'a.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'a\.png'):
        extract_tokens(model, tmp_path / 'a.png')
    sweeps = init_model(repo / 'configs/adl_jepa/kitti.py')
    with pytest.raises(TypeError, match='extract_bev'):
        image_inputs(sweeps, np.zeros((8, 8, 3), np.uint8))
