"""Matrix gradient flow against the closed form, the core's autograd, and where it collapses."""

import numpy as np
import pytest
import torch
from linear_cases import LAM, RHO

from projects.linear_jepa.linear_jepa import (
    LinearProcess,
    direct_process,
    mixed_process,
    theory,
)
from projects.linear_jepa.linear_jepa.flow import gradients, matrix_flow
from projects.linear_jepa.linear_jepa.processes import random_rotation
from projects.linear_jepa.linear_jepa.simulate import build
from projects.linear_jepa.linear_jepa.study import Study

POLICIES = dict(jepa='stop_grad', mae='data', no_stop_gradient='online_grad')
quiet = pytest.mark.filterwarnings('ignore:.*negative control')


def generic(dim=4, seed=0):
    """A process without any common basis."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((2 * dim, 2 * dim)) / np.sqrt(2 * dim)
    joint = root @ root.T + 0.1 * np.eye(2 * dim)
    return LinearProcess(
        joint[:dim, :dim], joint[dim:, :dim], joint[dim:, dim:], rho=np.full(dim, np.nan)
    )


def arrays(model):
    return [w.numpy() for w in model.encoder.weights], model.predictor.weights[0].numpy()


@quiet
@pytest.mark.parametrize('objective', POLICIES)
@pytest.mark.parametrize('depth', [1, 2, 3])
def test_autograd_of_the_core_equals_the_formulas(objective, depth):
    process = generic()
    init = dict(layer_init='gaussian', predictor_init='gaussian')
    model = build(4, depth, 0.5, POLICIES[objective], seed=3, **init)
    model.loss(dict(pairs=torch.from_numpy(process.exact_batch)))['loss_prediction'].backward()
    layers, predictor = gradients(*arrays(model), process, objective)
    for layer, wanted in zip(model.encoder.layers, layers, strict=True):
        np.testing.assert_allclose(layer.weight.grad, wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.predictor.layers[0].weight.grad, predictor, atol=1e-12)


@pytest.mark.parametrize('objective', ['jepa', 'mae'])
@pytest.mark.parametrize('depth', [1, 2, 3])
def test_matrix_flow_equals_the_closed_form(objective, depth):
    """To 1e-6, relative, at all times."""
    study = Study(direct_process(LAM, RHO), depth, 0.2**depth, objective)
    times = np.linspace(0, 1.3 * study.predicted.max(), 60)
    run = matrix_flow(study.process, *arrays(study._model()), objective, times)
    found = run.amplitudes(study.process.basis)
    wanted = np.stack(
        [
            theory.amplitude_at(times, 0.2, depth, lam, rho, objective)
            for lam, rho in zip(LAM, RHO, strict=True)
        ],
        1,
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert run.drift().max() < 1e-9
    np.testing.assert_allclose(study.flow_hits(), study.predicted, rtol=1e-4)


@pytest.mark.parametrize('objective', ['jepa', 'mae'])
@pytest.mark.parametrize('depth', [1, 2, 3])
def test_limits(objective, depth):
    study = Study(direct_process(LAM, RHO), depth, 0.25**depth, objective)
    run = study.flow(3 * study.predicted.max() + 200)
    np.testing.assert_allclose(run.amplitudes(study.process.basis)[-1], study.limits, rtol=1e-3)
    predictor = run.predictor[-1]
    if objective == 'jepa':
        eigenvalues = np.sort(np.linalg.eigvals(predictor).real)
        np.testing.assert_allclose(eigenvalues, np.sort(RHO), rtol=1e-3)
    else:
        # decoder times encoder is the regression of y on x
        wanted = study.process.syx @ np.linalg.inv(study.process.sxx)
        np.testing.assert_allclose(predictor @ run.encoder[-1], wanted, atol=1e-3)


@quiet
@pytest.mark.parametrize('objective', POLICIES)
def test_conservation_law_on_generic_data(objective):
    model = build(4, 3, 0.2, layer_init='gaussian', predictor_init='gaussian', seed=1)
    run = matrix_flow(generic(), *arrays(model), objective, np.linspace(0, 20, 5))
    drift = run.drift()
    assert np.abs(run.encoder[-1] - run.encoder[0]).max() > 0.05
    assert drift[:-1].max() < 1e-9
    if objective == 'no_stop_gradient':
        assert drift[-1] > 1e-2
    else:
        assert drift[-1] < 1e-9


@pytest.mark.parametrize('depth', [1, 2])
def test_without_stop_gradient_everything_collapses(depth):
    study = Study(direct_process(LAM, RHO), depth, 0.3**depth, 'jepa')
    layers, predictor = arrays(study._model())
    run = matrix_flow(study.process, layers, predictor, 'no_stop_gradient', [0, 3000.0], 'LSODA')
    assert np.abs(run.encoder[-1]).max() < 0.01 * np.abs(run.encoder[0]).max()
    healthy = matrix_flow(study.process, layers, predictor, 'jepa', [0, 3000.0], 'LSODA')
    assert np.linalg.svd(healthy.encoder[-1])[1].min() > 0.9 * min(study.limits)


@pytest.mark.parametrize('predictor', [0.2, 0.7, 1.0])
def test_a_large_predictor_collapses_a_small_encoder(predictor):
    process = direct_process((1.0,), (0.6,))
    start = [np.array([[0.6 if predictor == 0.2 else 0.3]])]
    run = matrix_flow(process, start, np.array([[predictor]]), 'jepa', [0, 2000.0], 'LSODA')
    wanted = theory.unbalanced_limit(0.6, start[0][0, 0], predictor)
    assert abs(run.encoder[-1, 0, 0]) == pytest.approx(wanted, abs=2e-4)
    assert wanted == (0 if predictor > 0.6708 else pytest.approx(0.8246, abs=1e-4))


def test_a_reflecting_predictor_loses_a_feature():
    """A misaligned start of negative determinant keeps a negative eigenvalue: that one decays."""
    study = Study(direct_process((1.0, 1.0, 1.0), (0.9, 0.6, 0.4)), 2, 0.2**2, 'jepa')
    layers, predictor = arrays(study._model())
    turned = random_rotation(3, np.random.default_rng(0))
    turned[:, 0] *= -np.sign(np.linalg.det(turned))
    run = matrix_flow(study.process, layers, 0.2 * turned, 'jepa', [0, 20000.0], 'LSODA')
    assert np.linalg.svd(run.encoder[-1])[1].min() < 1e-3
    healthy = matrix_flow(study.process, layers, predictor, 'jepa', [0, 20000.0], 'LSODA')
    np.testing.assert_allclose(np.linalg.svd(healthy.encoder[-1])[1], study.limits, rtol=1e-3)


def test_predictor_reads_rho_without_a_common_basis():
    """x = A z of a mild A: the field is no gradient, but it settles, and V finds the rho."""
    process = mixed_process((0.9, 0.6, 0.4), spread=0.2)
    model = build(3, 2, 0.3**2)
    run = matrix_flow(process, *arrays(model), 'jepa', [0, 4000.0], 'LSODA')
    eigenvalues = np.sort(np.linalg.eigvals(run.predictor[-1]).real)
    np.testing.assert_allclose(eigenvalues, (0.4, 0.6, 0.9), rtol=1e-3)


@pytest.mark.parametrize('objective', ['jepa', 'mae'])
def test_turning_both_views_changes_nothing(objective):
    process, turn = direct_process(LAM, RHO), random_rotation(3, np.random.default_rng(5))
    turned = LinearProcess(
        *(turn @ moment @ turn.T for moment in (process.sxx, process.syx, process.syy)),
        rho=process.rho,
    )
    layers, predictor = arrays(build(3, 2, 0.2, POLICIES[objective]))
    times = np.linspace(0, 30, 7)
    run = matrix_flow(process, layers, predictor, objective, times)
    other = matrix_flow(
        turned, [layers[0] @ turn.T, layers[1]],
        turn @ predictor if objective == 'mae' else predictor, objective, times,
    )  # fmt: skip
    np.testing.assert_allclose(other.encoder @ turn, run.encoder, atol=1e-9)


def test_unknown_objective():
    with pytest.raises(ValueError, match='no_stop_gradient'):
        gradients([np.eye(2)], np.eye(2), direct_process((1, 1), (0.5, 0.5)), 'vae')
