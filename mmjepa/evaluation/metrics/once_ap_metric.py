"""ONCE AP as MMEngine metric."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmjepa.registry import METRICS

from ..functional.once_ap import MIN_IOU, SUPERCLASS, once_ap
from .lidar_predictions import (
    FloatArray,
    as_array,
    class_names,
    dataset_classes,
    lidar_boxes,
    read_predictions,
)


@METRICS.register_module()
class ONCEAPMetric(BaseMetric):
    """ONCE's orientation-aware AP of a mmdet3d LiDAR detector; needs no CUDA.

    Ground truth comes with the data samples (``eval_ann_info``, which mmdet3d's data sets add in
    test mode); label -1 takes no part. Cars, buses and trucks count as ``Vehicle``.

    Args:
        min_iou: lowest 3D IoU by superclass; ONCE's by default.
        device: where overlaps are computed.
        prefix: of the names of the figures.
        collect_device: as in MMEngine.
        collect_dir: as in MMEngine.
    """

    default_prefix = 'once'

    def __init__(
        self,
        min_iou: Mapping[str, float] | None = None,
        device: str = 'cpu',
        prefix: str | None = None,
        collect_device: str = 'cpu',
        collect_dir: str | None = None,
    ):
        super().__init__(collect_device=collect_device, prefix=prefix, collect_dir=collect_dir)
        self.min_iou = dict(MIN_IOU if min_iou is None else min_iou)
        self.device = device

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps detections and ground truth of a batch.

        Args:
            data_batch: not used.
            data_samples: with ``pred_instances_3d`` and ``eval_ann_info``.

        Raises:
            ValueError: one of them is missing or of the wrong kind.
        """
        for sample in data_samples:
            where = f'frame {sample.get("lidar_path") or sample.get("sample_idx")}'
            found = read_predictions(sample, where)
            info = sample.get('eval_ann_info')
            if not info or 'gt_bboxes_3d' not in info or 'gt_labels_3d' not in info:
                raise ValueError(
                    f'{where}: no ground truth in eval_ann_info; the evaluation data set needs '
                    'test_mode=True, load_eval_anns=True and labelled frames'
                )
            labels = as_array(info['gt_labels_3d']).astype(np.int64)
            boxes = lidar_boxes(info['gt_bboxes_3d'], where)
            real = labels >= 0
            truth = {
                'name': class_names(self.dataset_meta, labels[real], where),
                'boxes_3d': _gravity_centre(boxes[real]),
            }
            detections = {
                'name': class_names(self.dataset_meta, found.labels, where),
                'boxes_3d': _gravity_centre(found.boxes),
                'score': found.scores,
            }
            self.results.append((truth, detections))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluates all frames.

        Args:
            results: what :meth:`process` kept, of all ranks.

        Returns:
            Figures as :func:`mmjepa.evaluation.functional.once_ap` names them.

        Raises:
            ValueError: nothing was predicted, or none of the classes is ONCE's.
        """
        if not results:
            raise ValueError(
                'nothing was predicted: the evaluation data set is empty (see its ann_file)'
            )
        classes = dataset_classes(self.dataset_meta)
        if not {SUPERCLASS.get(name, name) for name in classes} & self.min_iou.keys():
            raise ValueError(
                f'none of the classes {", ".join(classes)} is evaluated: ONCE has '
                f'{", ".join([*self.min_iou, *SUPERCLASS])}'
            )
        truth, detections = zip(*results, strict=True)
        result = once_ap(truth, detections, min_iou=self.min_iou, device=self.device)
        print_log(f'ONCE, {len(results)} frames\n{result.table}', logger='current')
        for note in result.notes:
            print_log(note, logger='current', level=logging.WARNING)
        return result.metrics


def _gravity_centre(boxes: FloatArray) -> FloatArray:
    """mmdet3d's boxes stand on their z; ONCE's have it in the middle."""
    lifted = boxes.copy()
    lifted[:, 2] += lifted[:, 5] / 2
    return lifted
