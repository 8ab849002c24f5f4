"""Names of every format, against lists written from their classes."""

import itertools

import pytest
import torch
from vit_files import ARCH, assert_same, make_predictor, make_vit, official_predictor

from mmjepa.adapters import FORMATS, VIT_FORMATS
from mmjepa.adapters.ijepa import PREDICTOR
from mmjepa.adapters.vit_encoder import vit_keys

WIDTH, DEPTH, _, MLP = ARCH
N = 16


def _pairs(stems):
    """(stem, out, in or None) to keys and shapes."""
    shapes = {}
    for stem, out, *into in stems:
        shapes[f'{stem}weight'] = (out, *into)
        shapes[f'{stem}bias'] = (out,)
    return shapes


def _wanted(fmt):
    """Keys and shapes of a format, as its network has them."""
    d, m = WIDTH, MLP
    patch = dict(timm='patch_embed.proj.', vitdet='patch_embed.proj.').get(
        fmt, 'patch_embed.projection.'
    )
    table, norm, blocks = 'pos_embed', [('norm.', d)], 'blocks'
    if fmt in ('mmpretrain', 'mmseg'):
        norm, blocks = [('ln1.', d)], 'layers'
    elif fmt == 'hf':
        patch, table = 'embeddings.patch_embeddings.projection.', 'embeddings.position_embeddings'
        norm, blocks = [('layernorm.', d)], 'encoder.layer'
    elif fmt == 'vitdet':
        norm = []
    inner = {
        'timm': [
            ('norm1.', d),
            ('attn.qkv.', 3 * d, d),
            ('attn.proj.', d, d),
            ('norm2.', d),
            ('mlp.fc1.', m, d),
            ('mlp.fc2.', d, m),
        ],
        'mmpretrain': [
            ('ln1.', d),
            ('attn.qkv.', 3 * d, d),
            ('attn.proj.', d, d),
            ('ln2.', d),
            ('ffn.layers.0.0.', m, d),
            ('ffn.layers.1.', d, m),
        ],
        'mmseg': [
            ('ln1.', d),
            ('attn.attn.in_proj_', 3 * d, d),
            ('attn.attn.out_proj.', d, d),
            ('ln2.', d),
            ('ffn.layers.0.0.', m, d),
            ('ffn.layers.1.', d, m),
        ],
        'hf': [
            ('layernorm_before.', d),
            ('attention.attention.query.', d, d),
            ('attention.attention.key.', d, d),
            ('attention.attention.value.', d, d),
            ('attention.output.dense.', d, d),
            ('layernorm_after.', d),
            ('intermediate.dense.', m, d),
            ('output.dense.', d, m),
        ],
    }
    inner['vitdet'] = inner['timm']
    shapes = {table: (1, N + (fmt == 'mmseg'), d), **_pairs(norm), **_pairs([(patch, d, 3, 8, 8)])}
    for i in range(DEPTH):
        shapes |= _pairs([(f'{blocks}.{i}.{stem}', *size) for stem, *size in inner[fmt]])
    return shapes | ({'cls_token': (1, 1, d)} if fmt == 'mmseg' else {})


FOREIGN = ['timm', 'mmpretrain', 'mmseg', 'vitdet', 'hf']


def _common(fmt):
    state = dict(make_vit().state_dict())
    return {k: v for k, v in state.items() if fmt != 'vitdet' or not k.startswith('norm.')}


@pytest.mark.parametrize('fmt', FOREIGN)
def test_keys_and_shapes_of_the_format(fmt):
    theirs = VIT_FORMATS[fmt].encode(_common(fmt))
    assert {k: tuple(v.shape) for k, v in theirs.items()} == _wanted(fmt)


@pytest.mark.parametrize('fmt', FOREIGN)
def test_map_is_a_bijection_and_bit_equal(fmt):
    state = _common(fmt)
    theirs = VIT_FORMATS[fmt].encode(state)
    back, notes = VIT_FORMATS[fmt].decode(dict(theirs))
    assert notes == []
    assert_same(back, state)
    assert_same(VIT_FORMATS[fmt].encode(back), theirs)


@pytest.mark.parametrize('fmt', ['timm', 'mmpretrain', 'mmseg', 'vitdet'])
def test_names_are_one_to_one(fmt):
    (table,) = VIT_FORMATS[fmt].tables
    keys = vit_keys(12)
    assert len({table.theirs(k) for k in keys}) == len(keys) == 1 + 4 + 12 * 12
    assert [table.ours(table.theirs(k)) for k in keys] == keys


def test_known_pairs_of_the_key_table():
    pretrain, seg = (VIT_FORMATS[name].tables[0].theirs for name in ('mmpretrain', 'mmseg'))
    assert pretrain('blocks.11.attn.qkv.bias') == 'layers.11.attn.qkv.bias'
    assert pretrain('norm.weight') == 'ln1.weight'
    assert pretrain('blocks.2.norm1.weight') == 'layers.2.ln1.weight'
    assert pretrain('blocks.2.norm2.weight') == 'layers.2.ln2.weight'
    assert pretrain('blocks.2.mlp.fc1.bias') == 'layers.2.ffn.layers.0.0.bias'
    assert pretrain('blocks.2.mlp.fc2.bias') == 'layers.2.ffn.layers.1.bias'
    assert pretrain('patch_embed.proj.bias') == 'patch_embed.projection.bias'
    assert seg('blocks.3.attn.qkv.weight') == 'layers.3.attn.attn.in_proj_weight'
    assert seg('blocks.3.attn.proj.bias') == 'layers.3.attn.attn.out_proj.bias'
    assert seg('blocks.3.mlp.fc2.weight') == 'layers.3.ffn.layers.1.weight'
    file, memory = VIT_FORMATS['hf'].tables
    assert file.theirs('blocks.1.mlp.fc2.bias') == 'encoder.layer.1.output.dense.bias'
    assert memory.theirs('blocks.1.attn.proj.bias') == 'layers.1.attention.o_proj.bias'


def test_common_form_is_our_encoder():
    state = make_vit().state_dict()
    assert set(state) == set(vit_keys(DEPTH))
    assert set(make_vit(arch=(16, 5, 2, 24)).state_dict()) == set(vit_keys(5))


def test_predictor_map():
    ours = make_predictor().state_dict()
    theirs = official_predictor(ours)
    assert {PREDICTOR.theirs(k) for k in ours} == set(theirs)
    assert all(torch.equal(theirs[PREDICTOR.theirs(k)], v) for k, v in ours.items())
    assert [PREDICTOR.ours(PREDICTOR.theirs(k)) for k in ours] == list(ours)
    assert PREDICTOR.theirs('blocks.0.attn.qkv.weight') == 'predictor_blocks.0.attn.qkv.weight'


def test_queries_keys_and_values_are_thirds():
    state = _common('hf')
    theirs = VIT_FORMATS['hf'].encode(state)
    for i, name in enumerate(('query', 'key', 'value')):
        third = state['blocks.1.attn.qkv.weight'][i * WIDTH : (i + 1) * WIDTH]
        assert torch.equal(theirs[f'encoder.layer.1.attention.attention.{name}.weight'], third)


def test_mmseg_gets_a_zero_class_token_and_position():
    state = _common('mmseg')
    theirs = VIT_FORMATS['mmseg'].encode(state)
    assert not theirs['cls_token'].any()
    assert not theirs['pos_embed'][:, 0].any()
    assert torch.equal(theirs['pos_embed'][:, 1:], state['pos_embed'])


def test_a_swapped_table_of_mmpretrain_is_kept():
    """Its own table encodes the row first; rebuilding it would swap rows and columns."""
    state = _common('mmpretrain')
    half = WIDTH // 2
    swapped = torch.cat([state['pos_embed'][..., half:], state['pos_embed'][..., :half]], 2)
    assert not torch.equal(swapped, state['pos_embed'])
    adapter = VIT_FORMATS['mmpretrain']
    theirs = adapter.encode({**state, 'pos_embed': swapped})
    assert torch.equal(theirs['pos_embed'], swapped)
    file = {f'backbone.{k}': v for k, v in theirs.items()}
    read = adapter.read({'state_dict': file}, 'x.pth')
    assert torch.equal(read.state['pos_embed'], swapped)
    assert '"positions": "learned"' in read.traits['vit']


def test_formats_of_each_family():
    assert set(FORMATS) & set(VIT_FORMATS) == {'mmjepa', 'safetensors'}
    for (a, one), (b, two) in itertools.combinations({**FORMATS, **VIT_FORMATS}.items(), 2):
        assert a != b and one is not two
