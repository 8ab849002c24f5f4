"""Occupancy-MAE: predicts which voxels of a sweep are occupied from a part of them."""

from typing import Any

import torch
from torch import Tensor, nn

from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .losses import occupancy_bce
from .targets import DATA_TARGET_CONTRACT


@MODELS.register_module()
class OccupancyMAE(BaseJEPA):
    """Occupancy-MAE: Self-supervised Pre-training Large-scale LiDAR Point Clouds.

    arXiv 2206.09900. Voxels are dropped, more of them near the sensor; a decoder of transposed
    convolutions predicts the occupancy of every voxel of the grid from the rest.

    Deviations from the released code, of which only a description was used:
        * distances of the range-aware rule are metres from the sensor; the released ones are
          voxels from the grid's corner (``mask_generator.distance='corner_index'``);
        * the voxels that stay are a random subset; the release shuffles a tensor with Python's
          ``random.shuffle``, which duplicates rows;
        * kernels, norms and paddings of the decoder are ours, see :class:`OccupancyDecoder`.

    "The whole input" are the voxels that the preprocessor made: where its cap binds, those
    left out count as empty.

    Args:
        encoder: sparse encoder with ``forward_sparse``.
        target: policy ``'data'`` with :class:`OccupiedVoxels`.
        predictor: :class:`OccupancyDecoder`; a config takes channels and grids from the encoder.
        mask_generator: :class:`RangeAwareMaskGenerator`.
        data_preprocessor: :class:`VoxelPreprocessor`.
        init_cfg: as in ``mmengine.model.BaseModule``.
    """

    contract = DATA_TARGET_CONTRACT

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        context: Any = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        if isinstance(predictor, dict):
            predictor = dict(
                predictor,
                in_channels=context.out_channels // context.out_depth,
                in_shape=(context.out_depth, *context.bev_shape),
                out_shape=context.sparse_shape,
            )
        super().__init__(
            context,
            target,
            predictor,
            mask_generator,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def extract_feat(self, inputs: dict) -> Tensor:
        """BEV features (B, C, h, w) of the whole cloud."""
        return self.encoder(inputs['feats'], inputs['coors'], inputs['batch_size'])

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of one batch of voxels.

        Args:
            inputs: ``feats`` (M, F), ``coors`` (M, 4) as b, z, y, x, ``batch_size`` and
                ``seeds`` (B,).
            data_samples: unused; never labels.

        Returns:
            ``loss_occupancy``, and as monitors the mean predicted probability of occupied
            voxels that were dropped and of those that were seen.
        """
        feats, coors, batch_size = inputs['feats'], inputs['coors'], inputs['batch_size']
        shape = self.encoder.sparse_shape
        masks = self.require_masks()(coors, batch_size, shape, inputs['seeds'])
        seen, hidden = masks.visible_voxels, masks.masked_voxels
        sparse = self.encoder.forward_sparse(feats[seen], coors[seen], batch_size)
        logits = self.predictor(sparse.dense()).contiguous()
        occupied = self.target(self.encoder, coors, shape)
        with torch.no_grad():
            probability = logits.flatten()[occupied].float().sigmoid()
        losses = dict(
            loss_occupancy=occupancy_bce(logits, occupied),
            probability_masked=probability[hidden].sum() / max(len(hidden), 1),
            probability_visible=probability[seen].sum() / max(len(seen), 1),
        )
        losses.update({k: v for k, v in inputs.items() if k.startswith('dropped_')})
        return losses
