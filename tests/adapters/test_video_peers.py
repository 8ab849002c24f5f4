"""transformers' ``VJEPA2Model`` as a peer, on random weights."""

import json

import pytest
import torch
from clip_files import ARCH, clips, make_predictor, make_vit, mmjepa_content, official_content
from vit_files import assert_same, randomise

from mmjepa.adapters import read_encoder, write_encoder
from mmjepa.engine.checkpoint import CheckpointError, load_verified
from mmjepa.models.encoders import JEPAViT
from mmjepa.models.predictors import ViTPredictor

TOLERANCE = dict(rtol=0, atol=1e-4)
FORM = 'rotary_vjepa2'


@pytest.fixture(scope='module')
def peer():
    """transformers' module."""
    return pytest.importorskip('transformers', exc_type=ImportError)


def peer_config(peer, **options):
    width, depth, heads, mlp = ARCH
    sizes = dict(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        mlp_ratio=mlp / width,
        crop_size=32,
        patch_size=8,
        frames_per_clip=4,
        pred_hidden_size=24,
        pred_num_hidden_layers=2,
        pred_num_attention_heads=2,
        pred_num_mask_tokens=3,
    )
    return peer.VJEPA2Config(**{**sizes, **options})


def theirs(model, video):
    """Their clips have frames before channels."""
    with torch.no_grad():
        return model(video.transpose(1, 2), skip_predictor=True).last_hidden_state


def ours(model, video):
    with torch.no_grad():
        return model(video)


def test_ours_in_transformers(peer, tmp_path):
    torch.save(mmjepa_content(FORM), tmp_path / 'ours.pth')
    encoder = read_encoder(tmp_path / 'ours.pth', 'mmjepa')
    write_encoder(encoder, tmp_path / 'hf', 'hf_vjepa2')
    model, report = peer.VJEPA2Model.from_pretrained(tmp_path / 'hf', output_loading_info=True)
    assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    assert model.config.pred_num_attention_heads == 2  # as the training config says
    vit = make_vit(0, positions=FORM)
    found = theirs(model.eval(), clips())
    assert found.abs().max() > 0.5
    torch.testing.assert_close(found, ours(vit, clips()), **TOLERANCE)
    # the rotation proper gives something else
    assert (found - ours(make_vit(0, positions='rotary'), clips())).abs().max() > 1e-2


@pytest.mark.parametrize('kind', ['folder', 'state dict', 'classifier'])
def test_theirs_in_ours(peer, tmp_path, kind):
    model = randomise(peer.VJEPA2Model(peer_config(peer)), 4)
    path = tmp_path / 'theirs'
    if kind == 'folder':
        model.save_pretrained(path)
    elif kind == 'state dict':
        path = tmp_path / 'theirs.pth'
        torch.save(model.state_dict(), path)
    else:
        classifier = peer.VJEPA2ForVideoClassification(peer_config(peer, num_labels=5))
        classifier.vjepa2.load_state_dict(model.state_dict())
        classifier.save_pretrained(path)
    encoder = read_encoder(path, 'auto')
    assert encoder.notes[0] == 'found format hf_vjepa2'
    config = json.loads(encoder.meta['vit'])
    if kind == 'state dict':  # which tells neither heads nor clips
        assert 'took clips of 64 frames of 256 x 256' in encoder.notes[-1]
        config |= dict(arch=ARCH, img_size=32, num_frames=4)
    vit = JEPAViT(**config).eval()
    load_verified(vit, dict(state_dict=encoder.state), what='encoder', logger='silent')
    for frames in (4, 8):
        video = clips(2, 3, frames, 32, 32)
        torch.testing.assert_close(ours(vit, video), theirs(model, video), **TOLERANCE)
    predictor = ViTPredictor(
        vit.grid, 96, channels=24, depth=2, num_heads=2, mask_tokens=3, positions=FORM
    )
    predictor.load_state_dict(encoder.companions['predictor'])


def test_predictors_agree_when_fed_alike(peer):
    """The encoding of the whole clip at the context's places, and mask token 1."""
    model = randomise(peer.VJEPA2Model(peer_config(peer)), 4)
    from mmjepa.adapters import VIDEO_FORMATS

    state = {
        k.removeprefix('predictor.'): v
        for k, v in model.state_dict().items()
        if k.startswith('predictor.')
    }
    predictor = make_predictor(positions=FORM)
    predictor.load_state_dict(VIDEO_FORMATS['hf_vjepa2'].decode_predictor(state))
    assert_same(VIDEO_FORMATS['hf_vjepa2'].encode_predictor(predictor.state_dict()), state)
    context = torch.tensor([[0, 3, 4, 17, 30], [1, 2, 9, 20, 31]])
    target = torch.tensor([[1, 2, 9, 20], [0, 3, 4, 30]])
    with torch.no_grad():
        out = model(clips().transpose(1, 2), context_mask=[context], target_mask=[target])
        tokens = out.last_hidden_state.gather(1, context[..., None].expand(-1, -1, 96))
        found = predictor(tokens, context, target, mask_index=1)
    assert found.std() > 0.1
    torch.testing.assert_close(found, out.predictor_output.last_hidden_state, **TOLERANCE)


def test_official_file_to_transformers_and_back(peer, tmp_path):
    content = official_content(FORM, tables=True)
    torch.save(content, tmp_path / 'vitl.pt')
    encoder = read_encoder(tmp_path / 'vitl.pt', 'vjepa2')
    config = dict(arch=list(ARCH), img_size=[32, 32], num_frames=4)
    encoder.meta['vit'] = json.dumps({**json.loads(encoder.meta['vit']), **config})
    write_encoder(encoder, tmp_path / 'hf', 'hf_vjepa2')
    model = peer.VJEPA2Model.from_pretrained(tmp_path / 'hf').eval()
    vit = make_vit(1, positions=FORM)
    torch.testing.assert_close(theirs(model, clips()), ours(vit, clips()), **TOLERANCE)
    model.save_pretrained(tmp_path / 'again')
    back = read_encoder(tmp_path / 'again', 'auto')
    assert_same(back.state, vit.state_dict())
    write_encoder(back, tmp_path / 'back.pt', 'vjepa2')
    written = torch.load(tmp_path / 'back.pt', weights_only=True)
    unused = 'module.backbone.predictor_pos_embed'
    wanted = {k: v for k, v in content['predictor'].items() if k != unused}
    assert_same(written['predictor'], wanted)


def test_what_transformers_would_compute_otherwise_is_refused(peer, tmp_path):
    torch.save(mmjepa_content(FORM), tmp_path / 'ours.pth')
    encoder = read_encoder(tmp_path / 'ours.pth', 'mmjepa')
    config = {**json.loads(encoder.meta['vit']), 'img_size': [32, 48]}
    wide = {**encoder.meta, 'vit': json.dumps(config)}
    plain, encoder.meta = encoder.meta, wide
    with pytest.raises(ValueError, match='for square frames, not 32 x 48'):
        write_encoder(encoder, tmp_path / 'out.pth', 'hf_vjepa2')
    encoder.meta = plain
    encoder.companions['predictor'] = make_predictor(out_channels=40, positions=FORM).state_dict()
    with pytest.raises(CheckpointError, match=r'proj.weight is \(40, 24\), expected \(96, 24\)'):
        write_encoder(encoder, tmp_path / 'out.pth', 'hf_vjepa2')
    peer.VJEPA2Model(peer_config(peer, hidden_act='relu')).save_pretrained(tmp_path / 'relu')
    with pytest.raises(CheckpointError, match="hidden_act 'relu'; only 'gelu'"):
        read_encoder(tmp_path / 'relu', 'hf_vjepa2')


@pytest.mark.parametrize(('width', 'hidden'), [(1408, 6144), (1664, 8192), (96, 192), (88, 331)])
def test_ratio_gives_the_width_back(width, hidden):
    """transformers takes int(width * ratio)."""
    from mmjepa.adapters.huggingface_video import _ratio

    assert int(width * _ratio(hidden, width)) == hidden
