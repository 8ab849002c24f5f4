"""A ViT's weights for other patches, sizes and norms."""

import json

import pytest
import torch
import torch.nn.functional as F
from vit_files import ARCH, make_vit, save_mmjepa

from mmjepa.adapters import adjust_vit, fit_vit, read_encoder
from mmjepa.adapters.resize import resize_patches
from mmjepa.engine.checkpoint import CheckpointError, load_verified
from mmjepa.models import JEPAViT


@pytest.fixture
def encoder(tmp_path):
    path = tmp_path / 'epoch_3.pth'
    save_mmjepa(path)
    return read_encoder(path, 'mmjepa', which='target')


@pytest.mark.parametrize('size', [8, 9, 16])
def test_larger_patches_of_enlarged_images_give_the_same_tokens(size):
    weight = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    patches = torch.randn(7, 3, 8, 8, dtype=torch.float64)
    larger = F.interpolate(patches, (size, size), mode='bilinear', antialias=True)
    got = torch.einsum('ncij,dcij->nd', larger, resize_patches(weight, size))
    wanted = torch.einsum('ncij,dcij->nd', patches, weight)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_smaller_patches_are_close_on_smooth_images():
    axis = torch.linspace(-1, 1, 16)
    weight = torch.randn(5, 3, 2, 2).repeat_interleave(8, 2).repeat_interleave(8, 3)
    patches = torch.stack([axis[:, None] + axis, axis[:, None] * axis, axis[None].expand(16, -1)])
    smaller = F.interpolate(patches[None], (14, 14), mode='bilinear', antialias=True)
    got = (smaller * resize_patches(weight, 14)).sum((1, 2, 3))
    wanted = (patches * weight).sum((1, 2, 3))
    torch.testing.assert_close(got, wanted, rtol=0.1, atol=1.0)
    assert wanted.abs().max() > 10


def test_fits_patches_positions_and_the_norm(encoder):
    module = JEPAViT(ARCH, (48, 96), 12, final_norm=False)
    state, notes = fit_vit(encoder, module)
    report = load_verified(module, state, what='backbone', logger='silent')
    assert report.loaded == report.total == len(module.state_dict())
    text = '; '.join(notes)
    assert 'kernels resampled from 8 to 12' in text
    assert 'positions interpolated from 4 x 4 to 4 x 8' in text
    assert 'the final norm is left out' in text
    image = torch.randn(1, 3, 32, 32)
    larger = F.interpolate(image.unflatten(2, (4, 8)).unflatten(4, (4, 8)).permute(0, 2, 4, 1, 3, 5)
                           .flatten(0, 2), (12, 12), mode='bilinear')  # fmt: skip
    larger = larger.view(4, 4, 3, 12, 12).permute(2, 0, 3, 1, 4).reshape(1, 3, 48, 48)
    before, after = make_vit(1).eval(), module.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            after.patch_embed(larger), before.patch_embed(image), rtol=0, atol=1e-4
        )


def test_the_same_size_is_bit_equal(encoder):
    module = make_vit(5)
    state, _ = fit_vit(encoder, module)
    module.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(module.eval()(images), make_vit(1).eval()(images))


def test_relative_positions_start_as_they_are(encoder):
    module = make_vit(5)
    module.blocks[0].attn.rel_pos_h = torch.nn.Parameter(torch.full((3, 4), 7.0))
    state, notes = fit_vit(encoder, module)
    assert torch.equal(state['blocks.0.attn.rel_pos_h'], torch.full((3, 4), 7.0))
    assert '1 tables of relative positions start as they are' in notes


def test_what_does_not_fit(encoder, mmjepa_file):
    with pytest.raises(CheckpointError, match='with .*3 heads, .*the model has .*2 heads, '):
        fit_vit(encoder, JEPAViT((192, 2, 2, 384), 32, 8))
    with pytest.raises(CheckpointError, match='it holds a sparse voxel encoder'):
        fit_vit(read_encoder(mmjepa_file, 'mmjepa'), make_vit())
    with pytest.raises(ValueError, match='--patch-size 0'):
        adjust_vit(encoder, patch_size=0)
    with pytest.raises(CheckpointError, match=r'192 channels, 5 blocks.*set arch=.192,2,3,384\]'):
        fit_vit(encoder, JEPAViT((192, 5, 3, 384), 32, 8))


def test_exported_with_other_patches(encoder):
    config = json.loads(adjust_vit(encoder, 36, patch_size=6).meta['vit'])
    assert (config['patch_size'], config['img_size']) == (6, [36, 36])
