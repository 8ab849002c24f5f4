"""Networks on tables: shapes, what they read, and closed forms of those that are ours."""

import sys

import pytest
import torch
import torch.nn.functional as F

from projects.t_jepa.t_jepa.heads import (
    NETS,
    SIZES,
    AutoInt,
    Columns,
    DCNv2,
    FeatureEmbedding,
    HeadSize,
    build_head,
    build_net,
    one_hot,
    sizes_of,
)

MIXED = Columns(3, (4, 3))


def net_of(name, columns, outputs, size='small'):
    if name not in ('dcnv2', 'autoint'):
        pytest.importorskip('rtdl_revisiting_models')
    return build_net(name, columns, outputs, sizes_of(name, size))


def mixed_rows(count=8):
    codes = torch.stack([torch.arange(count) % 4, torch.arange(count) % 3], 1)
    return torch.cat([torch.randn(count, 3), codes.float()], 1)


@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('size', SIZES)
def test_nets_on_numbers(name, size):
    net = net_of(name, Columns(6), 4, size)
    out = net(torch.randn(8, 6))
    assert out.shape == (8, 4)
    out.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize('name', ['autoint', 'ft_transformer'])
@pytest.mark.parametrize('columns', [MIXED, Columns(0, (4, 3))])
def test_nets_that_embed_categories(name, columns):
    net = net_of(name, columns, 1).eval()
    rows = mixed_rows()[:, -columns.numeric - 2 :]
    out = net(rows)
    for column in range(rows.shape[1]):
        moved = rows.clone()
        moved[:, column] = (moved[:, column] + 1) % 3
        assert not torch.allclose(net(moved), out)


def test_nets_for_numbers_refuse_categories_and_unknown_names_are_named():
    with pytest.raises(ValueError, match='mlp takes numbers'):
        build_net('mlp', MIXED, 1, sizes_of('mlp', 'small'))
    with pytest.raises(ValueError, match="no network 'mpl'; there are mlp, resnet"):
        build_net('mpl', MIXED, 1, HeadSize(1e-3))
    with pytest.raises(ValueError, match='--head-size big: there are small, paper'):
        sizes_of('mlp', 'big')


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rtdl_revisiting_models', None)
    with pytest.raises(ImportError, match='pip install --no-deps rtdl_revisiting_models'):
        build_net('resnet', Columns(3), 1, sizes_of('resnet', 'small'))


def test_one_hot_leaves_unknown_categories_out():
    rows = torch.tensor([[0.5, 1, 2], [-1.0, 3, 0]])
    expected = [[0.5, 1, 0, 0, 0, 1], [-1.0, 0, 0, 1, 0, 0]]
    assert one_hot(rows, Columns(1, (4, 3))).tolist() == expected


def test_feature_embedding_is_weight_times_number_and_a_vector_a_category():
    embedding, rows = FeatureEmbedding(MIXED, 5), mixed_rows()
    tokens = embedding(rows)
    torch.testing.assert_close(tokens[:, 1], rows[:, 1:2] * embedding.weight[1])
    table = embedding.categories.weight
    assert table.shape == (7, 5)
    torch.testing.assert_close(tokens[:, 3], table[rows[:, 3].long()])
    torch.testing.assert_close(tokens[:, 4], table[4 + rows[:, 4].long()])


def test_dcnv2_without_deep_layers_is_the_cross_network():
    net, rows = DCNv2(3, 2, width=6, cross=2, deep=1).eval(), torch.randn(4, 3)
    x0 = net.first(rows)
    x1 = x0 * net.cross[0](x0) + x0
    x2 = x0 * net.cross[1](x1) + x1
    expected = net.last(torch.cat([x2, F.relu(net.deep[0][0](x0))], 1))
    torch.testing.assert_close(net(rows), expected)


def test_autoint_layer_is_attention_with_a_linear_way_past_it():
    net = AutoInt(Columns(3), 1, width=8, depth=1, heads=2).eval()
    layer, tokens = net.layers[0], torch.randn(4, 3, 8)
    q, k, v = layer.qkv(tokens).chunk(3, 2)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(2)
        heads.append(weights @ v[..., part])
    expected = F.relu(layer.norm(torch.cat(heads, 2) + layer.past(tokens)))
    torch.testing.assert_close(layer(tokens), expected)
    with pytest.raises(ValueError, match='width 8 is no multiple of 3 heads'):
        AutoInt(Columns(3), 1, width=8, depth=1, heads=3)


@pytest.mark.parametrize('name', NETS)
def test_heads_project_first(name):
    if name not in ('dcnv2', 'autoint'):
        pytest.importorskip('rtdl_revisiting_models')
    size = sizes_of(name, 'small')
    head = build_head(name, 'mean_pool', (6, 8), 2, size).eval()
    tokens = torch.randn(5, 6, 8)
    torch.testing.assert_close(head(tokens), head[1](tokens.mean(2)))
    with pytest.raises(ValueError, match="no projection 'sum'"):
        build_head(name, 'sum', (6, 8), 2, size)
