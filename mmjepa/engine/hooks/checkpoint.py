"""Checkpoint hook."""

import os.path as osp
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from mmjepa.engine.checkpoint import atomic_write
from mmjepa.registry import HOOKS


def point_to(runner: Any, path: Path) -> None:
    """Name the checkpoint just written in the work dir's ``last_checkpoint``."""
    atomic_write(
        osp.join(runner.work_dir, 'last_checkpoint'), lambda file: file.write(str(path).encode())
    )


@HOOKS.register_module()
class JEPACheckpointHook(CheckpointHook):
    """MMEngine's hook on local disks, with a new file standing before an old one goes.

    Retention counts regular checkpoints; one that was saved on a signal goes with the next regular
    one. The best checkpoint by a metric needs no validation loop: whoever measures (a probe, with
    a priority below ``VERY_LOW``) says ``runner.call_hook('after_val_epoch', metrics=...)``.

    Args:
        interval: epochs or iterations between checkpoints.
        by_epoch: what ``interval`` counts.
        max_keep_ckpts: regular checkpoints to keep; -1 keeps all.
        save_last: also after the last epoch or iteration.
        save_begin: no checkpoint before this epoch or iteration.
        save_best: names of metrics whose best checkpoint is kept as ``best_<metric>_*.pth``, or
            ``'auto'`` for the first one reported.
        rule: ``'greater'`` or ``'less'``; where None, the metric's name decides as in MMEngine.
        greater_keys: names that mean greater is better.
        less_keys: names that mean less is better.
        save_optimizer: include the optimizer, without which there is no resume.
        save_param_scheduler: include the schedules.
        out_dir: put checkpoints into ``out_dir/<name of the work dir>`` instead of the work dir.
    """

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_begin: int = 0,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
    ):
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_last=save_last,
            save_begin=save_begin,
            save_best=save_best,
            rule=rule,
            greater_keys=greater_keys,
            less_keys=less_keys,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            out_dir=out_dir,
        )

    def before_train(self, runner: Any) -> None:
        """Where checkpoints go, and which there are of a resumed run."""
        self.folder = Path(runner.work_dir)
        if self.out_dir is not None:
            self.folder = Path(self.out_dir, self.folder.name)
        self._kept: list[int] = list(runner.message_hub.runtime_info.get('keep_ckpt_ids', []))

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        hub = runner.message_hub
        path = self.folder / self.filename_tmpl.format(step)
        self.last_ckpt = str(path)
        self._kept = [s for s in self._kept if s != step] + [step]
        kept = self._kept[-self.max_keep_ckpts :] if self.max_keep_ckpts > 0 else self._kept
        outdated = [self.folder / self.filename_tmpl.format(s) for s in self._kept if s not in kept]
        if self.max_keep_ckpts > 0:
            outdated += [Path(p) for p in hub.runtime_info.get('signal_ckpts', [])]
            hub.update_info('signal_ckpts', [])
        self._kept = kept
        hub.update_info('keep_ckpt_ids', list(kept))
        hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            str(self.folder),
            path.name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
        )
        if is_main_process():
            point_to(runner, path)
            here = {self.filename_tmpl.format(s) for s in kept}
            for old in outdated:
                if old.name not in here:
                    old.unlink(missing_ok=True)

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        loop, hub = runner.train_loop, runner.message_hub
        iteration = getattr(loop, 'completed', runner.iter)
        step = -(-iteration // len(loop.dataloader)) if self.by_epoch else iteration
        meta = dict(epoch=runner.epoch, iter=iteration)
        improved = False
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            if key not in metrics:
                runner.logger.warning(
                    f'save_best={key!r}: not among the metrics reported, {sorted(metrics)}'
                )
                continue
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            best = hub.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            score = metrics[key]
            if score is None or not self.is_better_than[key](score, best):
                continue
            improved = True
            old = hub.runtime_info.get(f'best_ckpt{suffix}')
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            hub.update_info(f'best_score{suffix}', score)
            hub.update_info(f'best_ckpt{suffix}', str(self.folder / name))
            runner.save_checkpoint(
                str(self.folder),
                name,
                save_optimizer=False,
                save_param_scheduler=False,
                meta=meta,
                by_epoch=False,
            )
            runner.logger.info(f'best {key} so far, {score:.4f}: saved to {name}')
            if old and is_main_process() and Path(old).name != name:
                Path(old).unlink(missing_ok=True)
        if improved and self.last_ckpt is not None:
            # once more, so that a resumed run knows the best score and its file
            self._save_checkpoint_with_step(runner, step, meta)
