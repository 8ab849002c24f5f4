"""Stop on a loss that isn't finite."""

import os.path as osp
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmjepa.engine.checkpoint import atomic_save
from mmjepa.registry import HOOKS


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or Inf."""


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops the run when the loss is NaN or Inf and saves the batch that did it.

    On CUDA the flag is read one iteration late, from pinned memory, so that the step isn't held
    up; a checkpoint is never written before the flag of its iteration was read.
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
        loss = outputs['loss'].detach()
        if loss.is_cuda:
            flag = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._waiting = (flag, event, outputs, data_batch, runner.iter)
        else:
            self._waiting = (loss, None, outputs, data_batch, runner.iter)
            self.check(runner)

    def check(self, runner: Any) -> None:
        """Raise if the queued loss isn't finite."""
        if self._waiting is None:
            return
        loss, event, outputs, batch, iteration = self._waiting
        self._waiting = None
        if event is not None:
            event.synchronize()
        if torch.isfinite(loss):
            return
        path = osp.join(runner.work_dir, f'nonfinite_rank{runner.rank}_iter{iteration}.pth')
        parts = {k: float(v) for k, v in outputs.items() if isinstance(v, Tensor)}
        atomic_save(dict(iteration=iteration, batch=batch, losses=parts), path)
        raise NonFiniteLossError(
            f'loss is {float(loss)} at iteration {iteration} ({parts}); the batch lies in {path}. '
            'Look at its files first; then a lower learning rate or --amp off')

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Never save weights of an unchecked step."""
        self.check(runner)

    def after_train(self, runner: Any) -> None:
        """Check the last iteration."""
        self.check(runner)
