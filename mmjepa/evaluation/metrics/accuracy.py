"""Top-k accuracy as MMEngine metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric

from mmjepa.evaluation.functional.views import average_views
from mmjepa.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of the samples whose class is among the k highest scores, in percent.

    One entry a sample, so that MMEngine can drop what pads the last batch of the last rank: the
    figures are those of the whole data set, on any number of ranks and in batches of any size. Of
    equal scores that of the lower class counts as the higher one, as by ``argmax``. Where a sample
    has several views (crops or clips of a video), their softmaxes are averaged.

    Args:
        topk: the k's.
        prefix: of the names of the figures.
        collect_device: as in MMEngine.
        collect_dir: as in MMEngine.

    Raises:
        ValueError: no k, or one below 1.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        topk: Sequence[int] = (1, 5),
        prefix: str | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        if not topk or min(topk) < 1:
            raise ValueError(f'topk must be one or more positive numbers, got {topk}')
        self.topk = tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the place of the true class among the scores of each sample.

        Args:
            data_batch: not used.
            data_samples: with ``scores`` (C,), or logits (V, C) of V views, and ``label``.

        Raises:
            ValueError: scores that aren't finite, or no more classes than the largest k.
        """
        for sample in data_samples:
            scores, label = torch.as_tensor(sample['scores']), sample['label']
            if not bool(scores.isfinite().all()):
                raise ValueError(f'{sample.get("path", "a sample")}: scores with NaN or Inf')
            if scores.ndim == 2:
                scores = average_views(scores.float())
            if len(scores) <= max(self.topk):
                raise ValueError(
                    f'topk={self.topk} of {len(scores)} classes: every sample would be right; '
                    'give smaller ones'
                )
            above = (scores > scores[label]).sum() + (scores[:label] == scores[label]).sum()
            self.results.append(int(above))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """``top1``, ``top5``, ... over all samples of all ranks.

        Args:
            results: places, from 0.

        Raises:
            ValueError: nothing was predicted.
        """
        if not results:
            raise ValueError('nothing was predicted: the evaluation data set is empty')
        places = np.asarray(results)
        return {f'top{k}': 100 * float((places < k).mean()) for k in self.topk}
