"""ViT checkpoints through every format and back, and what they carry along."""

import json

import pytest
import torch
from torch import nn
from vit_files import (
    ARCH,
    assert_same,
    make_predictor,
    make_vit,
    official_predictor,
    save_mmjepa,
    save_official,
)

from mmjepa.adapters import VIT_FORMATS, read_encoder, write_encoder
from mmjepa.adapters.files import load
from mmjepa.engine.checkpoint import CheckpointError, load_file, load_verified

TOTAL = 1 + 4 + 12 * ARCH[1]
SUFFIX = dict(safetensors='.safetensors', hf='')


@pytest.fixture
def mmjepa_vit(tmp_path):
    path = tmp_path / 'epoch_3.pth'
    save_mmjepa(path)
    return path


@pytest.fixture
def official(tmp_path):
    path = tmp_path / 'IN1K-vit.h.14-300e.pth.tar'
    save_official(path)
    return path


@pytest.mark.parametrize('fmt', list(VIT_FORMATS))
def test_to_every_format_and_back(tmp_path, mmjepa_vit, fmt):
    start = read_encoder(mmjepa_vit, 'auto', which='target')
    wanted = make_vit(1).state_dict()
    if fmt == 'vitdet':
        wanted = {k: v for k, v in wanted.items() if not k.startswith('norm.')}
    middle, end = tmp_path / f'middle{SUFFIX.get(fmt, ".pth")}', tmp_path / 'end.pth'
    assert write_encoder(start, middle, fmt) == (len(wanted), len(wanted))
    again = read_encoder(middle, 'auto')
    assert f'found format {fmt}' in again.notes
    assert_same(again.state, wanted)
    assert write_encoder(again, end, 'mmjepa') == (len(wanted), len(wanted))
    assert_same(read_encoder(end, 'mmjepa').state, wanted)
    assert again.meta['method'] == 'IJEPA'
    assert again.meta['origin'].startswith('epoch_3.pth sha256:')
    config = json.loads(again.meta['vit'])
    assert config['arch'] == list(ARCH)  # the heads, too, though no tensor tells them
    assert config['final_norm'] == (fmt != 'vitdet')


def test_which_and_default(mmjepa_vit):
    for which, seed in ((None, 0), ('online', 0), ('target', 1)):
        encoder = read_encoder(mmjepa_vit, 'mmjepa', which=which)
        assert_same(encoder.state, make_vit(seed).state_dict())
        assert_same(encoder.companions['predictor'], make_predictor().state_dict())
    assert f'beside it: online {TOTAL}, predictor' in encoder.notes[-1]
    with pytest.raises(ValueError, match='--from mmjepa or ijepa'):
        read_encoder(mmjepa_vit, 'timm', which='target')


def test_official_file(official):
    """Prefixes, optimizer, scaler and counters are no obstacle; the target is the default."""
    for which, seed in ((None, 1), ('target', 1), ('online', 0)):
        encoder = read_encoder(official, 'ijepa', which=which)
        assert_same(encoder.state, make_vit(seed).state_dict())
    assert 'took 3 heads, those of the named ViT of width 192' in encoder.notes
    assert '2 blocks; the named ViT of width 192 has 12' in encoder.notes
    config = json.loads(encoder.meta['vit'])
    assert config['arch'] == list(ARCH)
    assert (config['img_size'], config['patch_size']) == ([32, 32], 8)
    assert read_encoder(official, 'auto').notes[0] == 'found format ijepa'


def test_official_file_is_mapped_not_loaded(official, monkeypatch):
    """10 GB of optimizer state stay on disk."""
    calls, plain = [], torch.load

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return plain(*args, **kwargs)

    monkeypatch.setattr(torch, 'load', spy)
    assert set(load(official)) > {'opt', 'scaler', 'epoch'}
    assert [(c['mmap'], c['weights_only']) for c in calls] == [(True, True)]


@pytest.mark.parametrize('gone', [['opt', 'scaler', 'loss', 'lr'], ['predictor', 'encoder']])
def test_official_file_without_some_parts(tmp_path, gone):
    save_official(tmp_path / 'a.pth.tar', **dict.fromkeys(gone))
    encoder = read_encoder(tmp_path / 'a.pth.tar', 'auto')
    assert_same(encoder.state, make_vit(1).state_dict())


def test_official_file_in_the_old_container(tmp_path):
    """Before torch 1.6 a checkpoint was no zip file and can't be mapped."""
    save_official(tmp_path / 'zip.pth')
    content = torch.load(tmp_path / 'zip.pth', weights_only=True)
    torch.save(content, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    encoder = read_encoder(tmp_path / 'old.pth', 'ijepa')
    assert_same(encoder.state, make_vit(1).state_dict())


class OfficialPredictor(nn.Module):
    """The parameters of the official predictor by their names there."""

    def __init__(self):
        super().__init__()
        ours = make_predictor()
        self.mask_token = ours.mask_token
        self.predictor_embed = ours.embed
        self.predictor_pos_embed = nn.Parameter(ours.pos_embed, requires_grad=False)
        self.predictor_blocks = ours.blocks
        self.predictor_norm = ours.norm
        self.predictor_proj = ours.proj


@pytest.mark.parametrize('which', ['online', 'target'])
def test_the_official_code_could_load_it(tmp_path, mmjepa_vit, which):
    """As its ``load_checkpoint`` does: epoch first, then three strict loads under DDP's prefix."""
    out = tmp_path / 'out.pth.tar'
    write_encoder(read_encoder(mmjepa_vit, 'mmjepa', which=which), out, 'ijepa')
    content = torch.load(out, map_location='cpu')
    assert content['epoch'] == 0
    parts = dict(encoder=make_vit(5), target_encoder=make_vit(6), predictor=OfficialPredictor())
    for name, module in parts.items():
        nn.ModuleDict(dict(module=module)).load_state_dict(content[name], strict=True)
    assert_same(parts['encoder'].state_dict(), make_vit(0).state_dict())
    assert_same(parts['target_encoder'].state_dict(), make_vit(1).state_dict())
    wanted = official_predictor(make_predictor().state_dict())
    assert_same(parts['predictor'].state_dict(), wanted)


def test_official_round_trip_keeps_all_three(tmp_path, official):
    out = tmp_path / 'out.pth'
    write_encoder(read_encoder(official, 'ijepa'), out, 'ijepa')
    old, new = (load_file(path) for path in (official, out))
    for part in ('encoder', 'target_encoder', 'predictor'):
        assert_same(new[part], old[part])


def test_one_encoder_becomes_both(tmp_path, mmjepa_vit):
    bare, out = tmp_path / 'a.safetensors', tmp_path / 'out.pth'
    write_encoder(read_encoder(mmjepa_vit, 'mmjepa'), bare, 'safetensors')
    encoder = read_encoder(bare, 'safetensors')
    write_encoder(encoder, out, 'ijepa')
    content = load_file(out)
    assert 'predictor' not in content
    assert_same(content['encoder'], content['target_encoder'])
    remarks = VIT_FORMATS['ijepa'].remarks(encoder, out)
    assert 'both encoder and target_encoder' in remarks[0]
    assert 'no predictor' in remarks[1]


@pytest.mark.parametrize('part', ['target.encoder.blocks.1.norm1.bias', 'predictor.proj.weight'])
def test_damaged_companions_are_refused_where_they_travel(tmp_path, mmjepa_vit, part):
    content = torch.load(mmjepa_vit, weights_only=True)
    content['state_dict'][part][0] = float('nan')
    torch.save(content, mmjepa_vit)
    encoder = read_encoder(mmjepa_vit, 'mmjepa')
    with pytest.raises(CheckpointError, match='(target encoder|predictor): NaN or Inf in 1'):
        write_encoder(encoder, tmp_path / 'out.pth', 'ijepa')
    assert write_encoder(encoder, tmp_path / 'out.pth', 'timm') == (TOTAL, TOTAL)


@pytest.mark.parametrize('name', ['head', 'target.head'])
def test_heads_of_dmt_jepa_stay_behind(tmp_path, name):
    path = tmp_path / 'dmt.pth'
    model = save_mmjepa(path, 'DMTJEPA')
    heads = {f'{name}.{k}': v for k, v in model.head.state_dict().items()}
    assert heads.keys() <= load_file(path)['state_dict'].keys()  # they are in the checkpoint
    encoder = read_encoder(path, 'mmjepa', which='target')
    count = len(heads)
    assert any(f'head {count}' in n and f'target {count}' in n for n in encoder.notes)
    write_encoder(encoder, tmp_path / 'out.pth', 'ijepa')
    content = load_file(tmp_path / 'out.pth')
    assert set(content) == {'encoder', 'target_encoder', 'predictor', 'epoch', 'meta'}
    assert not any('head' in k for part in content.values() if part for k in dict(part or {}))
    write_encoder(encoder, tmp_path / 'out.safetensors', 'safetensors')
    fresh = make_vit(7)
    load_verified(fresh, read_encoder(tmp_path / 'out.safetensors', 'auto').state, what='encoder')
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(fresh(images), model.target.encoder.eval()(images))


def test_export_of_a_folder_replaces_only_what_it_writes(tmp_path, mmjepa_vit):
    encoder, out = read_encoder(mmjepa_vit, 'mmjepa'), tmp_path / 'hf'
    write_encoder(encoder, out, 'hf')
    (out / 'README.md').write_text('precious')
    with pytest.raises(FileExistsError, match='--overwrite'):
        write_encoder(encoder, out, 'hf')
    write_encoder(encoder, out, 'hf', overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == [
        'README.md',
        'config.json',
        'model.safetensors',
    ]
