import math

import pytest
import torch

from mmjepa.evaluation.functional import (
    covariance_spectrum,
    effective_rank,
    feature_std,
    within_share,
)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_effective_rank_of_isotropic_data_is_the_dimension():
    # orthonormal columns: all singular values equal, so exactly d
    q, _ = torch.linalg.qr(gaussian(200, 16).double())
    assert effective_rank(q, center=False).item() == pytest.approx(16, abs=1e-4)
    assert effective_rank(gaussian(20000, 16)).item() == pytest.approx(16, rel=0.01)


def test_effective_rank_of_a_line_is_one_and_centring_matters():
    line = gaussian(100, 1) * gaussian(1, 32, seed=1)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-4)
    shifted = line + 50 * gaussian(1, 32, seed=2)
    assert effective_rank(shifted).item() == pytest.approx(1, abs=1e-2)
    assert effective_rank(shifted, center=False).item() > 1.0001


def test_effective_rank_closed_form_for_two_directions():
    # squared singular values 3 : 1
    x = torch.zeros(4, 8)
    x[:2, 0] = torch.tensor([1.0, -1.0]) * math.sqrt(3)
    x[2:, 1] = torch.tensor([1.0, -1.0])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(x).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('shape', [(300, 20), (20, 300)])
def test_effective_rank_equals_the_svd_definition(shape):
    x = gaussian(*shape) * torch.linspace(0.1, 3, shape[1])
    values = torch.linalg.svdvals((x - x.mean(0)).double()).square()
    share = values / values.sum()
    expected = torch.exp(-torch.special.xlogy(share, share).sum())
    assert effective_rank(x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_effective_rank_of_constant_rows_ignores_rounding_noise():
    rows = gaussian(1, 64).expand(100, 64) * (1 + 1e-7 * gaussian(100, 64, seed=1))
    assert effective_rank(rows).item() == 1
    # spread well above rounding is counted
    assert effective_rank(gaussian(1, 64) + 1e-3 * gaussian(1000, 64, seed=1)).item() > 50


def test_effective_rank_without_rows_or_with_nan_is_nan():
    assert torch.isnan(effective_rank(torch.zeros(0, 4)))
    assert torch.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))
    with pytest.raises(ValueError, match='shape'):
        effective_rank(torch.zeros(4))


def test_effective_rank_takes_bf16_and_carries_no_graph():
    x = gaussian(500, 8).bfloat16().requires_grad_()
    rank = effective_rank(x)
    assert not rank.requires_grad
    assert rank.dtype == torch.float32
    assert rank.item() == pytest.approx(8, rel=0.05)


def test_feature_std_values():
    assert feature_std(gaussian(20000, 64)).item() == pytest.approx(1, abs=0.02)
    # rows of one direction and any length collapse to a point on the sphere
    assert feature_std(gaussian(100, 1).abs() * gaussian(1, 64, seed=1)).item() < 1e-5
    # +-e1: std of one dimension is sqrt(n/(n-1)), the other is 0; mean * sqrt(2)
    x = torch.tensor([[3.0, 0.0], [-5.0, 0.0]])
    assert feature_std(x).item() == pytest.approx(math.sqrt(2) / 2 * math.sqrt(2))
    assert torch.isnan(feature_std(torch.ones(1, 4)))


def test_covariance_spectrum_closed_form():
    x = torch.zeros(4, 3)
    x[:2, 0] = torch.tensor([1.0, -1.0]) * math.sqrt(3)
    x[2:, 1] = torch.tensor([1.0, -1.0])
    s = covariance_spectrum(x)
    assert torch.allclose(s.singular_values, torch.tensor([2, 2 / 3, 0]).double(), atol=1e-6)
    assert torch.allclose(s.explained, torch.tensor([0.75, 1, 1]).double())
    assert s.auc.item() == pytest.approx(2.75 / 3)
    assert s.off_diagonal.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize('shape', [(200, 6), (6, 20)])
def test_off_diagonal_share_against_the_covariance(shape):
    x = gaussian(*shape) @ gaussian(shape[1], shape[1], seed=3)
    cov = torch.cov(x.T.double())
    expected = 1 - cov.diagonal().square().sum() / cov.square().sum()
    assert covariance_spectrum(x).off_diagonal.item() == pytest.approx(expected.item(), rel=1e-6)


def test_covariance_spectrum_refuses_what_has_none():
    with pytest.raises(ValueError, match='equal'):
        covariance_spectrum(torch.ones(5, 3))
    with pytest.raises(ValueError, match='two feature rows'):
        covariance_spectrum(torch.ones(1, 3))
    with pytest.raises(ValueError, match='finite'):
        covariance_spectrum(torch.full((3, 3), math.nan))


def test_share_of_the_variance_within_groups():
    rng = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 5, (60,), generator=rng)
    means = 3 * torch.randn(5, 4, generator=rng)
    assert within_share(means[groups], groups) < 1e-6  # all rows of a group are one
    x = means[groups] + torch.randn(60, 4, generator=rng)
    own = torch.stack([x[groups == g].mean(0) for g in groups])
    wanted = (x - own).square().sum() / (x - x.mean(0)).square().sum()
    torch.testing.assert_close(within_share(x, groups), wanted)
    torch.testing.assert_close(within_share(x, 1000 * groups + 7), wanted)  # any numbers do
    centred = x - own
    torch.testing.assert_close(within_share(centred, groups), torch.tensor(1.0))
    with pytest.raises(ValueError, match='60 rows'):
        within_share(x, groups[:9])
