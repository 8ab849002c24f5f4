"""Gradient flow by ODE solvers: of one feature, and of whole matrices."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .processes import LinearProcess
from .theory import Objective, _check

Array = NDArray[np.float64]
FlowObjective = Literal['jepa', 'mae', 'no_stop_gradient']


def _solve(function, span, start, method, times, rtol, atol):
    from scipy.integrate import solve_ivp

    result = solve_ivp(
        function, span, start, method, times, dense_output=times is None, rtol=rtol, atol=atol
    )
    if not result.success:
        raise RuntimeError(
            f'{method} gave up at t={result.t[-1] if len(result.t) else 0:.4g} of {span[1]:.4g}: '
            f'{result.message}'
        )
    return result


def scalar_flow(
    times: ArrayLike,
    u0: float,
    depth: int,
    lam: float,
    rho: float,
    objective: Objective,
    predictor: int = 1,
    tau: float = 0.0,
    rtol: float = 1e-10,
) -> Array:
    """Encoder amplitudes (n,) of one balanced feature, in log u, which suits the long wait.

    Args:
        times: (n,) ascending, from 0 on.
        u0: singular value of each layer at the start.
        depth: layers of the encoder.
        lam: covariance.
        rho: regression coefficient.
        objective: ``'jepa'`` or ``'mae'``.
        predictor: layers of the predictor.
        tau: time constant of a moving average of the encoder's amplitude, JEPA's target; 0: the
            encoder itself.
        rtol: of the solver.
    """
    _check(objective, depth)
    if tau and objective != 'jepa':
        raise ValueError('tau is the lag of a target encoder, which an MAE does not have')
    jepa, times = objective == 'jepa', np.asarray(times, np.float64)

    def rates(t, state):
        u = np.exp(state[0])
        amplitude = u**depth
        target = (state[1] if tau else amplitude) if jepa else 1.0
        rate = lam * u ** (depth + predictor - 2) * (target - u ** (depth + predictor) / rho)
        return [rate, (amplitude - state[1]) / tau] if tau else [rate]

    start = [np.log(u0), u0**depth] if tau else [np.log(u0)]
    span = (0.0, float(times[-1]))
    return np.exp(depth * _solve(rates, span, start, 'LSODA', times, rtol, 1e-12).y[0])


@dataclass
class MatrixRun:
    """A solved flow of n times.

    Attributes:
        times: (n,).
        layers: (n, L, d, d), the first layer first.
        predictor: (n, d, d).
    """

    times: Array
    layers: Array
    predictor: Array

    @property
    def encoder(self) -> Array:
        """(n, d, d) products of the layers."""
        out = self.layers[:, 0]
        for a in range(1, self.layers.shape[1]):
            out = self.layers[:, a] @ out
        return out

    def amplitudes(self, basis: Array) -> Array:
        """(n, d), as :func:`.measure.amplitudes`, in the frame of the first time."""
        frame = np.linalg.svd(self.encoder[0])
        inner = (frame[0] @ frame[2] @ basis).T @ self.encoder @ basis
        return np.diagonal(inner, axis1=1, axis2=2)

    def drift(self) -> Array:
        """(L,) largest change of each conserved matrix, that of the predictor last."""
        stack = np.concatenate([self.layers, self.predictor[:, None]], 1)
        upper, lower = stack[:, 1:], stack[:, :-1]
        gap = np.swapaxes(upper, -1, -2) @ upper - lower @ np.swapaxes(lower, -1, -2)
        return np.abs(gap - gap[0]).max((0, 2, 3))


def gradients(
    layers: Sequence[Array], predictor: Array, process: LinearProcess, objective: FlowObjective
) -> tuple[list[Array], Array]:
    """Gradients of 1/2 E|V W x - target|^2 by the formulas.

    Args:
        layers: L arrays (d, d), the first layer first.
        predictor: (d, d) V.
        process: gives the moments.
        objective: ``'jepa'``: the target W y is a constant; ``'mae'``: y; ``'no_stop_gradient'``:
            W y with its gradient.

    Returns:
        Those of the layers, and of the predictor.
    """
    if objective not in ('jepa', 'mae', 'no_stop_gradient'):
        raise ValueError(f"objective 'jepa', 'mae' or 'no_stop_gradient', got {objective!r}")
    below = [np.eye(process.dim)]  # products of the layers under each one
    for weight in layers:
        below.append(weight @ below[-1])
    encoder = below[-1]
    wanted = process.syx if objective == 'mae' else encoder @ process.syx
    error = predictor @ encoder @ process.sxx - wanted
    rest = predictor.T @ error  # with respect to the product of the layers above
    if objective == 'no_stop_gradient':
        rest = rest - (predictor @ encoder @ process.syx.T - encoder @ process.syy)
    grads = []
    for a in range(len(layers) - 1, -1, -1):
        grads.append(rest @ below[a].T)
        rest = layers[a].T @ rest
    return grads[::-1], error @ encoder.T


def matrix_flow(
    process: LinearProcess,
    layers: Sequence[Array],
    predictor: Array,
    objective: FlowObjective,
    times: ArrayLike | float,
    method: str = 'DOP853',
    rtol: float = 1e-11,
    atol: float = 1e-13,
) -> MatrixRun:
    """Gradient flow of all matrices at learning rate 1.

    Args:
        process: the data.
        layers: L arrays (d, d) at the start, the first layer first.
        predictor: (d, d) at the start.
        objective: as in :func:`gradients`.
        times: (n,) ascending, from 0 on; a single number: up to there, 16 times for each step
            that the solver takes, so that fast parts are dense.
        method: of scipy's ``solve_ivp``; 'LSODA' where waits are long.
        rtol: of the solver.
        atol: of the solver.

    Raises:
        RuntimeError: the solver gave up.
    """
    wanted = np.atleast_1d(np.asarray(times, np.float64))
    grid, end = (None if np.ndim(times) == 0 else wanted), float(wanted[-1])
    start = np.stack([*layers, predictor])

    def field(t, state):
        stack = state.reshape(start.shape)
        grads, last = gradients(stack[:-1], stack[-1], process, objective)
        return -np.stack([*grads, last]).ravel()

    result = _solve(field, (0.0, end), start.ravel(), method, grid, rtol, atol)
    states = result.y
    if grid is None:
        grid = np.interp(
            np.arange(16 * len(result.t) - 15) / 16, np.arange(len(result.t)), result.t
        )
        states = result.sol(grid)
    states = states.T.reshape(len(grid), *start.shape)
    return MatrixRun(grid, states[:, :-1], states[:, -1])
