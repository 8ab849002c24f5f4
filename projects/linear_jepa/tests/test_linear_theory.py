"""Closed forms against quadrature, ODE solvers and the reference's figures."""

import numpy as np
import pytest
from linear_cases import LAM, RHO
from scipy.integrate import quad

from projects.linear_jepa.linear_jepa import theory
from projects.linear_jepa.linear_jepa.figures import smallest_epsilon
from projects.linear_jepa.linear_jepa.flow import scalar_flow

OBJECTIVES = ('jepa', 'mae')


@pytest.mark.parametrize('objective', OBJECTIVES)
@pytest.mark.parametrize('depth', [1, 2, 3, 5])
def test_time_equals_the_integral(objective, depth):
    lam, rho, u0 = 0.7, 0.6, 0.1
    end = theory.layer_limit(rho, depth, objective)
    for u in (0.2, 0.5 * end, 0.999 * end):

        def slowness(u):
            if objective == 'jepa':
                return 1 / (lam * u ** (2 * depth) * (1 - u / rho))
            return 1 / (lam * u**depth * (1 - u ** (depth + 1) / rho))

        wanted = quad(slowness, u0, u, epsabs=0, epsrel=1e-13, limit=200)[0]
        found = theory.time_of(u, u0, depth, lam, rho, objective)
        assert found == pytest.approx(wanted, rel=1e-10)


def test_shrinking_towards_the_limit():
    """A JEPA that starts above rho comes down to it."""
    rho, u0, depth = 0.5, 0.9, 2
    wanted = quad(lambda u: 1 / (u ** (2 * depth) * (1 - u / rho)), u0, 0.6)[0]
    assert theory.time_of(0.6, u0, depth, 1, rho, 'jepa') == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize('objective', OBJECTIVES)
def test_amplitude_is_the_inverse_and_rises(objective):
    times = np.linspace(0, 400, 60) if objective == 'jepa' else np.linspace(0, 20, 60)
    found = theory.amplitude_at(times, 0.25, 3, 1.0, 0.6, objective)
    assert (np.diff(found) >= 0).all()
    wanted = scalar_flow(times, 0.25, 3, 1.0, 0.6, objective)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_all_curves_of_a_jepa_are_one(depth):
    shares = np.linspace(0.3, 0.99, 20)
    curves = [
        theory.time_of(shares * rho, 0.2 * rho, depth, lam, rho, 'jepa')
        * lam * rho ** (2 * depth - 1)
        for lam, rho in ((1, 0.5), (3, 0.9), (0.1, 0.2))
    ]  # fmt: skip
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-12)
    np.testing.assert_allclose(curves[2], curves[0], rtol=1e-12)


@pytest.mark.parametrize(
    ('depth', 'u0', 'objective', 'wanted'),
    [
        (3, 0.25, 'jepa', (461.72271, 408.39084, 384.96230)),
        (3, 0.25, 'mae', (7.33909, 8.27740, 9.41631)),
        (2, 0.1, 'jepa', (464.6185, 470.1958, 495.8173)),
        (2, 0.1, 'mae', (8.58109, 9.70381, 11.07151)),
        (1, 0.01, 'jepa', (103.78364, 114.65731, 128.34644)),
        (1, 0.01, 'mae', (3.70919, 4.30828, 5.03771)),
    ],
)
def test_regression_values(depth, u0, objective, wanted):
    found = theory.critical_time(0.5, u0**depth, depth, LAM, RHO, objective)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)
    paper = theory.critical_time(0.5, u0**depth, depth, LAM, RHO, objective, 'paper')
    np.testing.assert_allclose(paper, depth * found)


def test_depth_sweep():
    """Two equally strong features, rho 0.4 and 0.8, from 1e-4: how much later the first one is."""
    wanted = {
        1: (1.0007, 0.9595), 2: (1.0198, 0.9968), 3: (1.0867, 0.9991), 4: (1.2118, 0.9997),
        5: (1.4170, 1.0000), 6: (1.7562, 1.0001), 8: (3.1691, 1.0003),
    }  # fmt: skip
    for depth, ratios in wanted.items():
        for objective, ratio in zip(OBJECTIVES, ratios, strict=True):
            late, early = theory.critical_time(0.5, 1e-4, depth, 1, (0.4, 0.8), objective)
            assert round(late / early, 4) == ratio


def test_depth_does_little_at_a_fixed_scale_of_layers():
    for depth, wanted in ((2, 1.22), (3, 1.24), (5, 1.20), (8, 1.18)):
        late, early = theory.critical_time(0.5, 0.1**depth, depth, 1, (0.4, 0.8), 'jepa')
        assert round(late / early, 2) == wanted


def test_figure_two_of_the_paper():
    """Both objectives prefer covariance, a JEPA alone prefers predictability."""
    values = dict(
        jepa=((91571.6, 45785.8, 22892.9, 11446.4), (38807.4, 26853.3, 24072.8, 22892.9)),
        mae=((198.29, 99.14, 49.57, 24.79), (49.134, 49.392, 49.505, 49.572)),
    )
    for objective, (by_lam, by_rho) in values.items():
        found = theory.critical_time(0.5, 1e-3, 3, (0.25, 0.5, 1, 2), 1.0, objective)
        np.testing.assert_allclose(found, by_lam, rtol=2e-4)
        found = theory.critical_time(0.5, 1e-3, 3, 1.0, (0.25, 0.5, 0.75, 1), objective)
        np.testing.assert_allclose(found, by_rho, rtol=2e-5)


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_slopes(depth):
    for objective, steep in (('jepa', -(2 * depth - 1) / depth), ('mae', -(depth - 1) / depth)):
        low, high = theory.critical_time(0.5, (1e-8, 1e-6), depth, 1, 0.5, objective)
        slope = np.log(low / high) / np.log(1e-2)
        wanted = steep if (depth, objective) != (1, 'mae') else -0.066  # a logarithm
        assert slope == pytest.approx(wanted, abs=6e-3)
        assert theory.slope(depth, objective) == pytest.approx(steep)


def test_series():
    ratios = dict(jepa=(1.0013, 1.00003, 0.99999), mae=(0.903, 0.986, 0.9974))
    for objective, wanted in ratios.items():
        for depth, ratio in enumerate(wanted, 1):
            exact = theory.critical_time(0.5, 1e-4, depth, 1, 0.5, objective)
            found = exact / theory.series(1e-4, depth, 1, 0.5, objective)
            assert found == pytest.approx(ratio, abs=6e-4 if objective == 'mae' else 6e-5)


def test_order_turns_round_with_depth_and_with_epsilon():
    """It is not unconditional: lambda decides as epsilon goes to 0."""
    for depth, wanted in ((1, [1, 2, 3]), (2, [1, 2, 3]), (3, [3, 2, 1]), (4, [3, 2, 1])):
        found = theory.critical_time(0.5, 1e-2, depth, LAM, RHO, 'jepa')
        assert theory.order(found) == wanted
        assert theory.order(theory.critical_time(0.5, 1e-2, depth, LAM, RHO, 'mae')) == [1, 2, 3]
        assert theory.order(theory.critical_time(0.5, 1e-8, depth, LAM, RHO, 'jepa')) == [1, 2, 3]
    assert np.isnan(smallest_epsilon(LAM, RHO, 2))
    for depth, epsilon in ((3, 5.8e-3), (4, 1.3e-3), (5, 3.0e-4), (6, 7.2e-5), (8, 3.7e-6)):
        assert smallest_epsilon(LAM, RHO, depth) == pytest.approx(epsilon, rel=0.05)


def test_temporal_example():
    """A stronger distractor may still come before weaker signals."""
    lam, rho = (0.95, 0.9, 2.0, 1.8), (0.95 / 1.05, 0.9 / 1.05, 2 / 4.5, 1.8 / 6.5)
    found = theory.critical_time(0.5, 1e-3, 4, lam, rho, 'jepa')
    np.testing.assert_allclose(found, (34803, 37372, 24144, 42597), rtol=2e-5)
    assert theory.order(found) == [3, 1, 2, 4]
    for depth in (1, 2, 3, 4):
        found = theory.critical_time(0.5, 1e-3, depth, lam, rho, 'mae')
        assert theory.order(found) == [3, 4, 1, 2]


@pytest.mark.parametrize(('depth', 'predictor'), [(1, 1), (2, 1), (2, 2), (1, 2), (3, 2)])
def test_limits_with_deep_predictors(depth, predictor):
    for objective in OBJECTIVES:
        end = theory.limit(0.6, depth, objective, predictor)
        found = scalar_flow([0, 1500], 0.3, depth, 1, 0.6, objective, predictor)
        assert found[-1] == pytest.approx(end, rel=1e-6)
    assert theory.limit(0.6, depth, 'jepa', predictor) == pytest.approx(0.6 ** (depth / predictor))


def test_a_moving_average_delays():
    """Half-times of one feature for growing lags of the target; the limit stays rho^2."""
    times = np.linspace(0, 1500, 15001)
    for tau, wanted in ((0, 148.0), (1, 151.8), (10, 179.9), (50, 279.5)):
        found = scalar_flow(times, 0.15, 2, 1, 0.6, 'jepa', tau=tau)
        assert found[-1] == pytest.approx(0.36, rel=1e-3)
        assert np.interp(0.18, found, times) == pytest.approx(wanted, abs=0.1)


def test_never_is_nan_and_nonsense_is_an_error():
    assert np.isnan(theory.critical_time(0.5, 0.9, 3, 1, 0.5, 'jepa'))
    assert np.isnan(theory.time_of(0.6, 0.1, 2, 1, 0.5, 'jepa'))
    assert theory.order([3.0, np.nan, 1.0]) == [3, 1]
    with pytest.raises(ValueError, match="'jepa' or 'mae'"):
        theory.limit(0.5, 1, 'vae')
    with pytest.raises(ValueError, match='at least one layer'):
        theory.limit(0.5, 0, 'jepa')
    with pytest.raises(ValueError, match='p must lie'):
        theory.critical_time(1.0, 0.1, 1, 1, 0.5, 'jepa')
    with pytest.raises(ValueError, match='unit'):
        theory.critical_time(0.5, 0.1, 1, 1, 0.5, 'jepa', 'seconds')
    with pytest.raises(ValueError, match='between 0 and the limit'):
        theory.amplitude_at(1.0, 0.9, 2, 1, 0.5, 'jepa')
