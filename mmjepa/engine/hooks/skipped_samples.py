"""What ``on_error='skip'`` left out, over all workers and ranks."""

import json
import os.path as osp
from collections import Counter
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook

from mmjepa.engine.checkpoint import atomic_write
from mmjepa.registry import HOOKS


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Counts the bad files that samples of the run replaced (``data_samples[i]['skipped']``).

    Logs each file when it is met first, ``train/skipped_samples`` from the first skip on (the run
    before the last checkpoint, and this rank since), and the total at the end of the run. The
    files and how often each was skipped are written into ``skipped_samples.json`` of the work dir.
    Ranks add up at checkpoints, which carry the counts, and at the end. Never touches the device.
    """

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()  # of all ranks, up to the last sum
        self.own: Counter[str] = Counter()  # of this rank since

    def before_train(self, runner: Any) -> None:
        """A resumed run goes on counting."""
        self.total = Counter(runner.message_hub.runtime_info.get('skipped_samples', {}))
        self.own = Counter()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count."""
        samples = data_batch.get('data_samples') if isinstance(data_batch, dict) else None
        skipped = [path for sample in samples or () for path in sample.get('skipped', ())]
        if not skipped:
            return
        new = sorted(set(skipped) - self.total.keys() - self.own.keys())
        self.own.update(skipped)
        count = self.total.total() + self.own.total()
        runner.message_hub.update_scalar('train/skipped_samples', count)
        if new:
            runner.logger.warning(
                f'iteration {runner.iter + 1}: skipped for the first time: {", ".join(new)} '
                f'[{count} skips, {len(self.total | self.own)} bad files so far]'
            )

    def before_save_on_all_ranks(self, runner: Any) -> None:
        """A checkpoint holds the counts of every rank."""
        self._sum(runner)

    def after_train(self, runner: Any) -> None:
        """Report the run."""
        self._sum(runner)
        if self.total:
            runner.logger.warning(
                f'{self.total.total()} samples of this run were skipped, {len(self.total)} bad '
                f'files: see {self._path(runner)}'
            )
        else:
            runner.logger.info('no sample of this run was skipped')

    def _sum(self, runner: Any) -> None:
        for counts in all_gather_object(dict(self.own)):
            self.total.update(counts)
        self.own = Counter()
        if self.total:
            runner.message_hub.update_info('skipped_samples', dict(self.total))
            if is_main_process():
                text = json.dumps(dict(self.total.most_common()), indent=2) + '\n'
                atomic_write(self._path(runner), lambda file: file.write(text.encode()))

    def _path(self, runner: Any) -> str:
        return osp.join(runner.work_dir, 'skipped_samples.json')
