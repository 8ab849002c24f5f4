"""Pairs of views whose second moments are known: all that a linear model can learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmjepa.registry import FUNCTIONS

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LinearProcess:
    """Two views x, y in R^d of mean zero, given by their second moments.

    Where both moments are diagonal in one orthonormal basis, its directions are the *features*.

    Args:
        sxx: (d, d) E[x x^T].
        syx: (d, d) E[y x^T].
        syy: (d, d) E[y y^T].
        rho: (d,) regression coefficients of y on x: eigenvalues of syx sxx^-1.
        lam: (d,) covariances of the features; None where there is no common basis.
        basis: (d, d), features in columns; None where there is no common basis.

    Raises:
        ValueError: no views can have these moments.
    """

    sxx: Array
    syx: Array
    syy: Array
    rho: Array
    lam: Array | None = None
    basis: Array | None = None

    def __post_init__(self) -> None:
        values = np.linalg.eigvalsh(self.joint)
        if values[0] < -1e-9 * values[-1]:
            raise ValueError(
                f'no pair of views has these moments: their joint covariance has the eigenvalue '
                f'{values[0]:.3g}; a covariance lam can be at most the product of the standard '
                'deviations (rho at most 1 where both views have the same)'
            )

    @property
    def dim(self) -> int:
        """d."""
        return len(self.sxx)

    @property
    def features(self) -> tuple[Array, Array, Array]:
        """``lam`` (d,), ``rho`` (d,) and ``basis`` (d, d), or an error where there is none."""
        if self.lam is None or self.basis is None:
            raise ValueError(
                'both moments of this process have no common basis, hence no features to follow: '
                'take a direct, static or temporal process'
            )
        return self.lam, self.rho, self.basis

    @property
    def joint(self) -> Array:
        """(2d, 2d) covariance of (x; y)."""
        return np.block([[self.sxx, self.syx.T], [self.syx, self.syy]])

    @cached_property
    def _root(self) -> Array:
        """Symmetric square root of :attr:`joint`; unlike Cholesky's it exists for rho = 1, too."""
        values, vectors = np.linalg.eigh(self.joint)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T

    @cached_property
    def exact_batch(self) -> Array:
        """(2d, 2d) rows (x, y) with exactly the moments of the process.

        A step on them is a step on the whole distribution: linear models see moments alone.
        """
        return np.sqrt(2 * self.dim) * self._root

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """(count, 2d) Gaussian rows (x, y)."""
        return rng.standard_normal((count, 2 * self.dim)) @ self._root


def random_rotation(dim: int, rng: np.random.Generator) -> Array:
    """(dim, dim) orthogonal, uniformly distributed."""
    q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
    return q * np.sign(np.diag(r))


def _columns(**values: Sequence[float] | float) -> list[Array]:
    """Feature values as arrays of one length; a single number stands for all features."""
    arrays = {k: np.atleast_1d(np.asarray(v, np.float64)) for k, v in values.items()}
    sizes = {len(a) for a in arrays.values()} - {1}
    if len(sizes) > 1:
        found = ', '.join(f'{k}: {len(a)}' for k, a in arrays.items())
        raise ValueError(f'a number for each feature, or one for all, but there are {found}')
    return [np.broadcast_to(a, max(sizes, default=1)).copy() for a in arrays.values()]


def _features(var: Array, lam: Array, seed: int | None) -> LinearProcess:
    """Views of variances ``var`` and covariances ``lam`` in a basis drawn from ``seed``."""
    if not (np.all(var > 0) and np.all(lam > 0)):
        raise ValueError(
            f'variances and covariances must be positive, got {var.tolist()} and {lam.tolist()}; '
            'the theory says nothing about others'
        )
    dim = len(var)
    basis = np.eye(dim) if seed is None else random_rotation(dim, np.random.default_rng(seed))
    sxx, syx = (basis * var) @ basis.T, (basis * lam) @ basis.T
    return LinearProcess(sxx, syx, sxx, lam / var, lam, basis)


@FUNCTIONS.register_module()
def direct_process(
    lam: Sequence[float], rho: Sequence[float] | float, seed: int | None = 0
) -> LinearProcess:
    """Features with chosen covariance and regression coefficient; the variance follows.

    Args:
        lam: covariances.
        rho: regression coefficients, in (0, 1].
        seed: of the random basis; None: the axes.
    """
    lam_, rho_ = _columns(lam=lam, rho=rho)
    if not np.all(rho_ > 0):
        raise ValueError(f'rho must be positive, got {rho_.tolist()}')
    return _features(lam_ / rho_, lam_, seed)


@FUNCTIONS.register_module()
def static_process(
    signal: Sequence[float] | float, noise: Sequence[float] | float, seed: int | None = 0
) -> LinearProcess:
    """Two views of one thing: x = z + n, y = z + n' with independent noise.

    Args:
        signal: variances of z.
        noise: variances of n and n'.
        seed: as in :func:`direct_process`.
    """
    signal_, noise_ = _columns(signal=signal, noise=noise)
    return _features(signal_ + noise_, signal_, seed)


@FUNCTIONS.register_module()
def temporal_process(
    gamma: Sequence[float] | float,
    signal: Sequence[float] | float = 1.0,
    noise: Sequence[float] | float = 0.0,
    lag: int = 1,
    seed: int | None = 0,
) -> LinearProcess:
    """Now and later: x = z_t + n, y = z_(t+lag) + n', z_(t+1) = gamma z_t + sqrt(1-gamma^2) s xi_t.

    Args:
        gamma: how much of a feature is left one step later, in (0, 1].
        signal: stationary variances s^2 of z.
        noise: variances of n and n'.
        lag: steps between the views, at least 1.
        seed: as in :func:`direct_process`.
    """
    gamma_, signal_, noise_ = _columns(gamma=gamma, signal=signal, noise=noise)
    if lag < 1 or not np.all((gamma_ > 0) & (gamma_ <= 1)):
        raise ValueError(f'gamma must lie in (0, 1] and lag be 1 or more, got {gamma_}, {lag}')
    return _features(signal_ + noise_, gamma_**lag * signal_, seed)


@FUNCTIONS.register_module()
def mixed_process(rho: Sequence[float], spread: float = 1.0, seed: int = 0) -> LinearProcess:
    """x = A z, y = A z' of an invertible A: no common basis, but the same rho for any A.

    Args:
        rho: correlations of z and z', of variance 1.
        spread: A is the identity plus ``spread`` times a standard normal matrix over sqrt(d).
        seed: of A.
    """
    (rho_,) = _columns(rho=rho)
    dim = len(rho_)
    noise = np.random.default_rng(seed).standard_normal((dim, dim)) / np.sqrt(dim)
    mixing = np.eye(dim) + spread * noise
    sxx = mixing @ mixing.T
    return LinearProcess(sxx, (mixing * rho_) @ mixing.T, sxx, rho_)


def measured_process(path: str | Path) -> LinearProcess:
    """Moments of your own pairs of views, without their means.

    Args:
        path: .npz with arrays ``x`` and ``y`` (N, d).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such file. Download or make pairs of views and write them with '
            'numpy.savez(FILE, x=x, y=y), both (N, d), or leave data_root at None for the process '
            'of the config'
        )
    with np.load(path) as file:
        if not {'x', 'y'} <= set(file.files) or file['x'].shape != file['y'].shape:
            raise ValueError(f'{path} must hold x and y of one shape (N, d), has {file.files}')
        x, y = (np.asarray(file[name], np.float64) for name in 'xy')
    x, y = x - x.mean(0), y - y.mean(0)
    sxx, syx, syy = (x.T @ x) / len(x), (y.T @ x) / len(x), (y.T @ y) / len(x)
    rho = np.sort(np.linalg.eigvals(syx @ np.linalg.pinv(sxx)).real)
    return LinearProcess(sxx, syx, syy, rho)
