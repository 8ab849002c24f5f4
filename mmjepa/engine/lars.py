"""LARS, which neither torch nor MMEngine has."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from mmjepa.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """SGD with momentum whose steps are in proportion to each weight's norm.

    Biases and norms (tensors of one axis) take plain steps and no weight decay.

    Args:
        params: as in torch.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: added to gradients before they are scaled.
        trust: length of a step as a share of the weight's norm, at a learning rate of 1.

    Source: You et al. 2017 (1708.03888).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust=trust)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; as in torch."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in (p for p in group['params'] if p.grad is not None):
                step = p.grad
                if p.ndim > 1:
                    step = step + group['weight_decay'] * p
                    own, new = p.norm(), step.norm()
                    scale = group['trust'] * own / new
                    step = step * torch.where((own > 0) & (new > 0), scale, 1.0)
                state = self.state[p]
                if 'momentum' not in state:
                    state['momentum'] = torch.zeros_like(p)
                state['momentum'].mul_(group['momentum']).add_(step)
                p.sub_(group['lr'] * state['momentum'])
        return loss
