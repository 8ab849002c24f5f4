"""Collapse is seen in representations, not in the loss."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from torch import Tensor

from mmjepa.evaluation.functional import effective_rank, feature_std, within_share
from mmjepa.registry import HOOKS


@torch.no_grad()
def collapse_statistics(
    model: Any, target: Tensor, prediction: Tensor, samples: Tensor | None = None
) -> Tensor:
    """Measure matching rows of targets and predictions.

    Args:
        model: gives ``monitor_distance``.
        target: (N, D).
        prediction: (N, D).
        samples: (N,) int64 the rows' samples.

    Returns:
        (7,): std x sqrt(D) of normalised targets and of normalised predictions (1 at most for
        isotropic rows), effective rank of centred targets and predictions, mean cosine, the loss
        over that of the trivial predictor "mean of the targets", and the share of the targets'
        variance within samples (NaN where these aren't known).
    """
    unit_t, unit_p = F.normalize(target, dim=1), F.normalize(prediction, dim=1)
    trivial = model.monitor_distance(target.mean(0, keepdim=True).expand_as(target), target).mean()
    loss = model.monitor_distance(prediction, target).mean()
    return torch.stack(
        [
            feature_std(target).float(),
            feature_std(prediction).float(),
            effective_rank(unit_t).float(),
            effective_rank(unit_p).float(),
            (unit_t * unit_p).sum(1).mean(),
            loss / trivial.clamp(min=1e-12),
            loss.new_full((), math.nan) if samples is None else within_share(target, samples),
        ]
    )


@HOOKS.register_module()
class CollapseMonitorHook(Hook):
    """Logs the state of the representations and warns in words when they collapse.

    Thresholds are relative to the first measurements of the run. Logged under ``collapse/``:
    ``target_std, prediction_std, target_rank, prediction_rank, cosine, loss_over_trivial`` and,
    where a method tells which rows are one sample's, ``target_within``: near 0 all tokens of a
    sample are the same, which a rank over many samples doesn't show. The
    rank of the predictions is logged only: a random predictor starts with a rank that no trained
    one keeps, in healthy runs too.

    Args:
        interval: iterations between measurements.
        rank_floor: warn when the targets' rank falls below this share of the run's start.
        std_floor: the same for the targets' standard deviation.
        prediction_std_floor: the same for the predictions' standard deviation.
        constant_std: predictions with a standard deviation below this are constant, whatever
            the start was.
    """

    priority = 'HIGH'
    names = (
        'target_std',
        'prediction_std',
        'target_rank',
        'prediction_rank',
        'cosine',
        'loss_over_trivial',
        'target_within',
    )

    def __init__(
        self,
        interval: int = 50,
        rank_floor: float = 0.3,
        std_floor: float = 0.3,
        prediction_std_floor: float = 0.1,
        constant_std: float = 0.02,
    ):
        self.interval = interval
        self.rank_floor = rank_floor
        self.std_floor = std_floor
        self.prediction_std_floor = prediction_std_floor
        self.constant_std = constant_std
        self.start: dict[str, float] | None = None
        self.warnings: list[str] = []

    def before_train(self, runner: Any) -> None:
        """A resumed run keeps the baseline of its start."""
        self.start = runner.message_hub.runtime_info.get('collapse_start')

    def _due(self, runner: Any) -> bool:
        return self.start is None or (runner.iter + 1) % self.interval == 0

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Ask the model for representations where a measurement is due."""
        runner.bare_model.capture = self._due(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Measure, log, warn."""
        model = runner.bare_model
        if not model.capture:
            return
        captured, model.captured, model.capture = model.captured, {}, False
        if len(captured.get('target', ())) < 2:
            return
        values = collapse_statistics(model, **captured).tolist()
        measured = dict(zip(self.names, values, strict=True))
        if 'samples' not in captured:
            del measured['target_within']
        for name, value in measured.items():
            runner.message_hub.update_scalar(f'train/collapse/{name}', value)
        if self.start is None:
            self.start = measured
            runner.message_hub.update_info('collapse_start', measured)
        for text in self.judge(measured):
            self.warnings.append(text)
            runner.logger.warning(f'iteration {runner.iter + 1}: {text}')

    def judge(self, now: dict[str, float]) -> list[str]:
        """Warnings for a measurement, in words."""
        start = self.start or now
        found = []
        if now['target_rank'] < self.rank_floor * start['target_rank']:
            found.append(
                f'targets collapse: effective rank {now["target_rank"]:.1f}, '
                f'{start["target_rank"]:.1f} at the start of the run'
            )
        floors = dict(target=self.std_floor, prediction=self.prediction_std_floor)
        for side, floor in floors.items():
            std = now[f'{side}_std'], start[f'{side}_std']
            if std[0] < floor * std[1]:
                found.append(
                    f'{side}s collapse: standard deviation x sqrt(d) {std[0]:.3f}, '
                    f'{std[1]:.3f} at the start of the run'
                )
        if now['prediction_std'] < self.constant_std:
            found.append(
                f'the prediction is constant: standard deviation x sqrt(d) '
                f'{now["prediction_std"]:.4f}'
            )
        return found
