"""Projections of tokens to a number each, against closed forms."""

import pytest
import torch
from torch import nn

from projects.t_jepa.t_jepa.projections import (
    PROJECTIONS,
    LinearFlatten,
    LinearPerFeature,
    picture_size,
    resolve_projection,
)


@pytest.mark.parametrize('kind', PROJECTIONS)
@pytest.mark.parametrize(('tokens', 'channels'), [(14, 16), (55, 64)])
def test_a_number_each_and_gradients_to_all_weights(kind, tokens, channels):
    projection = PROJECTIONS[kind](tokens, channels)
    x = torch.randn(5, tokens, channels, requires_grad=True)
    out = projection(x)
    assert out.shape == (5, tokens)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in projection.parameters())
    assert x.grad.abs().sum() > 0


def test_linear_flatten_mixes_tokens_and_linear_per_feature_does_not():
    x = torch.randn(4, 6, 8)
    moved = x.clone()
    moved[:, 2] += 1
    for kind, expected in ((LinearFlatten, [0, 1, 2, 3, 4, 5]), (LinearPerFeature, [2])):
        projection = kind(6, 8)
        changed = (projection(moved) - projection(x)).abs().amax(0) > 1e-6
        assert changed.nonzero().flatten().tolist() == expected


def test_linear_per_feature_is_one_linear_map_a_token():
    projection, x = LinearPerFeature(3, 4), torch.randn(5, 3, 4)
    expected = []
    for token in range(3):
        linear = nn.Linear(4, 1)
        linear.weight.data[0] = projection.weight[token]
        linear.bias.data[0] = projection.bias[token]
        expected.append(linear(x[:, token]))
    torch.testing.assert_close(projection(x), torch.cat(expected, 1))


def test_pools():
    x = torch.tensor([[[1.0, 5.0], [2.0, -4.0]]])
    assert PROJECTIONS['max_pool'](2, 2)(x).tolist() == [[5, 2]]
    assert PROJECTIONS['mean_pool'](2, 2)(x).tolist() == [[3, -1]]


@pytest.mark.parametrize('size', [(9, 16), (14, 16), (29, 16), (55, 64), (129, 16)])
def test_size_of_the_picture_is_that_of_the_reference(size):
    expected = tuple(((n // 2 - 1) // 2) - 1 for n in size)  # floor(floor(n / 2 - 1) / 2 - 1)
    assert picture_size(*size) == expected


def test_conv_falls_back_where_nothing_is_left_of_the_picture():
    assert resolve_projection('conv', 9, 16) == 'linear_flatten'  # California with [REG]
    assert resolve_projection('conv', 14, 16) == 'conv'
    assert resolve_projection('max_pool', 9, 16) == 'max_pool'
    with pytest.raises(ValueError, match='10 x 10 is the least'):
        PROJECTIONS['conv'](9, 16)
    with pytest.raises(ValueError, match="no projection 'flat'; there are linear_flatten"):
        resolve_projection('flat', 9, 16)
