"""Schedules in closed form: the value is a function of (iteration, total iterations)."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler

from mmjepa.registry import PARAM_SCHEDULERS


def interpolate(curve: str, start: float, stop: float, progress: float) -> float:
    """Value at ``progress`` in [0, 1] between ``start`` and ``stop``.

    Args:
        curve: ``'linear'``, ``'cosine'`` or ``'constant'``.
        start: value at progress 0.
        stop: value at progress 1.
        progress: clamped to [0, 1].

    Raises:
        ValueError: unknown curve.
    """
    progress = min(max(progress, 0.0), 1.0)
    if curve == 'constant':
        return start
    if curve == 'linear':
        return start + (stop - start) * progress
    if curve == 'cosine':
        return stop + (start - stop) * 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"curve must be 'linear', 'cosine' or 'constant', got {curve!r}")


@PARAM_SCHEDULERS.register_module()
class PhasedScheduler(_ParamScheduler):
    """Piecewise schedule over fractions of the training.

    One cycle of the learning rate, for example::

        dict(
            type='PhasedScheduler',
            param_name='lr',
            phases=[dict(until=0.4, start=0.1, stop=1.0), dict(until=1.0, start=1.0, stop=1e-5)],
        )

    At iteration i of T the phase that contains i / T decides. Nothing but the iteration is state,
    so a resumed run is exact; a run resumed with another T or learning rate follows the new ones.

    Args:
        optimizer: optimizer or wrapper.
        param_name: ``'lr'``, ``'weight_decay'``, ``'momentum'`` or ``'beta1'``.
        phases: dicts of ``until`` (fraction of the training, ascending, the last one 1), ``start``,
            ``stop`` and ``curve`` (default ``'cosine'``).
        relative: values multiply each group's initial value (default for lr and weight decay, so
            that per-group multipliers and ``--auto-scale-lr`` hold); otherwise they are absolute
            (default for the others).
        stretch: the phases last so many times T, and the run ends within them (V-JEPA: 1.25).
        end: T, filled in by the runner.
        first: number of the first iteration: 1 as in I-JEPA's code, whose last step has the last
            value; 0 (default) starts with the first value.
        by_epoch: must be False.
        last_step: as in MMEngine.
        verbose: as in MMEngine.

    Raises:
        ValueError: phases that don't reach from 0 to 1, ``by_epoch``, or ``stretch`` below 1.
    """

    def __init__(
        self,
        optimizer: Any,
        param_name: str,
        phases: Sequence[dict],
        relative: bool | None = None,
        first: int = 0,
        stretch: float = 1.0,
        end: int = 1,
        by_epoch: bool = False,
        last_step: int = -1,
        verbose: bool = False,
    ):
        if by_epoch:
            raise ValueError('PhasedScheduler counts iterations: by_epoch must be False')
        fractions = [phase['until'] for phase in phases]
        if not fractions or sorted(set(fractions)) != fractions or fractions[-1] != 1:
            raise ValueError(f'phases must ascend in `until` and end at 1, got {fractions}')
        for phase in phases:
            interpolate(phase.get('curve', 'cosine'), phase['start'], phase['stop'], 0)
        self.phases = [dict(phase) for phase in phases]
        self.first_beta = param_name == 'beta1'
        if relative is None:
            relative = param_name in ('lr', 'weight_decay')
        self.relative = relative
        if stretch < 1:
            raise ValueError(f'stretch must be at least 1, got {stretch}')
        self.first, self.stretch = first, stretch
        super().__init__(
            optimizer,
            'betas' if self.first_beta else param_name,
            end=end,
            by_epoch=False,
            last_step=last_step,
            verbose=verbose,
        )

    def value_at(self, iteration: int) -> float:
        """Factor or value at an iteration."""
        progress = (iteration + self.first) / (self.end * self.stretch)
        begin = 0.0
        for phase in self.phases:
            if progress < phase['until'] or phase['until'] == 1:
                within = (progress - begin) / (phase['until'] - begin)
                return interpolate(
                    phase.get('curve', 'cosine'), phase['start'], phase['stop'], within
                )
            begin = phase['until']
        raise AssertionError('unreachable: the last phase ends at 1')

    def _get_value(self) -> list:
        value = self.value_at(self.last_step)
        if self.first_beta:
            return [(value * b[0] if self.relative else value, b[1]) for b in self.base_values]
        return [value * base if self.relative else value for base in self.base_values]

    def step(self) -> None:
        """Set the values of the next iteration."""
        self._global_step += 1
        self.last_step += 1
        self._apply()

    def _apply(self) -> None:
        self._last_value = self._get_value()
        for group, value in zip(self.optimizer.param_groups, self._last_value, strict=True):
            group[self.param_name] = value

    def state_dict(self) -> dict:
        """Only the step: everything else follows from the configuration."""
        return dict(last_step=self.last_step, _global_step=self._global_step)

    def load_state_dict(self, state_dict: dict) -> None:
        """Take over the step; length, phases and base values stay the configured ones."""
        self.last_step = state_dict['last_step']
        self._global_step = state_dict['_global_step']
        self._apply()
