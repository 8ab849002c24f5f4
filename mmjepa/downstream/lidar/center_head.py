"""CenterPoint's head for data sets without velocities."""

from typing import Any

import torch
from mmdet3d.models.dense_heads import CenterHead
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes


@MODELS.register_module()
class StaticCenterHead(CenterHead):
    """mmdet3d's ``CenterHead``, which takes boxes with velocities only, for boxes without.

    Velocities are zero in targets and predictions; ``code_weights`` of ``train_cfg`` still names
    ten weights, the last two 0. ``common_heads`` has no ``vel``.
    """

    def get_targets_single(self, gt_instances_3d: Any) -> tuple:
        """Targets of one sample; boxes (N, 7) gain two zeros."""
        boxes = gt_instances_3d.bboxes_3d
        padded = gt_instances_3d.clone()
        padded.bboxes_3d = LiDARInstance3DBoxes(
            torch.nn.functional.pad(boxes.tensor, (0, 2)), box_dim=9
        )
        return super().get_targets_single(padded)

    def loss_by_feat(
        self, preds_dicts: Any, batch_gt_instances_3d: list, *args: Any, **kwargs: Any
    ) -> dict:
        """Losses by task; the velocity's weigh nothing."""
        for task in preds_dicts:
            task[0]['vel'] = torch.zeros_like(task[0]['reg'])
        return super().loss_by_feat(preds_dicts, batch_gt_instances_3d, *args, **kwargs)
