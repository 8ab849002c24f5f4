"""Damaged, foreign and mixed-up ViT files: refused, with file, tensor and remedy."""

import pytest
import torch
from mmengine.config import Config
from vit_files import ARCH, assert_same, make_vit, save_mmjepa, save_official

from mmjepa.adapters import read_encoder, write_encoder
from mmjepa.engine.checkpoint import CheckpointError


def _plain(path, state, **more):
    torch.save(dict(state_dict=dict(state), **more), path)
    return path


def _damage(state, kind):
    if kind == 'missing':
        del state['blocks.1.mlp.fc2.bias']
    elif kind == 'no table':
        del state['pos_embed']
    elif kind == 'unexpected':
        state['blocks.0.ls1.gamma'] = torch.zeros(192)
    elif kind == 'class token':
        state['cls_token'] = torch.zeros(1, 1, 192)
    elif kind == 'gap':
        state.update({k.replace('.1.', '.3.'): v for k, v in state.items() if '.1.' in k})
    elif kind == 'shape':
        state['blocks.0.attn.qkv.weight'] = torch.zeros(192, 576)
    elif kind == 'narrower block':
        state['blocks.1.norm2.weight'] = torch.zeros(96)
    elif kind == 'one more row':
        state['pos_embed'] = torch.zeros(1, 17, 192)
    elif kind == 'video':
        state['patch_embed.proj.weight'] = torch.zeros(192, 3, 2, 8, 8)
    elif kind == 'nan':
        state['blocks.1.attn.proj.weight'][3, 5] = float('nan')
    elif kind == 'inf':
        state['pos_embed'][0, 0, 0] = float('inf')
    return state


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('missing', r"1 of 29 tensors missing \['blocks.1.mlp.fc2.bias'\]"),
        ('no table', r"1 of 29 tensors missing \['pos_embed'\]"),
        ('unexpected', r"1 unexpected \['blocks.0.ls1.gamma"),
        ('class token', r"1 unexpected \['cls_token"),
        ('gap', r"\(4 blocks\): 12 of 53 tensors missing \['blocks.2.norm1.weight'"),
        ('shape', r'attn.qkv.weight is \(192, 576\), expected \(576, 192\)'),
        ('narrower block', r'blocks.1.norm2.weight is \(96,\), expected \(192,\)'),
        ('one more row', '17 positions, no square grid.*class token'),
        ('video', 'an image encoder with square patches'),
        ('nan', 'NaN or Inf in 1 tensors, first blocks.1.attn.proj.weight'),
        ('inf', 'NaN or Inf in 1 tensors, first pos_embed'),
    ],
)
@pytest.mark.parametrize('prefix', ['', 'encoder.'])
def test_damaged_encoders_are_refused(tmp_path, prefix, kind, words):
    state = _damage(dict(make_vit().state_dict()), kind)
    path = _plain(tmp_path / 'bad.pth', {prefix + k: v for k, v in state.items()})
    with pytest.raises(CheckpointError, match=words) as error:
        read_encoder(path, 'auto' if prefix or kind != 'no table' else 'timm')
    assert 'bad.pth' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('fmt', ['ijepa', 'mmjepa', 'timm'])
def test_truncated_files_are_refused(tmp_path, fmt):
    path = tmp_path / 'short.pth'
    (save_official if fmt == 'ijepa' else save_mmjepa)(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r'short.pth .* truncated'):
        read_encoder(path, fmt)


def test_what_the_config_says_must_hold(tmp_path):
    """A file that lost its last block is whole by its shapes alone."""
    path = tmp_path / 'a.pth'
    save_mmjepa(path)
    content = torch.load(path, weights_only=True)
    kept = {k: v for k, v in content['state_dict'].items() if '.blocks.1.' not in k}
    torch.save({**content, 'state_dict': kept}, path)
    with pytest.raises(CheckpointError, match='a.pth: blocks 1 by its tensors, 2 by its config'):
        read_encoder(path, 'mmjepa')
    encoder = read_encoder(_plain(path, kept), 'mmjepa')  # without a config
    assert '1 blocks; the named ViT of width 192 has 12' in encoder.notes


def test_pickled_objects_are_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ('executed',))

    save_official(tmp_path / 'evil.pth', loss=Evil())
    with pytest.raises(CheckpointError, match='pickled objects'):
        read_encoder(tmp_path / 'evil.pth', 'ijepa')


def test_names_of_another_format_are_refused(tmp_path):
    path = tmp_path / 'a.pth'
    save_mmjepa(path)
    encoder = read_encoder(path, 'mmjepa')
    write_encoder(encoder, tmp_path / 'seg.pth', 'mmseg', prefix='backbone.')
    with pytest.raises(CheckpointError, match='no name of mmpretrain'):
        read_encoder(tmp_path / 'seg.pth', 'mmpretrain')
    mixed = torch.load(tmp_path / 'seg.pth', weights_only=True)['state_dict']
    mixed['backbone.norm.weight'] = torch.ones(192)
    with pytest.raises(CheckpointError, match=r'norm.weight \(no name of mmseg\)'):
        read_encoder(_plain(tmp_path / 'mixed.pth', mixed), 'mmseg')


def test_a_class_token_that_mmseg_uses_is_refused(tmp_path):
    path = tmp_path / 'a.pth'
    save_mmjepa(path)
    write_encoder(read_encoder(path, 'mmjepa'), tmp_path / 'seg.pth', 'mmseg')
    content = torch.load(tmp_path / 'seg.pth', weights_only=True)
    content['state_dict']['cls_token'][0, 0, 0] = 0.1
    with pytest.raises(CheckpointError, match='class token is not zero'):
        read_encoder(_plain(tmp_path / 'b.pth', content['state_dict']), 'mmseg')


def test_families_are_not_mixed(tmp_path, mmjepa_file):
    """A LiDAR encoder in an image format, and the reverse."""
    vit = tmp_path / 'vit.pth'
    save_mmjepa(vit)
    lidar, image = read_encoder(mmjepa_file, 'auto'), read_encoder(vit, 'auto')
    both = r'sparse voxel encoder \(LiDAR\).*ViT encoder \(images\)'
    reverse = r'ViT encoder \(images\).*sparse voxel encoder \(LiDAR\)'
    for fmt in ('hf', 'ijepa', 'timm', 'mmseg', 'mmpretrain', 'vitdet'):
        with pytest.raises(ValueError, match=f'{reverse}: choose --to mmjepa, mmdet3d'):
            write_encoder(lidar, tmp_path / 'out.pth', fmt)
    for fmt in ('mmdet3d', 'openpcdet'):
        with pytest.raises(ValueError, match=f'{both}: choose --to .*ijepa, hf, timm'):
            write_encoder(image, tmp_path / 'out.pth', fmt)
        with pytest.raises(CheckpointError, match=f'vit.pth holds a {reverse}'):
            read_encoder(vit, fmt)
    for fmt in ('hf', 'timm', 'vitdet', 'mmseg'):
        with pytest.raises(CheckpointError, match=f'epoch_30.pth holds a {both}'):
            read_encoder(mmjepa_file, fmt)
    with pytest.raises(CheckpointError, match='no official I-JEPA checkpoint'):
        read_encoder(vit, 'ijepa')
    assert not (tmp_path / 'out.pth').exists()


def _trained(path, **options):
    encoder = dict(type='JEPAViT', arch=ARCH, img_size=32, patch_size=8, **options)
    cfg = Config(dict(model=dict(type='IJEPA', encoder=encoder))).pretty_text
    state = make_vit(**options).state_dict()
    return _plain(path, {f'encoder.{k}': v for k, v in state.items()}, meta=dict(cfg=cfg)), state


@pytest.mark.parametrize('options', [dict(positions='rotary'), dict(final_norm=False)])
def test_encoders_without_table_or_norm(tmp_path, options):
    """Whole if their own config says so; formats that need both refuse them."""
    path, state = _trained(tmp_path / 'a.pth', **options)
    encoder = read_encoder(path, 'mmjepa')
    assert_same(encoder.state, state)
    write_encoder(encoder, tmp_path / 'b.safetensors', 'safetensors')
    assert_same(read_encoder(tmp_path / 'b.safetensors', 'auto').state, state)
    for fmt in ('timm', 'mmpretrain', 'mmseg', 'hf', 'ijepa'):
        with pytest.raises(ValueError, match='(pos_embed|norm.weight), which an encoder with'):
            write_encoder(encoder, tmp_path / 'out.pth', fmt)
    content = torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match='tensors missing'):
        read_encoder(_plain(tmp_path / 'c.pth', content['state_dict']), 'mmjepa')


def test_two_prefixes_are_ambiguous(tmp_path):
    state = make_vit().state_dict()
    both = {p + k: v for p in ('student.', 'teacher.') for k, v in state.items()}
    path = _plain(tmp_path / 'a.pth', both)
    with pytest.raises(CheckpointError, match='--from-prefix'):
        read_encoder(path, 'timm')
    assert_same(read_encoder(path, 'timm', prefix='teacher.').state, state)
