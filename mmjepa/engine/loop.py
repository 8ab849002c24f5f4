"""Training loop over an endless, resumable stream of batches."""

from collections.abc import Iterator
from typing import Any

from mmengine.dist import broadcast
from mmengine.logging import HistoryBuffer
from mmengine.runner import BaseLoop

from mmjepa.registry import LOOPS

HISTORY = 5000  # values of a logged scalar that are kept; twice as many between the cuts


@LOOPS.register_module()
class JEPATrainLoop(BaseLoop):
    """Counts iterations; epochs are stretches of ``len(dataloader)`` iterations.

    One iterator serves the whole run, so workers never restart and a resumed run starts where it
    stopped without replaying the loader. The loader needs :class:`ResumableBatchSampler`.

    Of logged scalars the last ``HISTORY`` values are kept, or the log window's where that is
    longer: windows 'epoch' and 'global' of a ``log_processor.custom_cfg`` see no more.

    Args:
        runner: the runner.
        dataloader: loader or its config.
        max_epochs: length of the training in epochs.
        max_iters: length in iterations; wins over ``max_epochs``.
        val_begin: first epoch with validation.
        val_interval: epochs between validations.

    Attributes:
        completed: iterations done, the one counted whose hooks are running after its step.

    Raises:
        ValueError: neither length is given, or the loader can't be resumed.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        max_epochs: int | None = None,
        max_iters: int | None = None,
        val_begin: int = 1,
        val_interval: int = 1,
    ):
        super().__init__(runner, dataloader)
        self.epoch_length = len(self.dataloader)
        if max_iters is None:
            if max_epochs is None:
                raise ValueError('train_cfg needs max_epochs or max_iters')
            max_iters = max_epochs * self.epoch_length
        if max_iters < 1:
            raise ValueError(f'nothing to train: max_iters is {max_iters}')
        if not hasattr(self.dataloader.batch_sampler, 'start_iteration'):
            raise ValueError(
                "JEPATrainLoop needs batch_sampler=dict(type='ResumableBatchSampler') in "
                'train_dataloader'
            )
        self._max_iters = int(max_iters)
        self._max_epochs = -(-self._max_iters // self.epoch_length)
        self._epoch = 0
        self._iter = 0
        self.completed = 0
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False
        if hasattr(self.dataloader.dataset, 'metainfo'):
            runner.visualizer.dataset_meta = self.dataloader.dataset.metainfo

    @property
    def max_epochs(self) -> int:
        """Epochs, the last one possibly cut short."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Iterations of the whole training."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """Current epoch, from 0."""
        return self._epoch

    @property
    def iter(self) -> int:
        """Current iteration, from 0."""
        return self._iter

    def run(self) -> Any:
        """Train to ``max_iters`` or until ``stop_training``."""
        runner = self.runner
        self._epoch = self._iter // self.epoch_length
        self.completed = self._iter
        runner.call_hook('before_train')
        self.dataloader.batch_sampler.start_iteration = self._iter
        batches = iter(self.dataloader)
        # after the loader was made: making it draws from the global generator
        runner.restore_rng()
        try:
            self._train(batches)
        finally:
            self._close(batches)
        runner.call_hook('after_train')
        return runner.model

    def _train(self, batches: Iterator) -> None:
        new_epoch = True
        while self._iter < self._max_iters and not self.stop_training:
            if new_epoch:
                self.runner.call_hook('before_train_epoch')
                self.runner.model.train()
            self.run_iter(self._iter % self.epoch_length, next(batches))
            new_epoch = self._iter % self.epoch_length == 0 or self._iter == self._max_iters
            if new_epoch:
                self._end_epoch()

    def _close(self, batches: Iterator) -> None:
        """End the loader's workers: of an endless stream nothing else does before the exit.

        There they get a SIGTERM, which only Linux workers obey (see the runner): elsewhere the
        process would wait for them forever.
        """
        if hasattr(batches, '_shutdown_workers'):
            batches._shutdown_workers()
        self.dataloader._iterator = None

    def run_iter(self, batch_idx: int, data_batch: Any) -> None:
        """One iteration."""
        if self._iter % HISTORY == 0:  # here, so that a resumed run does it, too
            self._cut_histories()
        self.runner.call_hook('before_train_iter', batch_idx=batch_idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
        self.completed = self._iter + 1
        self.runner.call_hook(
            'after_train_iter', batch_idx=batch_idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _cut_histories(self) -> None:
        """Forget old values: MMEngine copies all of them whenever it adds one."""
        kept = max(HISTORY, self.runner.log_processor.window_size)
        scalars = self.runner.message_hub.log_scalars
        for name, buffer in scalars.items():
            scalars[name] = HistoryBuffer(*(part[-kept:] for part in buffer.data))

    def _end_epoch(self) -> None:
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        if (
            self.runner.val_loop is not None
            and not self.stop_training
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        ):
            self._share_buffers()
            with self.runner.outside_training():
                self.runner.val_loop.run()

    def _share_buffers(self) -> None:
        """Give all ranks the BatchNorm statistics of rank 0, which stand in the checkpoints.

        Each rank has gathered those of its own samples: frames would be evaluated by different
        models, none of them the one that is saved.
        """
        if self.runner.distributed:
            for buffer in self.runner.bare_model.buffers():
                broadcast(buffer)
