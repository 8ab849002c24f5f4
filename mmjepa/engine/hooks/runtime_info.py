"""Scalars of a step without reading the device at every step."""

import resource
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import RuntimeInfoHook
from torch import Tensor

from mmjepa.registry import HOOKS


@HOOKS.register_module()
class DeferredInfoHook(RuntimeInfoHook):
    """``RuntimeInfoHook`` that keeps losses on the device and reads them once per log line.

    Adds the gradient norm, samples/s, the share of time spent waiting for data, and the peak
    memory of the process (CPU) to MMEngine's entries. Distributed, the scalars are means over
    ranks: with reduced denominators the loss of the whole batch.

    Args:
        interval: iterations between reads; take the interval of the logger hook.
    """

    def __init__(self, interval: int = 50):
        self.interval = interval
        self._pending: list[tuple[list[str], Tensor]] = []

    def before_train(self, runner: Any) -> None:
        """Log the effective batch."""
        super().before_train(runner)
        loader = runner.train_dataloader
        accumulate = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        batch = loader.batch_sampler.batch_size
        self._samples = batch * runner.world_size
        runner.logger.info(
            f'effective batch {self._samples * accumulate} = {batch} a process x '
            f'{runner.world_size} processes x {accumulate} accumulated; '
            f'{len(loader)} iterations an epoch, {runner.max_iters} in all'
        )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Queue the scalars; read them all where a log line follows."""
        scalars = {k: v for k, v in (outputs or {}).items() if isinstance(v, Tensor)}
        norm = getattr(runner.optim_wrapper, 'last_grad_norm', None)
        if norm is not None:
            scalars['grad_norm'] = norm
        if scalars:
            values = torch.stack([v.detach().float().reshape(()) for v in scalars.values()])
            self._pending.append((list(scalars), values))
        # the logger hook counts within the epoch
        if (
            self.every_n_inner_iters(batch_idx, self.interval)
            or self.is_last_train_iter(runner)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            self.flush(runner)
            self._rates(runner)

    def flush(self, runner: Any) -> None:
        """Move the queued scalars into the message hub: one read of the device."""
        if not self._pending:
            return
        names = [name for row, _ in self._pending for name in row]
        values = torch.cat([row for _, row in self._pending])
        self._pending = []
        if runner.world_size > 1:
            all_reduce(values, 'mean')
        for name, value in zip(names, values.tolist(), strict=True):
            runner.message_hub.update_scalar(f'train/{name}', value)

    def _rates(self, runner: Any) -> None:
        hub = runner.message_hub
        if 'train/time' in hub.log_scalars:
            seconds = hub.get_scalar('train/time').data[0]
            # the wait of this iteration is known already, its whole time isn't
            waiting = hub.get_scalar('train/data_time').data[0][: len(seconds)]
            total = max(float(seconds[-self.interval :].sum()), 1e-9)
            hub.update_scalar(
                'train/samples_per_s', self._samples * len(seconds[-self.interval :]) / total
            )
            hub.update_scalar('train/data_wait', float(waiting[-self.interval :].sum()) / total)
        if not torch.cuda.is_available():
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            hub.update_scalar('train/peak_rss_mb', peak / 1024)

    def before_save_on_all_ranks(self, runner: Any) -> None:
        """A checkpoint holds the scalars of every iteration before it."""
        self.flush(runner)
