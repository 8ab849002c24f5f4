"""Save and leave on SIGTERM."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from mmjepa.registry import HOOKS

from .checkpoint import point_to


@HOOKS.register_module()
class SaveOnSignalHook(Hook):
    """Finishes the running iteration, saves ``iter_N.pth`` and stops when the process is told to.

    Schedulers send SIGTERM (slurm also SIGUSR1 by ``--signal``) before they end a job;
    ``--resume auto`` then goes on from there. When distributed, ranks agree every
    ``sync_interval`` iterations: that many and the saving must fit into the time that is given
    (30 s from torchrun).

    Ctrl-C does the same; a second Ctrl-C leaves at once.

    Args:
        signals: names of the signals.
        sync_interval: iterations between agreements of the ranks.
    """

    priority = 'LOWEST'

    def __init__(
        self, signals: tuple[str, ...] = ('SIGTERM', 'SIGUSR1', 'SIGINT'), sync_interval: int = 5
    ):
        self.signals = [getattr(signal, name) for name in signals]
        self.sync_interval = sync_interval
        self.received: int | None = None
        self._old: dict = {}
        self._process = os.getpid()

    def before_train(self, runner: Any) -> None:
        """Install the handlers (main thread only)."""
        try:
            for number in self.signals:
                self._old[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: the caller handles signals
            runner.logger.info('not in the main thread: no checkpoint on SIGTERM')

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self.received is not None:
                raise KeyboardInterrupt
            if os.getpid() == self._process:
                sys.stderr.write('stopping after this iteration; Ctrl-C again leaves at once\n')
        self.received = number

    def _agreed(self, runner: Any) -> bool:
        if runner.world_size == 1:
            return self.received is not None
        if (runner.iter + 1) % self.sync_interval:
            return False
        flag = torch.tensor(
            float(self.received is not None), device=next(runner.model.parameters()).device
        )
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save and stop the loop after a signal."""
        if not self._agreed(runner):
            return
        path = Path(runner.work_dir, f'iter_{runner.iter + 1}.pth')
        hub = runner.message_hub  # the next regular checkpoint takes this one's place
        hub.update_info('signal_ckpts', [*hub.runtime_info.get('signal_ckpts', []), str(path)])
        runner.save_checkpoint(str(path.parent), path.name, by_epoch=False)
        if is_main_process():
            point_to(runner, path)
        runner.logger.warning(
            f'told to stop (signal {self.received}): saved {path.name}. Go on with --resume auto'
        )
        runner.train_loop.stop_training = True

    def after_train(self, runner: Any) -> None:
        """Put the old handlers back."""
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}
