"""Tokens against the formulas of the method."""

import math

import pytest
import torch
from torch.testing import assert_close

from projects.t_jepa.t_jepa.tokenizer import FeatureTokenizer, sincos_table

NUMERIC, CARDINALITIES, H, R = 3, (4, 3), 6, 2


def tokenizer(**options):
    torch.manual_seed(0)
    options = dict(num_numeric=NUMERIC, cardinalities=CARDINALITIES, num_reg=R) | options
    return FeatureTokenizer(channels=H, **options)


def rows(count=5):
    numbers = torch.randn(count, NUMERIC)
    codes = [torch.randint(1, n, (count, 1)).float() for n in CARDINALITIES]
    return torch.cat([numbers, *codes], 1)


@torch.no_grad()
def test_tokens_follow_the_formulas():
    """One row after the other, one feature after the other."""
    made, x = tokenizer(), rows()
    tokens = made(x)
    assert tokens.shape == (5, R + 5, H)
    for row, found in zip(x, tokens, strict=True):
        wanted = [made.weight[r] for r in range(R)]
        for j in range(NUMERIC):
            wanted.append(row[j] * made.weight[R + j] + made.bias[j])
        start = 0
        for k, count in enumerate(CARDINALITIES):
            code = int(row[NUMERIC + k])
            wanted.append(made.categories[start + code] + made.bias[NUMERIC + k])
            start += count
        for place, token in enumerate(wanted):
            for i in range(H // 2):
                angle = place / 100 ** (2 * i / H)
                token = token.clone()
                token[2 * i] += math.sin(angle)
                token[2 * i + 1] += math.cos(angle)
            assert_close(found[place], token)


def test_codes_that_are_none_of_their_column_are_refused():
    made, x = tokenizer(), rows(1)
    for code in (-1, CARDINALITIES[0], 1e6):
        x[0, NUMERIC] = code
        with pytest.raises(ValueError, match='categorical column 0, whose cardinality is'):
            made(x)
    x[0, NUMERIC] = CARDINALITIES[0] - 1
    assert made(x).isfinite().all()


@torch.no_grad()
def test_initial_values():
    made = FeatureTokenizer(500, [2000], 64)
    for parameter in (made.weight, made.bias):
        assert parameter.abs().max() <= 1 / 8
        assert_close(float(parameter.std()), 1 / 8 / 3**0.5, rtol=0.02, atol=0)
    assert_close(float(made.categories.std()), 0.02, rtol=0.02, atol=0)
    assert made.weight.shape == (501, 64) and made.bias.shape == (501, 64)


@torch.no_grad()
def test_embeddings_of_index_and_type():
    torch.manual_seed(1)
    x = rows()
    plain = tokenizer()(x)
    made = tokenizer(feature_index_embedding=True, feature_type_embedding=True)
    extra = made(x) - plain
    assert_close(extra[:, :R], torch.zeros(5, R, H))
    kinds = torch.tensor([0, 0, 0, 1, 1])
    wanted = made.index_embedding + made.type_embedding[kinds]
    assert_close(extra[:, R:], wanted.expand(5, -1, -1), atol=1e-6, rtol=0)


def test_every_parameter_gets_a_gradient():
    made = tokenizer(feature_index_embedding=True, feature_type_embedding=True)
    made(rows()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


@pytest.mark.parametrize(('numeric', 'cardinalities'), [(3, ()), (0, (3, 2))])
def test_one_kind_of_columns_alone(numeric, cardinalities):
    made = tokenizer(num_numeric=numeric, cardinalities=cardinalities, num_reg=0)
    assert made(torch.ones(2, made.num_features)).shape == (2, made.num_features, H)
    assert (made.categories is None) == (not cardinalities)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match='reads 5 columns'):
        tokenizer()(torch.zeros(2, 4))
    with pytest.raises(ValueError, match='even'):
        sincos_table(3, 5, 100.0, True)
    for options in (dict(num_numeric=-1), dict(num_numeric=0, cardinalities=()), dict(num_reg=-1)):
        with pytest.raises(ValueError, match='a table has features'):
            tokenizer(**options)
    with pytest.raises(ValueError, match='unknown category'):
        tokenizer(cardinalities=(1,))
