"""Moments of the generative processes, and batches that have them."""

import numpy as np
import pytest
import torch
from linear_cases import LAM, RHO
from scipy.signal import lfilter

from projects.linear_jepa.linear_jepa import (
    LinearProcessDataset,
    direct_process,
    mixed_process,
    static_process,
    temporal_process,
)

AR1 = dict(gamma=(0.95, 0.9, 0.5, 0.3), signal=(1, 1, 4, 6), noise=(0.05, 0.05, 0.5, 0.5))
PROCESSES = [
    direct_process(LAM, RHO),
    static_process((1.0, 2.0), (0.5, 0.0)),
    temporal_process(**AR1),
    mixed_process((0.9, 0.5, 0.2)),
]


@pytest.mark.parametrize('process', PROCESSES)
def test_the_exact_batch_has_the_moments(process):
    batch = process.exact_batch
    assert batch.shape == (2 * process.dim, 2 * process.dim)
    np.testing.assert_allclose(batch.T @ batch / len(batch), process.joint, atol=1e-13)
    drawn = process.sample(200_000, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), process.joint, atol=0.06)


@pytest.mark.parametrize('process', PROCESSES)
def test_rho_are_the_eigenvalues_of_the_regression(process):
    regression = process.syx @ np.linalg.inv(process.sxx)
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvals(regression).real), np.sort(process.rho), atol=1e-9
    )


def test_features_in_a_random_basis():
    for process in PROCESSES[:3]:
        for moment, values in (
            (process.syx, process.lam),
            (process.sxx, process.lam / process.rho),
        ):
            inner = process.basis.T @ moment @ process.basis
            np.testing.assert_allclose(inner, np.diag(values), atol=1e-12)


def test_formulas():
    static = static_process((1.0, 2.0), (0.5, 0.0))
    np.testing.assert_allclose(static.rho, (1 / 1.5, 1.0))
    np.testing.assert_allclose(static.lam, (1.0, 2.0))
    moving = temporal_process(**AR1)
    np.testing.assert_allclose(moving.lam, (0.95, 0.9, 2.0, 1.8))
    np.testing.assert_allclose(moving.rho, (0.905, 0.857, 0.444, 0.277), atol=5e-4)
    later = temporal_process(**AR1, lag=3)
    np.testing.assert_allclose(later.lam, np.array(AR1['gamma']) ** 3 * AR1['signal'])


@pytest.mark.parametrize('lag', [1, 4])
def test_a_simulated_chain_has_these_moments(lag):
    rng, steps = np.random.default_rng(0), 400_000
    process = temporal_process(**AR1, lag=lag, seed=None)
    for i, (gamma, signal, noise) in enumerate(zip(*AR1.values(), strict=True)):
        kicks = rng.standard_normal(steps) * np.sqrt((1 - gamma**2) * signal)
        chain = lfilter([1.0], [1.0, -gamma], kicks)
        x = chain[:-lag] + rng.standard_normal(steps - lag) * np.sqrt(noise)
        y = chain[lag:] + rng.standard_normal(steps - lag) * np.sqrt(noise)
        assert np.mean(x * x) == pytest.approx(process.sxx[i, i], rel=0.03)
        assert np.mean(x * y) == pytest.approx(process.lam[i], rel=0.03, abs=0.02 * signal)


def test_mixing_moves_lambda_but_not_rho():
    first, second = mixed_process((0.9, 0.5), seed=0), mixed_process((0.9, 0.5), seed=1)
    assert not np.allclose(first.syx, second.syx)
    assert first.basis is None and first.lam is None


def test_what_cannot_be_is_an_error():
    with pytest.raises(ValueError, match='no pair of views'):
        direct_process((1.0,), (1.2,))
    with pytest.raises(ValueError, match='rho must be positive'):
        direct_process((1.0,), (0.0,))
    with pytest.raises(ValueError, match='must be positive'):
        direct_process((-1.0,), (0.5,))
    with pytest.raises(ValueError, match='lam: 2, rho: 3'):
        direct_process((1.0, 2.0), RHO)
    with pytest.raises(ValueError, match='gamma must lie'):
        temporal_process((1.2,))
    with pytest.raises(TypeError):
        direct_process(LAM, RHO, sigma=1)


def test_data_set():
    process = direct_process(LAM, RHO)
    exact = LinearProcessDataset(process, length=12)
    rows = torch.stack([exact[(i, 7)]['inputs']['pairs'] for i in range(12)]).numpy()
    np.testing.assert_allclose(rows.T @ rows / 12, process.joint, atol=1e-13)
    exact.check_batch(12)
    with pytest.raises(ValueError, match='multiples of 6'):
        exact.check_batch(8)
    with pytest.raises(ValueError, match='6 exact rows'):
        LinearProcessDataset(process, length=10)
    fresh = LinearProcessDataset(process, exact=False, length=10)
    fresh.check_batch(8)
    first, again, other = (fresh[(i, s)]['inputs']['pairs'] for i, s in ((0, 1), (3, 1), (0, 2)))
    assert torch.equal(first, again) and not torch.equal(first, other)
