"""Stop on a loss that isn't finite."""

import os.path as osp
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from torch import Tensor

from mmjepa.engine.checkpoint import atomic_save
from mmjepa.registry import HOOKS


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became NaN or Inf."""


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops the run when the loss is NaN or Inf and saves the batch that did it.

    So does a gradient norm, where gradients are clipped and no loss scaler skips such a step. On
    CUDA the flag is read one iteration late, from pinned memory, so that the step isn't held up;
    a checkpoint is never written before the flag of its iteration was read on every rank.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._waiting: tuple[Tensor, Any, dict, Any, int] | None = None

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Read the previous flag, queue this one."""
        if not outputs or 'loss' not in outputs:
            return
        self.check(runner)
        loss, norm = outputs['loss'].detach().float(), None
        if not isinstance(runner.optim_wrapper, AmpOptimWrapper):
            norm = getattr(runner.optim_wrapper, 'last_grad_norm', None)
        flags = torch.stack([loss, torch.zeros_like(loss) if norm is None else norm.float()])
        event = None
        if flags.is_cuda:
            flags = torch.empty(2, pin_memory=True).copy_(flags, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting = (flags, event, outputs, data_batch, runner.iter)
        if event is None:
            self.check(runner)

    def check(self, runner: Any) -> None:
        """Raise if the queued loss or gradient isn't finite."""
        if self._waiting is None:
            return
        flags, event, outputs, batch, iteration = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        if torch.isfinite(flags).all():
            return
        path = osp.join(runner.work_dir, f'nonfinite_rank{runner.rank}_iter{iteration}.pth')
        parts = {k: float(v.detach()) for k, v in outputs.items() if isinstance(v, Tensor)}
        if isinstance(batch, dict) and 'data_samples' in batch:
            batch = dict(batch, data_samples=list(batch['data_samples']))  # some are made on demand
        atomic_save(dict(iteration=iteration, batch=batch, losses=parts), path)
        loss, norm = flags.tolist()
        raise NonFiniteLossError(
            f'loss {loss}, gradient norm {norm} at iteration {iteration} ({parts}); the batch lies '
            f'in {path}. Look at its files first; then try a lower learning rate, or without --amp'
        )

    def before_save_on_all_ranks(self, runner: Any) -> None:
        """Never save weights of an unchecked step."""
        self.check(runner)

    def after_train(self, runner: Any) -> None:
        """Check the last iteration."""
        self.check(runner)
