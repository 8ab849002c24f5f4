"""Closed forms: what is learned, and when (arXiv 2407.03475; MAE and prefactors: README).

Each feature i of a balanced network of L layers and one linear predictor evolves by itself. With u
the singular value it has in every layer, the encoder's amplitude is w = u^L, and

    JEPA: du/dt = lam u^(2L) (1 - u / rho),    MAE: du/dt = lam u^L (1 - u^(L+1) / rho).

Time is that of gradient flow (steps x learning rate of plain gradient descent); the paper's is L
times as long. All functions broadcast over their arguments, in float64.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Objective = Literal['jepa', 'mae']
TimeUnit = Literal['flow', 'paper']


def _check(objective: str, depth: int) -> None:
    if objective not in ('jepa', 'mae'):
        raise ValueError(f"objective must be 'jepa' or 'mae', got {objective!r}")
    if depth < 1:
        raise ValueError(f'an encoder has at least one layer, got depth {depth}')


def layer_limit(rho: ArrayLike, depth: int, objective: Objective, predictor: int = 1) -> Array:
    """Singular value of each layer at the end, for a predictor of so many layers."""
    _check(objective, depth)
    layers = predictor if objective == 'jepa' else depth + predictor
    return np.asarray(rho, np.float64) ** (1 / layers)


def limit(rho: ArrayLike, depth: int, objective: Objective, predictor: int = 1) -> Array:
    """Encoder amplitude at the end: rho^L (JEPA), rho^(L/(L+1)) (MAE)."""
    return layer_limit(rho, depth, objective, predictor) ** depth


def unbalanced_limit(rho: ArrayLike, layer: ArrayLike, predictor: ArrayLike) -> Array:
    """JEPA's singular value of a layer that starts at ``layer`` under a predictor at ``predictor``.

    0 is collapse: a predictor that starts too large shrinks faster than the encoder can grow.
    """
    rho, layer, predictor = (np.asarray(a, np.float64) for a in (rho, layer, predictor))
    return np.sqrt((rho**2 + layer**2 - predictor**2).clip(0))


def _mae_antiderivative(u: Array, rho: Array, depth: int) -> Array:
    from scipy.special import hyp2f1

    total = depth + 1
    return (
        u ** (1 - depth) / (1 - depth) * hyp2f1(1, (1 - depth) / total, 2 / total, u**total / rho)
    )


def time_of(
    u: ArrayLike, u0: ArrayLike, depth: int, lam: ArrayLike, rho: ArrayLike, objective: Objective
) -> Array:
    """Time at which a layer's singular value gets from ``u0`` to ``u``.

    NaN where it never does: ``u`` must lie between ``u0`` and the limit, ``u0`` included.
    """
    _check(objective, depth)
    u, u0, lam, rho = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (u, u0, lam, rho)))
    end = layer_limit(rho, depth, objective)
    reached = ((u0 <= u) & (u < end)) | ((end < u) & (u <= u0))
    with np.errstate(all='ignore'):
        if objective == 'jepa':
            time = np.log(u * (1 - u0 / rho) / (u0 * (1 - u / rho))) / rho ** (2 * depth - 1)
            for k in range(2 * depth - 1):
                n = 2 * depth - 1 - k
                time = time + (u0**-n - u**-n) / (n * rho**k)
        elif depth == 1:
            time = 0.5 * np.log((rho / u0**2 - 1) / (rho / u**2 - 1))
        else:
            time = _mae_antiderivative(u, rho, depth) - _mae_antiderivative(u0, rho, depth)
            # the hypergeometric series ends where its argument does
            reached = reached & (u0 < end)
    return np.where(reached, time / lam, np.nan)


def amplitude_at(
    time: ArrayLike, u0: float, depth: int, lam: float, rho: float, objective: Objective
) -> Array:
    """Encoder amplitude w at times from 0 on, by bisection of :func:`time_of`.

    Raises:
        ValueError: ``u0`` isn't below the limit.
    """
    time = np.asarray(time, np.float64)
    end = float(layer_limit(rho, depth, objective))
    if not 0 < u0 < end:
        raise ValueError(f'u0 must lie between 0 and the limit {end:.4g}, got {u0}')
    # log of the odds u : (end - u), fine at both ends
    low = np.full(time.shape, np.log(u0 / (end - u0)))
    high = np.full(time.shape, 34.0)  # as near to the end as float64 gets
    for _ in range(64):
        middle = (low + high) / 2
        late = time_of(end / (1 + np.exp(-middle)), u0, depth, lam, rho, objective) > time
        low, high = np.where(late, low, middle), np.where(late, middle, high)
    return (end / (1 + np.exp(-(low + high) / 2))) ** depth


def critical_time(
    p: float,
    epsilon: ArrayLike,
    depth: int,
    lam: ArrayLike,
    rho: ArrayLike,
    objective: Objective,
    unit: TimeUnit = 'flow',
) -> Array:
    """First time at which the amplitude is ``p`` times its limit.

    Args:
        p: in (0, 1).
        epsilon: amplitude of the encoder at the start; its layers start at epsilon^(1/L).
        depth: layers L of the encoder.
        lam: covariances.
        rho: regression coefficients.
        objective: ``'jepa'`` or ``'mae'``.
        unit: ``'flow'``, or ``'paper'``: L times as long.

    Returns:
        Times; NaN where the start lies beyond ``p`` times the limit.
    """
    if not 0 < p < 1:
        raise ValueError(f'p must lie in (0, 1), got {p}')
    if unit not in ('flow', 'paper'):
        raise ValueError(f"unit must be 'flow' or 'paper', got {unit!r}")
    u0 = np.asarray(epsilon, np.float64) ** (1 / depth)
    u = p ** (1 / depth) * layer_limit(rho, depth, objective)
    time = time_of(u, u0, depth, lam, rho, objective)
    return time * depth if unit == 'paper' else time


def series(
    epsilon: ArrayLike, depth: int, lam: ArrayLike, rho: ArrayLike, objective: Objective
) -> Array:
    """The part of the critical time (flow unit) that grows as a power of 1/epsilon.

    What is left out grows as log 1/epsilon (JEPA), or doesn't grow (MAE with L > 1). MAE with one
    layer grows as log 1/epsilon alone, which is what is returned then.
    """
    _check(objective, depth)
    epsilon, lam, rho = (np.asarray(a, np.float64) for a in (epsilon, lam, rho))
    if objective == 'jepa':
        powers = range(1, 2 * depth)
        terms = [1 / (n * rho ** (2 * depth - n - 1) * epsilon ** (n / depth)) for n in powers]
        return np.sum(np.broadcast_arrays(*terms), axis=0) / lam
    if depth == 1:
        return np.log(1 / epsilon) / lam
    return epsilon ** (-(depth - 1) / depth) / ((depth - 1) * lam)


def slope(depth: int, objective: Objective) -> float:
    """Of log critical time over log epsilon, as epsilon goes to 0."""
    _check(objective, depth)
    return -(2 * depth - 1) / depth if objective == 'jepa' else -(depth - 1) / depth


def largest_rate(lam: ArrayLike, rho: ArrayLike, depth: int, objective: Objective) -> float:
    """Fastest rate at the fixed point; learning rates must stay well below its inverse."""
    _check(objective, depth)
    lam, rho = np.asarray(lam, np.float64), np.asarray(rho, np.float64)
    if objective == 'jepa':
        return float(np.max(lam * rho ** (2 * depth - 1)))
    return float(np.max((depth + 1) * lam * rho ** ((depth - 1) / (depth + 1))))


def order(times: ArrayLike) -> list[int]:
    """Features, numbered from 1, in the order in which they were learned; without the others."""
    times = np.asarray(times, np.float64)
    return [int(i) + 1 for i in np.argsort(times) if np.isfinite(times[i])]
