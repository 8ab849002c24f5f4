import pytest
import torch

from mmjepa.evaluation.functional import (
    fit_linear,
    fit_linear_selected,
    split_by_group,
    standardisation,
)


def blobs(counts, seed=0, dim=6, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(len(counts), dim, generator=torch.Generator().manual_seed(7))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return centres[labels] + spread * torch.randn(len(labels), dim, generator=g), labels


def test_fit_linear_equals_sklearn():
    linear_model = pytest.importorskip('sklearn.linear_model')
    x, y = blobs([60, 50, 20])
    mean, std = standardisation(x)
    l2 = 0.05
    # sklearn: sum of weighted losses + 1/(2C) |w|^2; ours: weighted mean, so C = 1/(l2 * sum w)
    reference = linear_model.LogisticRegression(
        C=1 / (l2 * len(y)), class_weight='balanced', max_iter=2000, tol=1e-8
    ).fit(((x - mean) / std).double().numpy(), y.numpy())
    probe = fit_linear(x, y, 3, l2=l2, max_iter=500)
    weight = probe.weight - probe.weight.mean(0)  # the unpenalised gauge of softmax
    expected = torch.from_numpy(reference.coef_).float()
    assert torch.allclose(weight, expected - expected.mean(0), atol=2e-3)


def test_class_balance_protects_the_rare_class():
    x, y = blobs([900, 10], dim=2, spread=2.5)
    balanced = fit_linear(x, y, 2, l2=1e-3)
    plain = fit_linear(x, y, 2, l2=1e-3, balanced=False)

    def rare_recall(probe):
        return (probe.predict(x)[y == 1] == 1).float().mean()

    assert rare_recall(balanced) > rare_recall(plain)


def test_scale_of_the_features_does_not_matter():
    x, y = blobs([40, 40, 40])
    scaled = x * torch.logspace(-3, 3, x.shape[1]) + 5
    assert torch.equal(fit_linear(x, y, 3).predict(x), fit_linear(scaled, y, 3).predict(scaled))


def test_constant_channel_is_harmless():
    x, y = blobs([40, 40])
    x = torch.cat([x, torch.full((80, 1), 0.1)], dim=1)
    probe = fit_linear(x, y, 2)
    assert probe.logits(x).isfinite().all()
    assert probe.std[-1] == 1


def test_split_keeps_groups_whole():
    groups = torch.arange(10).repeat_interleave(7)
    held = split_by_group(groups, 0.2, seed=3)
    assert held.sum() == 14
    assert not set(groups[held].tolist()) & set(groups[~held].tolist())
    assert torch.equal(held, split_by_group(groups, 0.2, seed=3))
    with pytest.raises(ValueError, match='two groups'):
        split_by_group(torch.zeros(4).long(), 0.2, seed=0)


def test_penalty_is_chosen_on_held_out_groups():
    # many noise channels, few samples: the weak penalty overfits
    g = torch.Generator().manual_seed(1)
    y = torch.arange(2).repeat(30)
    x = torch.randn(60, 200, generator=g)
    x[:, 0] += 1.5 * (2 * y - 1)
    probe = fit_linear_selected(x, y, torch.arange(60) // 2, 2, l2_choices=(1e-6, 1e6), seed=0)
    assert probe.l2 in (1e-6, 1e6)
    scores = {}
    held = split_by_group(torch.arange(60) // 2, 0.2, 0)
    for l2 in (1e-6, 1e6):
        fitted = fit_linear(x[~held], y[~held], 2, l2)
        scores[l2] = (fitted.predict(x[held]) == y[held]).float().mean().item()
    assert probe.l2 == max(scores, key=scores.get)


@pytest.mark.parametrize(
    ('feats', 'labels', 'message'),
    [
        (torch.zeros(0, 3), torch.zeros(0).long(), 'N > 0'),
        (torch.full((2, 3), float('nan')), torch.tensor([0, 1]), 'finite'),
    ],
)
def test_fit_linear_refuses_bad_input(feats, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_linear(feats, labels, 2)
