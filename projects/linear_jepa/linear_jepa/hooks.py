"""Watches a training by the theory's quantities."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmjepa.registry import HOOKS

from . import theory
from .measure import amplitudes, conserved, hit_times, product


@HOOKS.register_module()
class LinearDynamicsHook(Hook):
    """Logs amplitudes, predictor eigenvalues and conserved matrices; compares times at the end.

    Logged: ``amplitude/feature_i``, ``predictor/eigenvalue_i`` (ascending real parts; they end
    near rho for a JEPA, at rho^(1/(L+1)) for an MAE) and ``conserved/drift`` (largest change since
    the start). ``hit_times.csv`` in the work dir has, for each feature, when its amplitude came to
    ``p`` of its limit, and when theory says so: plain SGD of learning rate lr is gradient flow at
    time steps x lr. Other optimizers, schedules and clipping keep other clocks: no theory is given
    then. Data without a common basis has no features: their eigenvalues and laws are logged alone.

    Args:
        interval: iterations between measurements.
        p: share of the limit, in (0, 1).

    Raises:
        ValueError: ``p`` isn't in (0, 1); when the training starts, if batches aren't exact where
            they should be.
    """

    priority = 'HIGH'
    key = 'linear_dynamics'  # state in the message hub, so that a resumed run goes on with it

    def __init__(self, interval: int = 10, p: float = 0.5):
        if not 0 < p < 1:
            raise ValueError(f'p must lie in (0, 1), got {p}')
        self.interval, self.p = interval, p

    def before_train(self, runner: Any) -> None:
        """Fix basis, levels and the start."""
        loader, model = runner.train_dataloader, runner.bare_model
        process = loader.dataset.process
        loader.dataset.check_batch(loader.batch_sampler.batch_size)
        self.process = process
        self.basis: torch.Tensor | None = None
        if process.basis is None:
            found = ', '.join(f'{value:.4g}' for value in process.rho)
            runner.logger.info(f'the data has no common basis, hence no features; rho: {found}')
        else:
            self.basis = torch.from_numpy(process.basis).to(model.frame)
            self.limits = theory.limit(
                process.rho, len(model.encoder.layers), model.objective, len(model.predictor.layers)
            )
        if runner.message_hub.runtime_info.get(self.key) is None:
            state: dict[str, Any] = dict(start=[gap.tolist() for gap in self._conserved(model)])
            if self.basis is not None:
                hits = [float('nan')] * process.dim
                state.update(last=self._amplitudes(model), time=0.0, hits=hits)
            runner.message_hub.update_info(self.key, state)

    @staticmethod
    def _is_plain(runner: Any) -> bool:
        """Whether the optimizer follows the gradient flow on the theory's clock."""
        optimizer = runner.optim_wrapper.optimizer
        return (
            type(optimizer) is torch.optim.SGD
            and not runner.param_schedulers
            and not runner.optim_wrapper.clip_grad_kwargs
            and not any(g['momentum'] or g['weight_decay'] for g in optimizer.param_groups)
        )

    @staticmethod
    def _conserved(model: Any) -> list[torch.Tensor]:
        return conserved(model.encoder.weights, model.predictor.weights)

    def _amplitudes(self, model: Any) -> list[float]:
        assert self.basis is not None
        return amplitudes(product(model.encoder.weights), model.frame, self.basis).tolist()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Measure and log."""
        if (runner.iter + 1) % self.interval:
            return
        hub, model = runner.message_hub, runner.bare_model
        state, scalars = hub.runtime_info[self.key], {}
        if self.basis is not None:
            state = self._follow(runner, state)
            hub.update_info(self.key, state)
            for number, value in enumerate(state['last'], 1):
                scalars[f'amplitude/feature_{number}'] = value
        predictor = product(model.predictor.weights)
        if model.objective == 'mae':  # which turns the encoder's rotation back
            predictor = predictor @ model.frame
        eigenvalues = torch.linalg.eigvals(predictor).real.sort().values
        for number, value in enumerate(eigenvalues.tolist(), 1):
            scalars[f'predictor/eigenvalue_{number}'] = value
        scalars['conserved/drift'] = max(
            float((gap - gap.new_tensor(start)).abs().max())
            for gap, start in zip(self._conserved(model), state['start'], strict=True)
        )
        for name, value in scalars.items():
            hub.update_scalar(f'train/{name}', value)

    def _follow(self, runner: Any, state: dict) -> dict:
        """State after another measurement of the amplitudes."""
        wrapper, now = runner.optim_wrapper, self._amplitudes(runner.bare_model)
        steps = (runner.iter + 1) // wrapper._accumulative_counts
        time = steps * wrapper.param_groups[0]['lr']
        hits = hit_times(
            np.array([state['time'], time]), np.array([state['last'], now]), self.p * self.limits
        )
        known = np.array(state['hits'])
        hits = np.where(np.isnan(known), hits, known).tolist()
        return dict(state, last=now, time=time, hits=hits)

    def after_train(self, runner: Any) -> None:
        """Seen and predicted times, in the log and in ``hit_times.csv``."""
        if self.basis is None or not is_main_process():
            return
        model, process = runner.bare_model, self.process
        state = runner.message_hub.runtime_info[self.key]
        known = (
            len(model.predictor.layers) == 1
            and model.target.policy in ('stop_grad', 'data')
            and model.encoder.slope == 1
            and model.layer_init != 'gaussian'
            and model.predictor_init == 'aligned'
            and model.predictor_scale == model.scale
        )
        predicted = np.full(process.dim, np.nan)
        if known and self._is_plain(runner):
            predicted = theory.critical_time(
                self.p,
                model.epsilon,
                len(model.encoder.layers),
                process.lam,
                process.rho,
                model.objective,
            )
        path = Path(runner.work_dir, 'hit_times.csv')
        with path.open('w', newline='', encoding='utf-8') as file:
            table = csv.writer(file)
            table.writerow(['feature', 'lam', 'rho', 'amplitude', 'limit', 'time', 'theory'])
            rows = zip(
                process.lam, process.rho, state['last'], self.limits, state['hits'], predicted,
                strict=True,
            )  # fmt: skip
            for number, row in enumerate(rows, 1):
                table.writerow([number, *(f'{value:.6g}' for value in row)])
                runner.logger.info(
                    f'feature {number}: {self.p} of the limit at t={row[4]:.5g}, theory '
                    f'{row[5]:.5g}'
                )
        runner.logger.info(f'{model.objective} learns {theory.order(state["hits"])}; {path}')
