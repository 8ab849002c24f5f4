"""Official checkpoints of V-JEPA and V-JEPA 2, both ways, on files made here."""

import json

import pytest
import torch
from clip_files import (
    ARCH,
    ENCODER,
    clips,
    make_predictor,
    make_vit,
    mmjepa_content,
    official_content,
)
from mmengine.config import Config
from vit_files import assert_same

from mmjepa.adapters import VIT_FORMATS, adjust_vit, fit_vit, read_encoder, write_encoder
from mmjepa.adapters.vjepa import released_facts
from mmjepa.engine.checkpoint import CheckpointError, load_verified
from mmjepa.models.encoders import JEPAViT

FORMS = {'vjepa': 'sincos', 'vjepa2': 'rotary_vjepa2'}
HEADS = dict(heads=3)  # of no named ViT


@pytest.fixture
def save(tmp_path):
    def save(content, name='official.pth.tar'):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


def built(encoder):
    model = JEPAViT(**json.loads(encoder.meta['vit'])).eval()
    load_verified(model, dict(state_dict=encoder.state), what='encoder', logger='silent')
    return model


@pytest.mark.parametrize('which', [None, 'online', 'target'])
@pytest.mark.parametrize('fmt', FORMS)
def test_official_to_ours(save, fmt, which):
    """The target unless the online encoder is asked for; the predictor is beside it."""
    path = save(official_content(FORMS[fmt]))
    encoder = read_encoder(path, fmt, which=which)
    wanted = make_vit(int(which != 'online'), positions=FORMS[fmt])
    assert_same(encoder.state, wanted.state_dict())
    predictor = make_predictor(positions=FORMS[fmt]).state_dict()
    assert_same(encoder.companions['predictor'], predictor)
    assert predictor['mask_token'].shape == (3, 1, 24)  # all tokens, not only the first
    config = json.loads(encoder.meta['vit'])
    assert config['positions'] == FORMS[fmt] and config['tubelet_size'] == 2
    encoder = adjust_vit(encoder, 32, num_frames=4, **HEADS)
    with torch.no_grad():
        assert torch.equal(built(encoder)(clips()), wanted(clips()))


def test_table_tells_the_size_of_clips(save):
    config = json.loads(read_encoder(save(official_content()), 'vjepa').meta['vit'])
    assert (config['num_frames'], config['img_size']) == (4, [32, 32])
    wide = official_content()
    for part in ('encoder', 'target_encoder'):
        table = make_vit(img_size=48, num_frames=6, uniform_power=False).pos_embed
        wide[part]['module.backbone.pos_embed'] = table
    config = json.loads(read_encoder(save(wide), 'vjepa').meta['vit'])
    assert (config['num_frames'], config['img_size']) == (6, [48, 48])
    wide['target_encoder']['module.backbone.pos_embed'] = torch.rand(1, 108, 96)
    with pytest.raises(CheckpointError, match='108 positions, no sine-cosine table of clips'):
        read_encoder(save(wide), 'vjepa')


def test_unused_tables_of_vjepa2_are_dropped_by_name(save):
    content = official_content('rotary_vjepa2', tables=True)
    encoder = read_encoder(save(content), 'vjepa2')
    assert_same(encoder.state, make_vit(1, positions='rotary_vjepa2').state_dict())
    assert 'pos_embed' not in encoder.companions['predictor']
    assert 'pos_embed' not in encoder.companions['online']
    dropped = 'encoder.pos_embed, predictor.predictor_pos_embed, target_encoder.pos_embed'
    assert f'left out {dropped}: its blocks use rotary positions' in encoder.notes
    content['target_encoder']['module.backbone.pos_embed_2'] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r'1 unexpected .*pos_embed_2'):
        read_encoder(save(content), 'vjepa2')


def test_heads_and_clips_of_vjepa2_are_said_to_be_taken_for_granted(save):
    encoder = read_encoder(save(official_content('rotary_vjepa2')), 'vjepa2')
    assert 'clips of 64 frames of 256 x 256' in encoder.notes[-1]
    for width, heads in ((1024, 16), (1408, 22)):
        kernel = torch.empty(width, 3, 2, 16, 16, device='meta')
        assert released_facts(kernel)['arch'] == [None, None, heads, None]


@pytest.mark.parametrize('fmt', FORMS)
def test_ours_to_official_and_back(save, tmp_path, fmt):
    path = save(mmjepa_content(FORMS[fmt]), 'ours.pth')
    equal, total = write_encoder(read_encoder(path, 'mmjepa'), tmp_path / 'out.pth', fmt)
    assert equal == total
    written = torch.load(tmp_path / 'out.pth', weights_only=True)
    wanted = official_content(FORMS[fmt])
    for part in ('encoder', 'predictor', 'target_encoder'):
        assert_same(written[part], wanted[part])
    back = read_encoder(tmp_path / 'out.pth', 'auto', which='online')
    assert back.notes[0] == f'found format {fmt}'
    write_encoder(back, tmp_path / 'again.pth', 'mmjepa')
    again = read_encoder(tmp_path / 'again.pth', 'auto')
    with torch.no_grad():
        assert torch.equal(built(again)(clips()), make_vit(0, positions=FORMS[fmt])(clips()))


def test_formats_by_their_content(save):
    """Tables leave it open which of the two it is; I-JEPA's kernels have no frames."""
    path = save(official_content('rotary_vjepa2'))
    assert read_encoder(path, 'auto').notes[0] == 'found format vjepa2'
    with pytest.raises(CheckpointError, match=r'\(vjepa, vjepa2 fits'):
        read_encoder(save(official_content('sincos')), 'auto')
    content = official_content('rotary_vjepa2', tables=True)
    with pytest.raises(CheckpointError, match=r'\(vjepa, vjepa2 fits'):
        read_encoder(save(content), 'auto')


@pytest.mark.parametrize('positions', ['learned', 'rotary', 'rotary_vjepa2'])
def test_own_formats_carry_every_kind(save, tmp_path, positions):
    path = save(mmjepa_content(positions), 'ours.pth')
    encoder = read_encoder(path, 'auto', which='target')
    write_encoder(encoder, tmp_path / 'a.safetensors', 'safetensors')
    encoder = read_encoder(tmp_path / 'a.safetensors', 'auto')
    config = json.loads(encoder.meta['vit'])
    assert config['positions'] == positions and config['arch'] == list(ARCH)
    with torch.no_grad():
        assert torch.equal(built(encoder)(clips()), make_vit(1, positions=positions)(clips()))


def test_formats_with_another_use_refuse(save, tmp_path):
    encoders = {
        positions: read_encoder(save(mmjepa_content(positions), 'ours.pth'), 'mmjepa')
        for positions in ('sincos', 'rotary', 'rotary_vjepa2')
    }
    out = tmp_path / 'out.pth'
    for fmt in ('vjepa2', 'hf_vjepa2'):
        for positions in ('sincos', 'rotary'):
            with pytest.raises(ValueError, match="positions='rotary_vjepa2', and this one has"):
                write_encoder(encoders[positions], out, fmt)
    with pytest.raises(ValueError, match='--to vjepa needs pos_embed'):
        write_encoder(encoders['rotary'], out, 'vjepa')
    for fmt in set(VIT_FORMATS) - {'mmjepa', 'safetensors'}:
        with pytest.raises(ValueError, match='encoders of images, and this one takes clips'):
            write_encoder(encoders['sincos'], out, fmt)
    assert not out.exists()


def test_damaged_predictors_are_refused(save, tmp_path):
    content = official_content()
    del content['predictor']['module.backbone.mask_tokens.1']
    with pytest.raises(CheckpointError, match='2 mask tokens, but no mask_tokens.1'):
        read_encoder(save(content), 'vjepa')
    content = official_content()
    del content['predictor']['module.backbone.predictor_norm.bias']
    encoder = read_encoder(save(content), 'vjepa')
    with pytest.raises(CheckpointError, match=r"missing \['norm.bias'\]"):
        write_encoder(encoder, tmp_path / 'out.pth', 'vjepa')


def test_predictor_of_another_width_fits_the_official_layout(save, tmp_path):
    """A SALT student's predictor has the teacher's width."""
    content = mmjepa_content()
    state = {k: v for k, v in content['state_dict'].items() if not k.startswith('predictor.')}
    predictor = make_predictor(out_channels=40).state_dict()
    content['state_dict'] = state | {f'predictor.{k}': v for k, v in predictor.items()}
    write_encoder(read_encoder(save(content), 'mmjepa'), tmp_path / 'out.pth', 'vjepa')
    back = read_encoder(tmp_path / 'out.pth', 'vjepa')
    assert_same(back.companions['predictor'], predictor)


def test_a_teacher_of_its_own_config_is_read_by_that(save, tmp_path):
    """SALT's: of another form than its student, which no tensor tells, and never an EMA of it."""
    forms = dict(student='rotary', teacher='rotary_vjepa2')
    student, teacher = (make_vit(i, positions=form) for i, form in enumerate(forms.values()))
    parts = {'encoder.': student, 'target.encoder.': teacher, 'predictor.': make_predictor()}
    state = {prefix + k: v for prefix, m in parts.items() for k, v in m.state_dict().items()}
    configs = [dict(type='JEPAViT', **ENCODER, positions=form) for form in forms.values()]
    target = dict(type='TargetEncoder', policy='frozen', encoder=configs[1])
    cfg = Config(dict(model=dict(type='SALT', encoder=configs[0], target=target))).pretty_text
    path = save(dict(meta=dict(cfg=cfg), state_dict=state), 'salt.pth')
    for which, wanted in (('online', student), ('target', teacher)):
        encoder = read_encoder(path, 'auto', which=which)
        with torch.no_grad():
            assert torch.equal(built(encoder)(clips()), wanted(clips()))
        assert set(encoder.companions) <= {which, 'predictor'}
        write_encoder(encoder, tmp_path / f'{which}.pth', 'mmjepa')
        again = built(read_encoder(tmp_path / f'{which}.pth', 'mmjepa'))
        with torch.no_grad():
            assert torch.equal(again(clips()), wanted(clips()))


def test_fitting_an_encoder_of_clips(save):
    """Other clips, interpolated as the encoder itself would; other kinds are refused."""
    encoder = read_encoder(save(mmjepa_content()), 'mmjepa')
    module = JEPAViT(arch=ARCH, img_size=48, patch_size=8, num_frames=8).eval()
    state, notes = fit_vit(encoder, module)
    assert notes[-1] == 'positions interpolated from 2 x 4 x 4 to 4 x 6 x 6'
    module.load_state_dict(state)
    big = clips(1, 3, 8, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(module(big), make_vit(0)(big))
    with pytest.raises(CheckpointError, match='encoder takes clips, the model images'):
        fit_vit(encoder, JEPAViT(arch=ARCH, img_size=32, patch_size=8))
    with pytest.raises(ValueError, match='5: not whole tubelets of 2'):
        adjust_vit(encoder, num_frames=5)
    released = read_encoder(save(mmjepa_content('rotary_vjepa2')), 'mmjepa')
    with pytest.raises(CheckpointError, match="with positions 'rotary_vjepa2', the model has 'rot"):
        fit_vit(released, make_vit(positions='rotary'))
    finer = adjust_vit(released, patch_size=16)
    assert finer.state['patch_embed.proj.weight'].shape == (96, 3, 2, 16, 16)
