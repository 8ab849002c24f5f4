"""LARS by hand."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmjepa.engine import LARS


def test_two_steps_by_hand():
    weight, bias = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.tensor([1.0]))
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.9, weight_decay=0.1, trust=0.01)
    weight.grad, bias.grad = torch.tensor([[0.6, 0.8]]), torch.tensor([2.0])
    optimizer.step()
    # gradient and weight decay point the same way: (0.9, 1.2), of length 1.5; the weight has 5
    first = torch.tensor([[0.9, 1.2]]) * 0.01 * 5 / 1.5
    expected = torch.tensor([[3.0, 4.0]]) - 0.5 * first
    torch.testing.assert_close(weight.data, expected)
    torch.testing.assert_close(bias.data, torch.tensor([0.0]))  # plain, without decay
    weight.grad, bias.grad = torch.tensor([[0.0, 0.0]]), torch.tensor([0.0])
    own = expected.norm()
    step = 0.1 * expected * 0.01 * own / (0.1 * own)
    optimizer.step()
    torch.testing.assert_close(weight.data, expected - 0.5 * (0.9 * first + step))
    torch.testing.assert_close(bias.data, torch.tensor([-0.9]))


def test_steps_are_in_proportion_to_weights_whatever_the_gradient():
    lengths = []
    for scale in (1e-3, 1.0, 1e3):
        weight = nn.Parameter(torch.ones(2, 2))
        weight.grad = scale * torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        LARS([weight], lr=1.0, trust=0.1).step()
        lengths.append(float((weight.data - 1).norm()))
    assert lengths == pytest.approx([0.2] * 3)
    zero = nn.Parameter(torch.zeros(2, 2))
    zero.grad = torch.ones(2, 2)
    LARS([zero], lr=1.0).step()  # from zero on, plain steps
    assert torch.equal(zero.data, -torch.ones(2, 2))


def test_by_name_and_state():
    model = nn.Linear(2, 2)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='mmjepa.LARS', lr=0.1)))
    for _ in range(2):
        wrapper.update_params(model(torch.ones(1, 2)).square().sum())
    state = wrapper.state_dict()
    other = LARS(nn.Linear(2, 2).parameters(), lr=0.1)
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()['state'][0]['momentum'], state['state'][0]['momentum'])
