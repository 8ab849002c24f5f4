"""AD-L-JEPA: JEPA on sparse-voxel LiDAR."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.layers.rows import fill_map, gather_rows
from mmjepa.models.masks import BEVMasks
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .base import BaseJEPA


@MODELS.register_module()
class ADLJEPA(BaseJEPA):
    """Self-Supervised Representation Learning with JEPA for Automotive LiDAR Object Detection.

    arXiv 2501.04969. Half of the BEV cells are hidden; the context encoder sees the voxels of the
    visible ones, and a convolutional predictor guesses the embeddings that an EMA target encoder
    computes from the hidden voxels alone, or the empty token where nothing was.

    Deviations from the released code, each an option where it changes the result:
        * tokens are trained (``train_tokens=False`` restores the frozen draw of the release);
        * the target has a stop-gradient, without which trained tokens chase the prediction;
        * no GT sampling, which needs labels;
        * samples with fewer than two rows don't enter the variance term (NaN in the release);
        * losses are computed on gathered rows only, with the same value.

    Args:
        encoder: sparse encoder with ``forward_sparse`` and ``bev_rows``.
        target: EMA policy in train mode: its BatchNorm must use batch statistics.
        predictor: BEV predictor.
        mask_generator: :class:`BEVMaskGenerator`.
        loss: :class:`BEVJEPALoss`.
        train_tokens: optimise mask and empty token.
        empty_token: use an empty token for visible empty cells; False puts zeros there (ablation),
            the targets of masked empty cells stay the token's direction.
        data_preprocessor: :class:`VoxelPreprocessor`.
        init_cfg: as in ``mmengine.model.BaseModule``.
    """

    contract = {'keep_ids': 'sparse voxels have no token ids; hidden voxels are left out'}

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        train_tokens: bool = True,
        empty_token: bool = True,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        if isinstance(predictor, dict) and 'channels' not in predictor:
            encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
            predictor = dict(predictor, channels=encoder.out_channels)
        super().__init__(
            encoder, target, predictor, mask_generator, loss, data_preprocessor, init_cfg
        )
        channels = self.encoder.out_channels
        self.use_empty_token = empty_token
        self.mask_token = nn.Parameter(torch.randn(1, channels), requires_grad=train_tokens)
        # without the empty token in the context nothing but its direction as a target is used
        self.empty_token = nn.Parameter(
            torch.randn(1, channels), requires_grad=train_tokens and empty_token
        )

    def extract_feat(self, inputs: dict) -> Tensor:
        """Raw BEV embeddings (B, C, h, w) of the whole cloud."""
        return self.encoder(inputs['feats'], inputs['coors'], inputs['batch_size'])

    def _masks(self, inputs: dict) -> BEVMasks:
        h, w = self.encoder.bev_shape
        stride = self.encoder.stride
        coors = inputs['coors'].long()
        cells = (coors[:, 0] * h + coors[:, 2] // stride) * w + coors[:, 3] // stride
        return self.require_masks()(cells, inputs['batch_size'], (h, w), inputs['seeds'])

    def _context(self, inputs: dict, masks: BEVMasks) -> tuple[Tensor, Tensor]:
        """Unit rows (n_CO, C) at visible occupied cells, and the filled unit map (B, C, h, w)."""
        batch_size, (h, w) = inputs['batch_size'], self.encoder.bev_shape
        seen = masks.visible_voxels
        sparse = self.encoder.forward_sparse(
            inputs['feats'][seen], inputs['coors'][seen], batch_size
        )
        rows = F.normalize(self.encoder.bev_rows(sparse, masks.visible_occupied).float(), dim=1)
        empty = F.normalize(self.empty_token, dim=1)
        if not self.use_empty_token:
            empty = torch.zeros_like(empty)
        tokens = torch.cat([empty, F.normalize(self.mask_token, dim=1)])
        dtype = (
            torch.get_autocast_dtype(rows.device.type)
            if torch.is_autocast_enabled(rows.device.type)
            else rows.dtype
        )
        is_masked = (masks.classes.view(-1) & 1).long()
        filled = fill_map(rows, tokens, masks.visible_occupied, is_masked, dtype)
        return rows, filled.view(batch_size, h, w, -1).permute(0, 3, 1, 2)

    def _target_rows(self, inputs: dict, masks: BEVMasks) -> Tensor:
        """Unit targets (n_TO, C) from the hidden voxels alone."""
        hidden = masks.masked_voxels
        sparse = self.target(
            self.encoder,
            inputs['feats'][hidden],
            inputs['coors'][hidden],
            inputs['batch_size'],
            method='forward_sparse',
        )
        with torch.set_grad_enabled(self.target.policy == 'online_grad'):
            return F.normalize(self.encoder.bev_rows(sparse, masks.masked_occupied).float(), dim=1)

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Losses of one batch of voxels.

        Args:
            inputs: ``feats`` (M, F), ``coors`` (M, 4) as b, z, y, x, ``batch_size`` and
                ``seeds`` (B,).
            data_samples: unused; never labels.
        """
        masks = self._masks(inputs)
        rows, context = self._context(inputs, masks)
        prediction = self.predictor(context).permute(0, 2, 3, 1).flatten(0, 2)
        target = self._target_rows(inputs, masks)
        occupied = gather_rows(prediction, masks.masked_occupied)
        cells_per_sample = self.encoder.bev_shape[0] * self.encoder.bev_shape[1]
        self.record(target, occupied, masks.masked_occupied // cells_per_sample)
        losses = self.loss_module(
            context_rows=rows,
            context_sample=masks.visible_occupied // cells_per_sample,
            predicted_occupied=occupied,
            occupied_sample=masks.masked_occupied // cells_per_sample,
            target_occupied=target,
            predicted_empty=gather_rows(prediction, masks.masked_empty),
            target_empty=F.normalize(self.empty_token.detach(), dim=1),
            batch_size=inputs['batch_size'],
        )
        losses.update({k: v for k, v in inputs.items() if k.startswith('dropped_')})
        return losses

    @torch.no_grad()
    def inspect(self, inputs: dict) -> dict[str, Tensor]:
        """Everything a picture needs, L2-normalised over channels.

        Returns:
            ``mask_classes`` (B, h, w) as in :class:`BEVMasks`; ``context``, ``prediction`` and
            ``target``, each (B, C, h, w); the target map is zero where no target exists.
        """
        masks = self._masks(inputs)
        _, context = self._context(inputs, masks)
        prediction = F.normalize(self.predictor(context).float(), dim=1)
        target = torch.zeros_like(prediction).permute(0, 2, 3, 1).flatten(0, 2)
        target[masks.masked_occupied] = self._target_rows(inputs, masks)
        target[masks.masked_empty] = F.normalize(self.empty_token, dim=1)
        target = target.view(*masks.classes.shape, -1).permute(0, 3, 1, 2)
        return dict(
            mask_classes=masks.classes,
            context=context.float(),
            prediction=prediction,
            target=target,
        )
