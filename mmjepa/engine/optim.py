"""Optimizer wrappers that don't read the device every step, and their constructor."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn

from mmjepa.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


class _JEPAOptim(OptimWrapper):
    """What our wrappers share.

    * The gradient norm stays on the device; MMEngine converts it to float at every step.
    * Gradients of an accumulation in progress are part of the state, so that a run can be resumed
      between two optimizer steps.
    """

    #: gradient norm before clipping of the last iteration, None where it took no step
    last_grad_norm: Tensor | None = None
    _gradients_restored = False

    def update_params(self, *args: Any, **kwargs: Any) -> None:
        """As MMEngine."""
        self.last_grad_norm = None
        super().update_params(*args, **kwargs)

    def _clip_grad(self) -> None:
        params = [p for p in self._params() if p.grad is not None]
        if params:
            self.last_grad_norm = self.clip_func(params, **self.clip_grad_kwargs)

    def _params(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group['params']]

    def accumulated_gradients(self) -> dict[str, Any] | None:
        """Gradients of a step not taken yet, None right after a step; every rank must call it.

        Ranks hold different gradients then. Their mean gives the same next step on every rank.
        """
        if all(p.grad is None for p in self._params()):
            return None
        gradients = [None if p.grad is None else p.grad.clone() for p in self._params()]
        for gradient in gradients:
            if gradient is not None:
                all_reduce(gradient, 'mean')
        return dict(gradients=gradients, accumulative_counts=self._accumulative_counts)

    def load_state_dict(self, state_dict: dict) -> None:
        """As MMEngine, and the gradients of an accumulation in progress."""
        state_dict = dict(state_dict)
        accumulated = state_dict.pop('accumulated', None)
        super().load_state_dict(state_dict)
        if accumulated is None or accumulated['accumulative_counts'] != self._accumulative_counts:
            return
        for parameter, gradient in zip(self._params(), accumulated['gradients'], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self._gradients_restored = True

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """As MMEngine, which warns about lost gradients even where none are."""
        super().initialize_count_status(model, 0, max_counts)
        self._inner_count = init_counts
        if init_counts % self._accumulative_counts and not self._gradients_restored:
            print_log(
                f'resumed at iteration {init_counts}, {init_counts % self._accumulative_counts} '
                f'iterations into an accumulation over {self._accumulative_counts}, without their '
                'gradients: the next step is smaller',
                logger='current',
                level=logging.WARNING,
            )


@OPTIM_WRAPPERS.register_module()
class JEPAOptimWrapper(_JEPAOptim):
    """``OptimWrapper`` with optional bfloat16 autocast on any device.

    Args:
        amp: None or ``'bf16'``.
        **kwargs: of ``mmengine.optim.OptimWrapper`` (optimizer, clip_grad, accumulative_counts).
    """

    def __init__(self, amp: str | None = None, **kwargs):
        if amp not in (None, 'bf16'):
            raise ValueError(
                f"amp must be None or 'bf16', got {amp!r}; fp16 needs type='JEPAFp16OptimWrapper'"
            )
        super().__init__(**kwargs)
        self.amp = amp

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Gradient synchronisation rules of MMEngine, plus autocast."""
        device = next(model.parameters()).device.type
        with (
            super().optim_context(model),
            torch.autocast(device, dtype=torch.bfloat16, enabled=self.amp == 'bf16'),
        ):
            yield


@OPTIM_WRAPPERS.register_module()
class JEPAFp16OptimWrapper(_JEPAOptim, AmpOptimWrapper):
    """float16 autocast with loss scaling (CUDA)."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class JEPAOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, then frozen parameters are left out and equal groups merged.

    MMEngine puts target parameters into the optimizer, and makes one group a parameter where
    ``paramwise_cfg`` is used, which keeps fused and foreach optimizers from working together.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """As MMEngine, which warns about every single parameter of a frozen module."""
        if any(p.requires_grad for p in module.parameters()):
            super().add_params(params, module, **kwargs)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for ``model``."""
        wrapper = super().__call__(model)
        merged: dict[tuple, dict] = {}
        for group in wrapper.optimizer.param_groups:
            params = [p for p in group['params'] if p.requires_grad]
            if params:
                key = tuple(sorted((k, repr(v)) for k, v in group.items() if k != 'params'))
                merged.setdefault(key, dict(group, params=[]))['params'] += params
        wrapper.optimizer.param_groups[:] = list(merged.values())
        # base_param_settings of MMEngine is a group without trainable parameters: keep its values
        return wrapper
