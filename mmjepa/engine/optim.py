"""Optimizer wrappers that don't read the device every step, and their constructor."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import AmpOptimWrapper, DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn

from mmjepa.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS


class _DeferredGradNorm:
    """Keeps the gradient norm on the device; MMEngine converts it to float at every step."""

    last_grad_norm: Tensor | None = None

    def _clip_grad(self) -> None:
        params = [p for group in self.optimizer.param_groups  # type: ignore[attr-defined]
                  for p in group['params'] if p.grad is not None]
        if params:
            self.last_grad_norm = self.clip_func(  # type: ignore[attr-defined]
                params, **self.clip_grad_kwargs)  # type: ignore[attr-defined]


@OPTIM_WRAPPERS.register_module()
class JEPAOptimWrapper(_DeferredGradNorm, OptimWrapper):
    """``OptimWrapper`` with optional bfloat16 autocast on any device.

    Args:
        amp: None or ``'bf16'``.
        **kwargs: of ``mmengine.optim.OptimWrapper`` (optimizer, clip_grad, accumulative_counts).
    """

    def __init__(self, amp: str | None = None, **kwargs):
        if amp not in (None, 'bf16'):
            raise ValueError(f"amp must be None or 'bf16', got {amp!r}; fp16 needs "
                             "type='JEPAFp16OptimWrapper'")
        super().__init__(**kwargs)
        self.amp = amp

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Gradient synchronisation rules of MMEngine, plus autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(
                device, dtype=torch.bfloat16, enabled=self.amp == 'bf16'):
            yield


@OPTIM_WRAPPERS.register_module()
class JEPAFp16OptimWrapper(_DeferredGradNorm, AmpOptimWrapper):
    """float16 autocast with loss scaling (CUDA)."""


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class JEPAOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, then frozen parameters are left out and equal groups merged.

    MMEngine puts target parameters into the optimizer, and makes one group a parameter where
    ``paramwise_cfg`` is used, which keeps fused and foreach optimizers from working together.
    """

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
