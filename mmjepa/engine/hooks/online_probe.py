"""Probe accuracy during pre-training, and the best checkpoint by it."""

import os
import os.path as osp
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from mmjepa.engine.checkpoint import atomic_save
from mmjepa.registry import HOOKS

from .runtime_info import DeferredInfoHook


@HOOKS.register_module()
class OnlineProbeHook(Hook):
    """Runs the probe of ``tools/probe.py`` every few epochs or iterations on the current weights.

    Needs labelled training and test splits; training itself never sees a label. The result is
    logged as ``probe/<protocol>`` and handed to the checkpoint hook, so that
    ``save_best='probe/knn', rule='greater'`` keeps the best checkpoint. Beside it stands
    ``probe/train_loss``, the mean loss of the iterations since the last probe (beyond
    :data:`mmjepa.engine.loop.HISTORY`, of the latest ones): pairs that tell whether the loss
    chooses models (:mod:`mmjepa.evaluation.loss_accuracy`).

    Args:
        interval: epochs or iterations between probes.
        data_root: labelled folder; None: the training data's.
        settings: of the probe (``SampleProbeSettings``, with nested dicts for its parts); by
            default kNN with k = 20 on at most 5,000 training and 1,000 test samples, since the
            other ranks wait.
        by_epoch: what ``interval`` counts.

    Raises:
        ValueError: an interval below 1.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        interval: int = 1,
        data_root: str | None = None,
        settings: dict | None = None,
        by_epoch: bool = True,
    ):
        if interval < 1:
            raise ValueError(f'{type(self).__name__}: interval must be at least 1, got {interval}')
        self.interval = interval
        self.data_root = data_root
        self.by_epoch = by_epoch
        self.settings = {**self.defaults(), **(settings or {})}

    def defaults(self) -> dict[str, Any]:
        """Settings where none are given."""
        return dict(arms=('checkpoint',), max_train=5000, max_test=1000, protocol=dict(ks=(20,)))

    def measure(self, cfg: Any, path: str, device: Any) -> dict[str, Any]:
        """Results of the probe for the weights in a file."""
        from mmjepa.evaluation.functional.heads import HeadSchedule
        from mmjepa.evaluation.probes import (
            SampleProbeSettings,
            SampleProtocolSettings,
            probe_samples,
        )

        protocol = self.settings['protocol']
        if isinstance(protocol, dict):
            schedules = {
                name: HeadSchedule(**protocol[name])
                for name in ('linear', 'attentive')
                if isinstance(protocol.get(name), dict)
            }
            protocol = SampleProtocolSettings(**{**protocol, **schedules})
        settings = SampleProbeSettings(**{**self.settings, 'protocol': protocol})
        return probe_samples(cfg, path, settings, device=device, data_root=self.data_root)

    def after_train_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Probe, log, tell the checkpoint hook."""
        if self.by_epoch and self.every_n_epochs(runner, self.interval):
            self._report(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """The same by iterations."""
        if not self.by_epoch and self.every_n_train_iters(runner, self.interval):
            self._report(runner)

    def _report(self, runner: Any) -> None:
        with runner.outside_training():
            loss = self._loss(runner)
            found = [{**self._probe(runner), **loss} if is_main_process() else {}]
            broadcast_object_list(found)
            runner.call_hook('after_val_epoch', metrics=dict(found[0]))

    def _loss(self, runner: Any) -> dict[str, float]:
        """Mean training loss since the last probe; every rank must call it."""
        for hook in runner.hooks:
            if isinstance(hook, DeferredInfoHook):
                hook.flush(runner)
        losses = runner.message_hub.get_scalar('train/loss')
        count = self.interval * (len(runner.train_dataloader) if self.by_epoch else 1)
        return {'probe/train_loss': float(losses.mean(count))}

    def _probe(self, runner: Any) -> dict[str, float]:
        # the tool's own path, through a file: what is measured here is what it would measure
        path = osp.join(runner.work_dir, f'probe_{os.getpid()}.pth')
        atomic_save(dict(state_dict=runner.bare_model.state_dict()), path)
        try:
            device = next(runner.bare_model.parameters()).device
            results = self.measure(runner.cfg, path, device)
        finally:
            os.remove(path)
        return {
            f'probe/{protocol}': arms['checkpoint']['mean']
            for protocol, arms in results['protocols'].items()
        }


@HOOKS.register_module()
class OnlineBEVProbeHook(OnlineProbeHook):
    """As :class:`OnlineProbeHook`, for the BEV cells of LiDAR methods.

    Args:
        interval: epochs or iterations between probes.
        data_root: labelled KITTI folder; None: the training data's.
        settings: of ``BEVProbeSettings``; by default kNN on at most 400 training and 200
            validation frames, since the other ranks wait.
        by_epoch: what ``interval`` counts.
    """

    def defaults(self) -> dict[str, Any]:
        """Settings where none are given."""
        return dict(arms=('checkpoint',), max_train_frames=400, max_val_frames=200)

    def measure(self, cfg: Any, path: str, device: Any) -> dict[str, Any]:
        """Results of the probe for the weights in a file."""
        from mmjepa.evaluation.probes import BEVProbeSettings, probe_bev_cells

        settings = BEVProbeSettings(**self.settings)
        return probe_bev_cells(cfg, path, settings, device=device, data_root=self.data_root)
