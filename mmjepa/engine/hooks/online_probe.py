"""Probe accuracy during pre-training, and the best checkpoint by it."""

import os
import os.path as osp
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook

from mmjepa.engine.checkpoint import atomic_save
from mmjepa.registry import HOOKS


@HOOKS.register_module()
class OnlineBEVProbeHook(Hook):
    """Runs the BEV-cell probe of ``tools/probe.py`` every few epochs on the current weights.

    Needs labelled frames and their splits; training itself never sees a label. The result is
    logged as ``probe/<protocol>`` and handed to the checkpoint hook, so that
    ``save_best='probe/knn', rule='greater'`` keeps the best checkpoint.

    Args:
        interval: epochs between probes.
        data_root: labelled KITTI folder; None: the training data's.
        settings: of ``BEVProbeSettings``; by default kNN on at most 400 training and 200
            validation frames, since the other ranks wait.
    """

    priority = 'LOWEST'

    def __init__(
        self, interval: int = 1, data_root: str | None = None, settings: dict | None = None
    ):
        self.interval = interval
        self.data_root = data_root
        self.settings = dict(
            dict(arms=('checkpoint',), max_train_frames=400, max_val_frames=200), **(settings or {})
        )

    def after_train_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Probe, log, tell the checkpoint hook."""
        if not self.every_n_epochs(runner, self.interval):
            return
        with runner.outside_training():
            found = [self._probe(runner) if is_main_process() else {}]
            broadcast_object_list(found)
            runner.call_hook('after_val_epoch', metrics=dict(found[0]))

    def _probe(self, runner: Any) -> dict[str, float]:
        from mmjepa.evaluation.probes import BEVProbeSettings, probe_bev_cells

        # the tool's own path, through a file: what is measured here is what it would measure
        path = osp.join(runner.work_dir, f'probe_{os.getpid()}.pth')
        atomic_save(dict(state_dict=runner.bare_model.state_dict()), path)
        try:
            results = probe_bev_cells(
                runner.cfg,
                path,
                BEVProbeSettings(**self.settings),
                device=next(runner.bare_model.parameters()).device,
                data_root=self.data_root,
            )
        finally:
            os.remove(path)
        return {
            f'probe/{protocol}': arms['checkpoint']['mean']
            for protocol, arms in results['protocols'].items()
        }
