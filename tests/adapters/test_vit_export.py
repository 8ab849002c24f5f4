"""What a user asks of the exporter: sizes, heads, configs, and its words."""

import importlib.util
import json

import pytest
import torch
from vit_files import ARCH, assert_same, make_vit, save_mmjepa, save_official

from mmjepa.adapters import adjust_vit, read_encoder, vit_config_of, write_encoder
from mmjepa.engine.checkpoint import CheckpointError, load_file
from mmjepa.models.encoders import JEPAViT
from mmjepa.models.layers.positions import resize_positions, sincos_positions


@pytest.fixture
def mmjepa_vit(tmp_path):
    path = tmp_path / 'epoch_3.pth'
    save_mmjepa(path)
    return path


@pytest.fixture
def tool(repo):
    spec = importlib.util.spec_from_file_location(
        'export_checkpoint', repo / 'tools' / 'export_checkpoint.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    'options',
    [
        dict(arch='tiny', img_size=(48, 48), patch_size=16),
        dict(arch=(384, 1, 6, 100), img_size=28, patch_size=14, in_channels=1),
        dict(arch=(768, 1, 12, 64), img_size=32, patch_size=16, positions='learned'),
        dict(arch=(1024, 1, 16, 32), img_size=16, patch_size=8),
    ],
)
def test_config_by_the_shapes(options):
    model = JEPAViT(**options)
    config = vit_config_of(model.state_dict())
    again = JEPAViT(**config)
    again.load_state_dict(model.state_dict(), strict=True)
    assert config['positions'] == options.get('positions', 'sincos')
    assert (again.num_heads, again.grid) == (model.num_heads, model.grid)
    images = torch.randn(1, config['in_channels'], *model.img_size)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize(
    ('width', 'heads'), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16)]
)
def test_heads_by_the_width(width, heads):
    assert vit_config_of(make_vit(arch=(width, 1, heads, 8)).state_dict())['arch'][2] == heads


def test_unknown_width_needs_heads():
    state = make_vit(arch=(48, 1, 2, 8)).state_dict()
    with pytest.raises(ValueError, match='no named ViT is 48 wide'):
        vit_config_of(state)
    assert vit_config_of(state, heads=2)['arch'] == (48, 1, 2, 8)


def test_positions_after_an_ema_are_still_sincos():
    """The official table is a parameter, over which the EMA rounds."""
    state = make_vit().state_dict()
    drifted = {**state, 'pos_embed': state['pos_embed'] + 1e-4}
    assert vit_config_of(drifted)['positions'] == 'sincos'
    assert (
        vit_config_of({**state, 'pos_embed': state['pos_embed'] + 1e-2})['positions'] == 'learned'
    )
    with pytest.raises(CheckpointError, match='the state dict is no complete ViT encoder'):
        vit_config_of({k: v for k, v in state.items() if k != 'norm.bias'})


def test_the_training_config_tells_heads_and_grid(tmp_path):
    """Of a width without name, or of a table that isn't square."""
    text = (
        'model = dict(\n    encoder=dict(arch=(48, 1, 2, 8), img_size=(16, 32), patch_size=8,\n'
        "        type='JEPAViT'),\n    type='IJEPA')\n"
    )
    state = make_vit(arch=(48, 1, 2, 8), img_size=(16, 32)).state_dict()
    weights = {f'encoder.{k}': v for k, v in state.items()}
    path = tmp_path / 'a.pth'
    torch.save(dict(meta=dict(cfg=text), state_dict=weights), path)
    config = json.loads(read_encoder(path, 'auto').meta['vit'])
    assert (config['arch'], config['img_size']) == ([48, 1, 2, 8], [16, 32])
    torch.save(dict(state_dict=weights), path)
    with pytest.raises(CheckpointError, match='does not tell its image size'):
        read_encoder(path, 'auto')


@pytest.mark.parametrize('size', [48, (24, 40), 32])
def test_resized_tables(tmp_path, mmjepa_vit, size):
    """What the encoder computes at that size as it runs, and what its config then says."""
    height, width = (size, size) if isinstance(size, int) else size
    before = read_encoder(mmjepa_vit, 'mmjepa')
    encoder = adjust_vit(before, size)
    native = sincos_positions(192, 4, 4)[None]
    wanted = resize_positions(native, (4, 4), (height // 8, width // 8))
    assert torch.equal(encoder.state['pos_embed'], wanted)
    assert torch.equal(before.state['pos_embed'], native)
    write_encoder(encoder, tmp_path / 'a.safetensors', 'safetensors')
    again = read_encoder(tmp_path / 'a.safetensors', 'auto')
    model = JEPAViT(**json.loads(again.meta['vit'])).eval()
    assert model.img_size == (height, width)
    model.load_state_dict(again.state)
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        torch.testing.assert_close(model(images), make_vit(0)(images), rtol=0, atol=1e-5)


def test_the_predictor_is_resized_with_the_encoder(tmp_path, mmjepa_vit):
    encoder = adjust_vit(read_encoder(mmjepa_vit, 'mmjepa'), 64)
    write_encoder(encoder, tmp_path / 'a.pth', 'ijepa')
    content = load_file(tmp_path / 'a.pth')
    for part, name in (('encoder', 'pos_embed'), ('target_encoder', 'pos_embed')):
        assert content[part][f'module.{name}'].shape == (1, 64, 192)
    assert content['predictor']['module.predictor_pos_embed'].shape == (1, 64, 24)


def test_adjustments_that_make_no_sense(mmjepa_vit, mmjepa_file):
    encoder = read_encoder(mmjepa_vit, 'mmjepa')
    assert adjust_vit(encoder) is encoder
    with pytest.raises(ValueError, match='--img-size 30 32: not whole patches of 8 x 8'):
        adjust_vit(encoder, (30, 32))
    with pytest.raises(ValueError, match='--heads 5: no divisor of the width 192'):
        adjust_vit(encoder, heads=5)
    with pytest.raises(ValueError, match=r'ViT encoder \(images\); this is a sparse voxel'):
        adjust_vit(read_encoder(mmjepa_file, 'mmjepa'), 32)


def test_tool_to_hugging_face(tool, tmp_path, mmjepa_vit, capsys):
    out = tmp_path / 'hf'
    words = [
        str(mmjepa_vit),
        '--from',
        'auto',
        '--to',
        'hf',
        '--which',
        'target',
        '--out',
        str(out),
    ]
    assert tool.main([*words, '--img-size', '48']) == 0
    printed = capsys.readouterr().out
    assert 'found format mmjepa' in printed
    assert 'positions interpolated from 4 x 4 to 6 x 6' in printed
    assert '29/29 tensors (ViT, width 192, 2 blocks, patches of 8 in 48 x 48)' in printed
    assert 'read back bit-equal' in printed
    assert f"IJepaModel.from_pretrained('{out}')" in printed
    config = json.loads((out / 'config.json').read_text())
    assert config['layer_norm_eps'] == 1e-6
    assert (config['image_size'], config['num_attention_heads']) == (48, ARCH[2])


def test_tool_takes_official_files(tool, tmp_path, capsys):
    save_official(tmp_path / 'in.pth.tar')
    words = [str(tmp_path / 'in.pth.tar'), '--from', 'ijepa', '--to', 'mmseg']
    assert tool.main([*words, '--out', str(tmp_path / 'a.pth'), '--img-size', '24', '40']) == 0
    printed = capsys.readouterr().out
    assert '[target_encoder.*]' in printed
    assert 'img_size=(24, 40), patch_size=8, patch_bias=True, with_cls_token=False' in printed
    out = tmp_path / 'b.pth'
    assert tool.main([*words, '--out', str(out), '--which', 'online', '--prefix', 'backbone.']) == 0
    encoder = read_encoder(out, 'auto')
    assert encoder.prefix == 'backbone.'
    assert_same(encoder.state, make_vit(0).state_dict())


def test_tool_says_both_families(tool, tmp_path, mmjepa_vit, mmjepa_file, capsys):
    for path, fmt in ((mmjepa_vit, 'mmdet3d'), (mmjepa_file, 'hf')):
        out = tmp_path / 'out'
        assert tool.main([str(path), '--from', 'mmjepa', '--to', fmt, '--out', str(out)]) == 1
        error = capsys.readouterr().err
        assert error.startswith('error: ')
        assert error.count('\n') == 1
        assert 'sparse voxel encoder (LiDAR)' in error
        assert 'ViT encoder (images)' in error
        assert not out.exists()


def test_tool_asks_for_heads(tool, tmp_path, capsys):
    state = make_vit(arch=(48, 1, 2, 8)).state_dict()
    torch.save(dict(state_dict=dict(state)), tmp_path / 'a.pth')
    words = [str(tmp_path / 'a.pth'), '--from', 'timm', '--to', 'hf', '--out', str(tmp_path / 'hf')]
    assert tool.main(words) == 1
    assert 'give --heads' in capsys.readouterr().err
    assert not (tmp_path / 'hf').exists()
    assert tool.main([*words, '--heads', '2']) == 0
    assert 'the number of heads is unknown' in capsys.readouterr().out
    assert json.loads((tmp_path / 'hf' / 'config.json').read_text())['num_attention_heads'] == 2


def test_tool_refuses_a_prefix_in_the_official_layout(tool, tmp_path, mmjepa_vit, capsys):
    words = [str(mmjepa_vit), '--from', 'mmjepa', '--to', 'ijepa', '--out', str(tmp_path / 'a.pth')]
    assert tool.main([*words, '--prefix', 'backbone.']) == 1
    assert 'the official layout fixes its names' in capsys.readouterr().err
