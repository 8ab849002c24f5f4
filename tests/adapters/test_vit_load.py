"""``LoadEncoderHook`` on ViTs: every kind of file, other sizes, and what is refused."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from vit_files import ARCH, assert_same, make_vit, save_mmjepa, save_official

from mmjepa.adapters import VIT_FORMATS, read_encoder, write_encoder
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.hooks import LoadEncoderHook
from mmjepa.models import JEPAViT


def through_the_hook(backbone, path, **options):
    model = nn.Module()
    model.backbone = backbone
    runner = dict(bare_model=model, distributed=False, iter=0, cfg={})
    LoadEncoderHook(str(path), **options).before_train(
        SimpleNamespace(**runner, logger=logging.getLogger('vit'))
    )
    return backbone.state_dict()


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'epoch_3.pth'
    save_mmjepa(path)
    return path


def test_the_target_is_the_default(checkpoint, caplog):
    with caplog.at_level('INFO'):
        assert_same(through_the_hook(make_vit(7), checkpoint), make_vit(1).state_dict())
    assert 'loaded 29/29 tensors into backbone' in caplog.text
    online = through_the_hook(make_vit(7), checkpoint, which='online')
    assert_same(online, make_vit(0).state_dict())


@pytest.mark.parametrize('fmt', [*VIT_FORMATS, 'official', 'ddp'])
def test_every_kind_of_file(checkpoint, tmp_path, fmt):
    path = tmp_path / ('given' if fmt == 'hf' else 'given.pth')
    if fmt == 'official':
        save_official(path)
        wanted = through_the_hook(make_vit(7), path)
        assert_same(wanted, read_encoder(path, 'ijepa').state)
        return
    if fmt == 'ddp':
        content = torch.load(checkpoint, weights_only=True)
        content['state_dict'] = {f'module.{k}': v for k, v in content['state_dict'].items()}
        torch.save(content, path)
    else:
        path = path.with_suffix('.safetensors') if fmt == 'safetensors' else path
        write_encoder(read_encoder(checkpoint, 'mmjepa', which='target'), path, fmt)
    backbone = make_vit(7, final_norm=fmt != 'vitdet')
    wanted = make_vit(1).state_dict()
    assert_same(through_the_hook(backbone, path), {k: wanted[k] for k in backbone.state_dict()})


def test_another_size(checkpoint, caplog):
    with caplog.at_level('INFO'):
        state = through_the_hook(JEPAViT(ARCH, (48, 96), 12, final_norm=False), checkpoint)
    assert state['pos_embed'].shape == (1, 32, 192)
    assert 'positions interpolated from 4 x 4 to 4 x 8' in caplog.text


@pytest.mark.parametrize(
    ('backbone', 'words'),
    [
        (
            lambda: JEPAViT((96, 2, 3, 384), 32, 8),
            'has 96 channels, .*arch=.192,2,3,384. .*channels=192',
        ),
        (lambda: JEPAViT((192, 2, 6, 384), 32, 8), 'with .*3 heads, .*the model has .*6 heads'),
        (lambda: JEPAViT((192, 3, 3, 384), 32, 8), '2 blocks, .*3 blocks'),
        (
            lambda: JEPAViT(ARCH, 32, 8, in_channels=1),
            'mismatched.* same in_channels and positions$',
        ),
    ],
)
def test_what_does_not_fit_changes_nothing(checkpoint, backbone, words):
    backbone = backbone()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        through_the_hook(backbone, checkpoint)
    assert_same(backbone.state_dict(), before)


def test_other_methods_and_models(mmjepa_file, checkpoint):
    with pytest.raises(CheckpointError, match='holds a sparse voxel encoder'):
        through_the_hook(make_vit(7), mmjepa_file)
    with pytest.raises(ValueError, match='no ViT as backbone; there are: backbone'):
        through_the_hook(nn.Linear(2, 2), checkpoint)
