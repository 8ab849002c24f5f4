"""One learning problem, solved three ways: closed form, matrix flow, gradient descent."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import theory
from .flow import MatrixRun, matrix_flow
from .measure import hit_times
from .processes import LinearProcess
from .simulate import Descent, Policy, build, descend

Array = NDArray[np.float64]
POLICIES: dict[theory.Objective, Policy] = {'jepa': 'stop_grad', 'mae': 'data'}


@dataclass
class Study:
    """A process learned by an encoder of ``depth`` layers from amplitude ``epsilon``.

    Args:
        process: the data; its features need a common basis.
        depth: layers of the encoder.
        epsilon: amplitude at the start.
        objective: ``'jepa'`` or ``'mae'``.
        p: share of the limit that counts as learned.
        seed: of weights and samples.
    """

    process: LinearProcess
    depth: int
    epsilon: float
    objective: theory.Objective
    p: float = 0.5
    seed: int = 0

    @property
    def limits(self) -> Array:
        """(d,) amplitudes at the end."""
        return theory.limit(self.process.rho, self.depth, self.objective)

    @property
    def predicted(self) -> Array:
        """(d,) critical times in closed form."""
        lam, rho, _ = self.process.features
        return theory.critical_time(self.p, self.epsilon, self.depth, lam, rho, self.objective)

    def curve(self, feature: int, until: float, count: int = 300) -> tuple[Array, Array]:
        """Times up to ``until`` and the closed form's amplitudes over their limit."""
        lam, rho, _ = self.process.features
        limit, rest = self.limits[feature], 1e-13  # this near to the end, time is all but infinite
        odds = np.linspace(np.log(self.epsilon / (limit - self.epsilon)), -np.log(rest), count)
        shares = 1 / (1 + np.exp(-odds))
        times = theory.time_of(
            (shares * limit) ** (1 / self.depth), self.epsilon ** (1 / self.depth), self.depth,
            lam[feature], rho[feature], self.objective,
        )  # fmt: skip
        times[0] = 0.0
        if not np.isfinite(times).all():
            raise ValueError(f'epsilon={self.epsilon} is not below the limit {limit:.4g}')
        end = np.interp(until, times, shares)
        return np.append(times[times < until], until), np.append(shares[times < until], end)

    def _model(self):
        policy = POLICIES[self.objective]
        return build(self.process.dim, self.depth, self.epsilon, policy, self.seed)

    def flow(self, until: float) -> MatrixRun:
        """Gradient flow of the matrices that gradient descent would start from."""
        model = self._model()
        layers = [weight.numpy() for weight in model.encoder.weights]
        predictor = model.predictor.weights[0].numpy()
        return matrix_flow(
            self.process, layers, predictor, self.objective, until, 'LSODA', 1e-9, 1e-12
        )

    def flow_hits(self, until: float | None = None) -> Array:
        """(d,) critical times of :meth:`flow`."""
        until = 1.05 * float(np.nanmax(self.predicted)) if until is None else until
        run = self.flow(until)
        return hit_times(run.times, run.amplitudes(self.process.features[2]), self.p * self.limits)

    def descent(
        self,
        until: float,
        lr: float | None = None,
        batch_size: int | None = None,
        every: int = 5,
        steps: int = 4000,
    ) -> Descent:
        """Plain SGD.

        Args:
            until: time to train for.
            lr: None: small against the fastest rate, and for at least ``steps`` steps.
            batch_size: fresh samples a step; None: the exact moments.
            every: steps between records.
            steps: see ``lr``.
        """
        if lr is None:
            lam, rho, _ = self.process.features
            rate = theory.largest_rate(lam, rho, self.depth, self.objective)
            lr = min(until / steps, 0.2 / rate)
        return descend(self._model(), self.process, lr, until, batch_size, self.seed, every)
