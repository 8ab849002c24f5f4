"""Optimizer wrappers that don't read the device every step, and their constructor."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.logging import MMLogger, print_log
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

    ``paramwise_cfg`` takes ``layer_decay``, too (BEiT, arXiv 2106.08254): the learning rate of a
    parameter that lies ``depth`` deep, of ``count`` depths, is multiplied by layer_decay **
    (count - 1 - depth). The submodule with ``get_layer_depth`` tells both; parameters outside it
    keep theirs.

    Raises:
        ValueError: ``layer_decay`` isn't in (0, 1], or not exactly one submodule tells depths.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.layer_decay = paramwise_cfg.pop('layer_decay', None)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f'layer_decay must be in (0, 1], got {self.layer_decay}')
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(self, params: list[dict], module: nn.Module, **kwargs: Any) -> None:
        """As MMEngine, which warns about every single parameter of a frozen module."""
        if any(p.requires_grad for p in module.parameters()):
            super().add_params(params, module, **kwargs)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the wrapper for ``model``."""
        with _without_a_line_per_tensor():
            wrapper = super().__call__(model)
        scales = {} if self.layer_decay is None else _layer_scales(model, self.layer_decay)
        merged: dict[tuple, dict] = {}
        for group in wrapper.optimizer.param_groups:
            for parameter in group['params']:
                if parameter.requires_grad:
                    own = dict(group, lr=group['lr'] * scales.get(parameter, 1.0), params=[])
                    key = tuple(sorted((k, repr(v)) for k, v in own.items()))
                    merged.setdefault(key, own)['params'].append(parameter)
        wrapper.optimizer.param_groups[:] = list(merged.values())
        if self.paramwise_cfg or scales:
            rates = [group['lr'] for group in merged.values()]
            print_log(
                f'{len(merged)} groups of parameters, learning rates {min(rates):.3g} to '
                f'{max(rates):.3g}',
                logger='current',
            )
        # base_param_settings of MMEngine is a group without trainable parameters: keep its values
        return wrapper


@contextmanager
def _without_a_line_per_tensor() -> Iterator[None]:
    """MMEngine logs every option of every tensor, hundreds of lines."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith('paramwise_options')

    logger = MMLogger.get_current_instance()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _layer_scales(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Factor of the learning rate of each parameter in the submodule that tells depths."""
    telling = [(n, m) for n, m in model.named_modules() if hasattr(m, 'get_layer_depth')]
    if len(telling) != 1:
        raise ValueError(
            f'layer_decay={decay} needs one submodule with get_layer_depth, {type(model).__name__} '
            f'has {", ".join(name for name, _ in telling) or "none"}'
        )
    module = telling[0][1]
    scales = {}
    for name, parameter in module.named_parameters():
        depth, count = module.get_layer_depth(name)
        scales[parameter] = decay ** (count - 1 - depth)
    return scales
