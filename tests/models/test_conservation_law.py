"""A law of deep linear networks as a test of the target: exact only without gradient through it.

Gradient flow of 1/2 E|V W_L ... W_1 x - target|^2 keeps W_(a+1)^T W_(a+1) - W_a W_a^T of all layers
and V^T V - W_L W_L^T, whatever the data, as long as the target gets no gradient.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.models.targets import TargetEncoder

DIM, TIME = 4, 20.0


class TwoViews(BaseJEPA):
    """The smallest method: guesses the target of y from x."""

    def extract_feat(self, inputs):
        return self.encoder(inputs['x'])

    def loss(self, inputs, data_samples=None):
        target = self.target(self.encoder, inputs['y'])
        error = self.predictor(self.encoder(inputs['x'])) - target
        return dict(loss=0.5 * error.square().sum(1).mean())


def linear(generator):
    layer = nn.Linear(DIM, DIM, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.weight, std=0.3, generator=generator)
    return layer


def method(policy):
    generator = torch.Generator().manual_seed(1)
    encoder = nn.Sequential(*(linear(generator) for _ in range(3)))
    transform = nn.Identity() if policy == 'data' else None
    return TwoViews(encoder, TargetEncoder(policy, transform=transform), linear(generator))


def views():
    """Correlated views without a common basis."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, DIM, generator=generator, dtype=torch.float64)
    mixing = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64) / DIM**0.5
    noise = torch.randn(64, DIM, generator=generator, dtype=torch.float64)
    return dict(x=x, y=x @ mixing + 0.5 * noise)


def laws(model):
    """Gaps of the layers, that of encoder and predictor last."""
    weights = [layer.weight.detach() for layer in (*model.encoder, model.predictor)]
    return [b.T @ b - a @ a.T for a, b in pairwise(weights)]


def drift(policy, lr):
    """Largest change of each law over TIME, and how far the weights went."""
    model, inputs = method(policy), views()
    start, first = laws(model), model.encoder[0].weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    hook = TargetUpdateHook((1 - lr, 1 - lr), 'constant')  # a lag of one unit of time
    hook.attach(model, optimizer)
    for _ in range(int(TIME / lr)):
        optimizer.zero_grad()
        model.loss(inputs)['loss'].backward()
        optimizer.step()
        if policy == 'ema':
            hook.update(hook.momentum_at(0, 1))
    moved = (model.encoder[0].weight.detach() - first).abs().max()
    ends = laws(model)
    return [float((b - a).abs().max()) for a, b in zip(start, ends, strict=True)], float(moved)


@pytest.mark.parametrize('policy', ['stop_grad', 'ema', 'frozen', 'data'])
def test_kept_without_gradient_through_the_target(policy):
    """Up to the error of finite steps, which halves with them."""
    coarse, moved = drift(policy, 0.04)
    fine, _ = drift(policy, 0.02)
    assert moved > 0.05  # something was learned meanwhile
    assert max(fine) < 1e-2
    for big, small in zip(coarse, fine, strict=True):
        assert small < 0.7 * big


@pytest.mark.filterwarnings('ignore:.*negative control')
def test_broken_by_gradient_through_the_target():
    """Only where encoder and predictor meet: the target's gradient bypasses the predictor."""
    coarse, _ = drift('online_grad', 0.04)
    fine, _ = drift('online_grad', 0.02)
    assert fine[-1] > 0.05
    assert fine[-1] == pytest.approx(coarse[-1], rel=0.05)  # not an error of the steps
    assert max(fine[:-1]) < 1e-2
