"""Early-stopped training in memory, and the figures."""

import copy
import math

import pytest
import torch
from torch import nn

from projects.t_jepa.t_jepa import training
from projects.t_jepa.t_jepa.training import (
    Budget,
    TargetScale,
    loss_of,
    metrics_of,
    outputs_of,
    predict,
    train,
)


def table(task, count=400, seed=0):
    """Rows (N, 4) and targets that follow from them."""
    rows = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    score = rows @ torch.tensor([1.0, -2.0, 0.5, 0.0])
    if task == 'regression':
        return rows, score / score.std()
    return rows, (score > 0).long() if task == 'binclass' else (score > 1).long() + (score > -1)


@pytest.mark.parametrize('task', ['binclass', 'multiclass', 'regression'])
def test_learns_each_task(task):
    rows, targets = table(task)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, outputs_of(task, 3)))
    fit = train(net, task, rows[:300], targets[:300], rows[300:], targets[300:], 1e-2,
                budget=Budget(64, 30, 30))  # fmt: skip
    outputs = predict(net, rows[300:])
    scale = TargetScale(0.0, 2.0) if task == 'regression' else None
    found = metrics_of(task, outputs, targets[300:], scale)
    assert found['rmse'] < 0.1 if task == 'regression' else found['accuracy'] > 93
    # the best weights were put back
    assert float(loss_of(task)(outputs, targets[300:])) == pytest.approx(fit.val_loss, rel=1e-6)
    assert 1 <= fit.best_epoch <= fit.epochs == 30


def test_ends_after_patience_and_restores_the_best_weights():
    rows, _ = table('regression', 64)
    net = nn.Linear(4, 1)
    with torch.no_grad():  # perfect on the validation part: any step makes it worse
        net.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.0]]))
        net.bias.zero_()
    noise = torch.randn(64)
    val = (rows @ net.weight[0]).detach()
    before = copy.deepcopy(net.state_dict())
    fit = train(net, 'regression', rows, noise, rows, val, 0.1, budget=Budget(32, 50, 3))
    assert fit.epochs == fit.best_epoch + 3 < 50
    assert float(loss_of('regression')(predict(net, rows), val)) == pytest.approx(fit.val_loss)
    assert not torch.equal(net.weight, before['weight'])


def test_cosine_goes_over_the_full_length_and_every_row_is_seen(monkeypatch):
    made = []

    class Spy(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.rates = []
            made.append(self)

        def step(self, *args, **kwargs):
            self.rates.append(self.param_groups[0]['lr'])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(training.torch.optim, 'AdamW', Spy)
    rows, targets = table('regression', 100)
    train(nn.Linear(4, 1), 'regression', rows, targets, rows, targets, 1e-2,
          weight_decay=0.1, budget=Budget(32, 10, 10))  # fmt: skip
    (optimizer,) = made
    expected = [1e-2 * (1 + math.cos(math.pi * i / 40)) / 2 for i in range(40)]  # 4 steps an epoch
    assert optimizer.rates == pytest.approx(expected, abs=1e-9)
    decays = {len(g['params'][0].shape): g['weight_decay'] for g in optimizer.param_groups}
    assert decays == {2: 0.1, 1: 0.0}


def test_no_batch_of_one_row_meets_batch_norm():
    rows, targets = table('regression', 65)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    fit = train(net, 'regression', rows, targets, rows, targets, 1e-2, budget=Budget(64, 2, 2))
    assert fit.epochs == 2


def test_same_seed_same_weights_and_another_seed_others():
    rows, targets = table('binclass', 100)

    def trained(seed):
        torch.manual_seed(0)
        net = nn.Linear(4, 1)
        train(net, 'binclass', rows, targets, rows, targets, 1e-2, budget=Budget(16, 3, 3),
              seed=seed)  # fmt: skip
        return net.weight.detach()

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))


def test_bad_settings_and_losses_are_refused():
    rows, targets = table('regression', 20)
    with pytest.raises(ValueError, match='20 rows to train and 0 to validate on'):
        train(nn.Linear(4, 1), 'regression', rows, targets, rows[:0], targets[:0], 1e-2)
    with pytest.raises(ValueError, match='at least 1'):
        Budget(patience=0)
    with pytest.raises(RuntimeError, match='validation loss .* after epoch 1: a smaller learning'):
        train(nn.Linear(4, 1), 'regression', rows, targets * math.inf, rows, targets, 1e-2)
    with pytest.raises(ValueError, match='nothing to learn'):
        TargetScale.of(torch.full((5,), 3.0))


def test_rmse_is_over_the_whole_set_and_in_both_units():
    scale = TargetScale.of(torch.tensor([10.0, 20.0, 30.0]))
    assert (scale.mean, scale.std) == (20, pytest.approx((200 / 3) ** 0.5))
    targets = scale.standardise(torch.tensor([20.0, 20.0, 20.0, 30.0]))
    outputs = scale.standardise(torch.tensor([20.0, 20.0, 20.0, 10.0]))[:, None]
    found = metrics_of('regression', outputs, targets, scale)
    # a mean of errors of batches of one would be 5
    assert found['rmse_unit'] == pytest.approx(10)
    assert found['rmse'] == pytest.approx(10 / scale.std)


def test_accuracy():
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0]])
    assert metrics_of('binclass', logits, torch.tensor([1, 1, 1, 0])) == dict(accuracy=75)
    scores = torch.eye(3)
    assert metrics_of('multiclass', scores, torch.tensor([0, 1, 1]))['accuracy'] == (
        pytest.approx(200 / 3)
    )
    with pytest.raises(ValueError, match='needs the scale'):
        metrics_of('regression', logits, torch.zeros(4))
