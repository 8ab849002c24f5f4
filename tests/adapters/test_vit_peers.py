"""The same features from other people's networks, on random weights."""

import json

import pytest
import torch
from vit_files import ARCH, ENCODER, assert_same, make_vit, save_mmjepa

from mmjepa.adapters import adjust_vit, read_encoder, write_encoder
from mmjepa.engine.checkpoint import CheckpointError, load_verified
from mmjepa.models.encoders import JEPAViT

TOLERANCE = dict(rtol=0, atol=1e-5)
SIZES = [(32, 32), (48, 48), (24, 40)]  # native, and two whose positions are interpolated


@pytest.fixture
def online(tmp_path):
    save_mmjepa(tmp_path / 'epoch_3.pth')
    return read_encoder(tmp_path / 'epoch_3.pth', 'mmjepa')


def _images(size=(32, 32)):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


def _features(size=(32, 32), seed=0):
    with torch.no_grad():
        features = make_vit(seed)(_images(size))
    assert features.abs().max() > 0.5
    return features


@pytest.fixture
def peer():
    """transformers' classes."""
    pytest.importorskip('transformers', exc_type=ImportError)
    from transformers import IJepaConfig, IJepaModel

    return IJepaConfig, IJepaModel


def _peer_config(peer, **options):
    width, depth, heads, mlp = ARCH
    return peer[0](
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=mlp,
        **{**dict(image_size=32, patch_size=8, layer_norm_eps=1e-6), **options},
    )


def _peer_model(peer, **options):
    """Random weights, biases included."""
    model = peer[1](_peer_config(peer, **options)).eval()
    rng = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        scale = 0.3 if 'bias' in name or 'norm' in name or 'position' in name else 0.08
        noise = scale * torch.randn(parameter.shape, generator=rng)
        parameter.data = noise + ('norm' in name and 'weight' in name)
    return model


@pytest.mark.parametrize('size', SIZES)
def test_ours_in_transformers(online, peer, tmp_path, size):
    write_encoder(online, tmp_path / 'hf', 'hf')
    model, report = peer[1].from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert model.config.layer_norm_eps == 1e-6
    with torch.no_grad():
        theirs = model.eval()(_images(size), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(theirs, _features(size), **TOLERANCE)


def test_ours_in_transformers_at_another_native_size(online, peer, tmp_path):
    """The table resized at export is the one that our encoder interpolates as it runs."""
    write_encoder(adjust_vit(online, (24, 40)), tmp_path / 'hf', 'hf')
    model = peer[1].from_pretrained(tmp_path / 'hf').eval()
    assert list(model.config.image_size) == [24, 40]
    with torch.no_grad():
        theirs = model(_images((24, 40))).last_hidden_state
    torch.testing.assert_close(theirs, _features((24, 40)), **TOLERANCE)


def test_ours_as_a_state_dict(online, peer, tmp_path):
    write_encoder(online, tmp_path / 'hf.pth', 'hf')
    state = torch.load(tmp_path / 'hf.pth', weights_only=True)['state_dict']
    model = peer[1].from_pretrained(None, config=_peer_config(peer), state_dict=state).eval()
    with torch.no_grad():
        theirs = model(_images()).last_hidden_state
    torch.testing.assert_close(theirs, _features(), **TOLERANCE)


@pytest.mark.parametrize('kind', ['folder', 'shards', 'state dict', 'classifier'])
def test_theirs_in_ours(peer, tmp_path, kind):
    model = _peer_model(peer)
    path = tmp_path / 'theirs'
    if kind == 'folder':
        model.save_pretrained(path)
    elif kind == 'shards':
        model.save_pretrained(path, max_shard_size='1MB')
        assert len(list(path.glob('*.safetensors'))) > 1
    elif kind == 'state dict':  # in memory the names differ from those in files
        path = tmp_path / 'theirs.pth'
        torch.save(model.state_dict(), path)
        assert 'layers.0.attention.q_proj.weight' in model.state_dict()
    else:
        from transformers import IJepaForImageClassification

        classifier = IJepaForImageClassification(_peer_config(peer, num_labels=5))
        classifier.ijepa.load_state_dict(model.state_dict())
        classifier.save_pretrained(path)
    encoder = read_encoder(path, 'auto')
    assert encoder.notes[0] == 'found format hf'
    config = json.loads(encoder.meta['vit'])
    assert config['arch'] == list(ARCH)
    ours = JEPAViT(**config).eval()
    load_verified(ours, dict(state_dict=encoder.state), what='encoder')
    for size in SIZES:
        with torch.no_grad():
            theirs = model(_images(size), interpolate_pos_encoding=True).last_hidden_state
            torch.testing.assert_close(ours(_images(size)), theirs, **TOLERANCE)


def test_there_and_back_is_bit_equal(peer, tmp_path):
    _peer_model(peer).save_pretrained(tmp_path / 'a')
    write_encoder(read_encoder(tmp_path / 'a', 'hf'), tmp_path / 'b', 'hf')
    first, second = (peer[1].from_pretrained(tmp_path / name) for name in 'ab')
    assert_same(second.state_dict(), first.state_dict())
    assert {k: v for k, v in first.config.to_dict().items() if k != '_name_or_path'} == {
        k: v for k, v in second.config.to_dict().items() if k != '_name_or_path'
    }


def test_their_eps_and_other_nets(peer, tmp_path):
    path = tmp_path / 'a'
    _peer_model(peer, layer_norm_eps=1e-12).save_pretrained(path)
    assert any('1e-12, ours 1e-06' in note for note in read_encoder(path, 'hf').notes)
    config = json.loads((path / 'config.json').read_text())
    for key, value in (('model_type', 'vit'), ('hidden_act', 'relu'), ('num_hidden_layers', 3)):
        (path / 'config.json').write_text(json.dumps({**config, key: value}))
        with pytest.raises(CheckpointError, match=key if 'layers' not in key else 'blocks 2 by'):
            read_encoder(path, 'hf')
    (path / 'config.json').unlink()
    with pytest.raises(FileNotFoundError, match='without config.json'):
        read_encoder(path, 'hf')


@pytest.fixture
def mmseg_vit():
    """mmseg's class; importing it replaces nothing of ours."""
    pytest.importorskip('mmseg.models', exc_type=ImportError)
    from mmseg.models.backbones import VisionTransformer

    width, depth, heads, mlp = ARCH

    def build(img_size, checkpoint, **options):
        model = VisionTransformer(
            img_size=img_size,
            patch_size=8,
            embed_dims=width,
            num_layers=depth,
            num_heads=heads,
            mlp_ratio=mlp // width,
            patch_bias=True,
            with_cls_token=False,
            final_norm=True,
            norm_cfg=dict(type='LN', eps=1e-6),
            init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)),
            **options,
        )
        model.init_weights()
        model.eval()  # which gives None
        return model

    return build


def _tokens(maps):
    return maps[-1].flatten(2).transpose(1, 2)


@pytest.mark.parametrize('size', SIZES)
def test_ours_in_mmseg(online, mmseg_vit, tmp_path, size):
    out = tmp_path / 'mmseg.pth'
    write_encoder(online, out, 'mmseg')
    model = mmseg_vit((32, 32), out)
    state = torch.load(out, weights_only=True)['state_dict']
    assert_same(model.state_dict(), state)  # every key and shape, and nothing left as it was
    with torch.no_grad():
        torch.testing.assert_close(_tokens(model(_images(size))), _features(size), **TOLERANCE)


def test_ours_in_mmseg_at_its_crop_size(online, mmseg_vit, tmp_path):
    """Resized by us at export, or by mmseg as it loads: the same."""
    write_encoder(online, tmp_path / 'native.pth', 'mmseg')
    write_encoder(adjust_vit(online, 48), tmp_path / 'resized.pth', 'mmseg')
    for name in ('native', 'resized'):
        model = mmseg_vit((48, 48), tmp_path / f'{name}.pth')
        with torch.no_grad():
            features = _tokens(model(_images((48, 48))))
        torch.testing.assert_close(features, _features((48, 48)), **TOLERANCE)


def test_a_trained_mmseg_backbone_in_ours(online, mmseg_vit, tmp_path):
    write_encoder(online, tmp_path / 'a.pth', 'mmseg')
    model = mmseg_vit((32, 32), tmp_path / 'a.pth')
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(_images())[-1].square().mean().backward()
        optimizer.step()
    segmentor = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    segmentor['decode_head.conv_seg.weight'] = torch.zeros(3)
    torch.save(dict(state_dict=segmentor), tmp_path / 'iter_2.pth')
    encoder = read_encoder(tmp_path / 'iter_2.pth', 'auto')
    assert 'found format mmseg' in encoder.notes
    ours = make_vit(7)
    load_verified(ours, encoder.state, what='encoder')
    assert not torch.equal(ours.norm.bias, make_vit(0).norm.bias)
    with torch.no_grad():
        features = _tokens(model(_images()))
        torch.testing.assert_close(ours(_images()), features, **TOLERANCE)


def test_ours_in_timm(online, tmp_path):
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # of a torchvision for another torch
        pytest.skip(f'timm does not import: {error}')
    write_encoder(online, tmp_path / 'timm.pth', 'timm')
    width, depth, heads, mlp = ARCH
    model = timm.models.VisionTransformer(
        img_size=ENCODER['img_size'],
        patch_size=ENCODER['patch_size'],
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp / width,
        class_token=False,
        global_pool='avg',
        fc_norm=False,
        num_classes=0,
    )
    timm.models.load_checkpoint(model, str(tmp_path / 'timm.pth'), strict=True)
    with torch.no_grad():
        features = model.eval().forward_features(_images())
    torch.testing.assert_close(features, _features(), **TOLERANCE)
