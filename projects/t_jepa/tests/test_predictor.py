"""The predictor: size, positions, sets by themselves."""

import math

import pytest
import torch
from torch.testing import assert_close

from projects.t_jepa.t_jepa.predictor import TabularPredictor

D, H, P = 9, 12, 8


def predictor(**options):
    torch.manual_seed(0)
    sizes = dict(channels=P, depth=2, num_heads=2, ffn_channels=16)
    return TabularPredictor(D, H, **sizes | options)


def case(batch=3, seen=4, sets=2, hidden=3):
    order = torch.stack([torch.randperm(D) for _ in range(batch)])
    rest = order[:, seen:]
    targets = torch.stack([rest[:, torch.randperm(D - seen)[:hidden]] for _ in range(sets)], 1)
    return torch.randn(batch, seen, H), order[:, :seen], targets


def test_number_of_parameters():
    made = TabularPredictor(54, 64, channels=16, depth=16, num_heads=4, ffn_channels=256)
    assert sum(p.numel() for p in made.parameters()) == 156_368


def test_positions():
    table = predictor().positions
    for place in range(D):
        for i in range(P // 2):
            angle = place / 10_000 ** (2 * i / P)
            assert_close(float(table[place, i]), math.sin(angle), atol=1e-6, rtol=0)
            assert_close(float(table[place, P // 2 + i]), math.cos(angle), atol=1e-6, rtol=0)


@torch.no_grad()
def test_context_is_a_set():
    made, (context, ids, targets) = predictor(), case()
    order = torch.randperm(4)
    prediction = made(context, ids, targets)
    assert prediction.shape == (3, 2, 3, H)
    assert_close(made(context[:, order], ids[:, order], targets), prediction)
    # but its features are told apart
    assert not torch.allclose(made(context, ids[:, order], targets), prediction)


@torch.no_grad()
def test_sets_are_predicted_by_themselves():
    """Each row and set as if it were alone, in any order of its features."""
    made, (context, ids, targets) = predictor(), case()
    prediction = made(context, ids, targets)
    for b in range(3):
        for k in range(2):
            alone = made(context[b : b + 1], ids[b : b + 1], targets[b : b + 1, k : k + 1])
            assert_close(alone[0, 0], prediction[b, k])
    order = torch.randperm(3)
    assert_close(made(context, ids, targets[..., order]), prediction[:, :, order])


def test_every_parameter_gets_a_gradient():
    made = predictor()
    made(*case()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match='even'):
        predictor(channels=7, num_heads=1)
