"""BEV-MAE: rebuilds the points and the density of hidden BEV cells."""

from typing import Any

import torch
from torch import Tensor, nn

from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.models.layers.rows import gather_rows
from mmjepa.models.masks import BEVMasks
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .targets import DATA_TARGET_CONTRACT


@MODELS.register_module()
class BEVMAE(BaseJEPA):
    """BEV-MAE: Bird's Eye View Masked Autoencoders for Point Cloud Pre-training.

    arXiv 2212.05758. Most of the occupied BEV cells are masked. Their voxels keep their places
    and enter the encoder with one learnable token instead of their features; one convolution
    on the BEV map predicts the points and the point density of the masked cells.

    Written from a description; the released code, under a non-commercial licence, wasn't used.
    Deviations known:
        * the plain encoder, so that all methods are compared on the same one
          (``encoder.block_type='basicblock'`` is the paper's residual one);
        * coordinates are relative to the cell's centre, in z to that of the whole range, and
          divided by its size;
        * the token starts from a normal distribution of standard deviation 0.02.

    Args:
        encoder: sparse encoder.
        target: policy ``'data'`` with :class:`CellPoints`.
        predictor: :class:`CellPointDecoder`; a config takes its channels from the encoder.
        mask_generator: ``BEVMaskGenerator``; masked empty cells have no target, so
            ``empty_mask_ratio`` is best 0.
        loss: :class:`CellPointLoss`.
        data_preprocessor: :class:`PointVoxelPreprocessor`.
        init_cfg: as in ``mmengine.model.BaseModule``.
    """

    contract = DATA_TARGET_CONTRACT

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        context: Any = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        if isinstance(predictor, dict):
            predictor = dict(predictor, channels=context.out_channels)
        super().__init__(
            context, target, predictor, mask_generator, loss, data_preprocessor, init_cfg
        )
        self.point_token = nn.Parameter(0.02 * torch.randn(1, context.in_channels))

    def extract_feat(self, inputs: dict) -> Tensor:
        """BEV features (B, C, h, w) of the whole cloud."""
        return self.encoder(inputs['feats'], inputs['coors'], inputs['batch_size'])

    def _masked(self, inputs: dict) -> tuple[BEVMasks, Tensor]:
        """Masks, and voxel features (M, F) with the token in masked cells."""
        coors, (h, w), stride = inputs['coors'], self.encoder.bev_shape, self.encoder.stride
        cells = (coors[:, 0] * h + coors[:, 2] // stride) * w + coors[:, 3] // stride
        masks = self.require_masks()(cells, inputs['batch_size'], (h, w), inputs['seeds'])
        hidden = (masks.classes.view(-1)[cells] & 1).bool()
        return masks, torch.where(hidden[:, None], self.point_token, inputs['feats'])

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Losses of one batch of voxels and points.

        Args:
            inputs: ``feats`` (M, F), ``coors`` (M, 4) as b, z, y, x, ``batch_size``,
                ``seeds`` (B,), ``points`` (P, 3), ``point_sample`` (P,) and ``grid_shape``.
            data_samples: unused; never labels.
        """
        masks, feats = self._masked(inputs)
        bev = self.predictor(self.encoder(feats, inputs['coors'], inputs['batch_size']))
        rows = gather_rows(bev.permute(0, 2, 3, 1).flatten(0, 2), masks.masked_occupied)
        points, density = self.predictor.split(rows)
        target = self.target(
            self.encoder,
            inputs['points'],
            inputs['point_sample'],
            masks.masked_occupied,
            grid_shape=inputs['grid_shape'],
            bev_shape=self.encoder.bev_shape,
            stride=self.encoder.stride,
            seeds=inputs['seeds'],
        )
        losses = self.loss_module(points, density, target.points, target.valid, target.density)
        losses.update({k: v for k, v in inputs.items() if k.startswith('dropped_')})
        return losses
