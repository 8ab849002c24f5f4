"""I-JEPA: JEPA on images."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.masks import BlockMasks
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .base import BaseJEPA


@MODELS.register_module()
class IJEPA(BaseJEPA):
    """Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture.

    arXiv 2301.08243. From the visible patches of one context block a narrow predictor guesses the
    layer-normed embeddings that an EMA encoder of the whole image gives to the patches of several
    target blocks, each block by itself.

    Where paper and released code differ, the code: smooth-L1 instead of L2, cosine weight decay.
    Deviation from the code: masks are a function of the samples' seeds, not of worker timing.

    Args:
        encoder: :class:`JEPAViT`.
        target: EMA policy.
        predictor: :class:`ViTPredictor`; grid, width and heads are the encoder's where not given.
        mask_generator: :class:`MultiBlockMaskGenerator`.
        loss: :class:`RegressionLoss`.
        target_norm: ``'layer'``: targets are normalised over channels; ``'none'``.
        data_preprocessor: :class:`ImagePreprocessor`.
        head: see :class:`DMTJEPA`.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        ValueError: the masks don't fit the encoder's grid.
    """

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        target_norm: Literal['layer', 'none'] = 'layer',
        data_preprocessor: dict | nn.Module | None = None,
        head: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        if target_norm not in ('layer', 'none'):
            raise ValueError(f"target_norm must be 'layer' or 'none', got {target_norm!r}")
        encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        shape = dict(
            grid=encoder.grid, in_channels=encoder.out_channels, num_heads=encoder.num_heads
        )
        if isinstance(predictor, dict):
            predictor = {**shape, **predictor}
        super().__init__(
            encoder, target, predictor, mask_generator, loss, data_preprocessor, init_cfg, head
        )
        self.target_norm = target_norm
        if self.mask_generator is not None:
            self.mask_generator.check(self.encoder.grid)

    def extract_feat(self, inputs: dict) -> Tensor:
        """Tokens (B, N, D) of the whole images, row by row."""
        return self.encoder(inputs['images'])

    def _context(self, images: Tensor, masks: BlockMasks) -> Tensor:
        """(B, K_c, D) from the visible patches alone."""
        return self.encoder(images, masks.context)

    def _normalised(self, tokens: Tensor) -> Tensor:
        """(..., D) float32."""
        tokens = tokens.float()
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.target_norm == 'layer' else tokens

    def _target_tokens(self, images: Tensor) -> Tensor:
        """(B, N, D) float32 of whole images, whose patches all see each other."""
        return self._normalised(self.target(self.encoder, images))

    def _targets(self, images: Tensor, masks: BlockMasks, grid: tuple[int, int]) -> Tensor:
        """(B, M, K_t, D)."""
        wanted = self.target(self.encoder, images).flatten(0, 1)[masks.rows]
        return self._normalised(wanted)[masks.places]

    def _draw(self, inputs: dict) -> tuple[BlockMasks, tuple[int, int]]:
        images = inputs['images']
        grid = self.encoder.grid_of(*images.shape[2:])
        return self.require_masks()(inputs['seeds'], grid).to(images.device), grid

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of a batch of images.

        Args:
            inputs: ``images`` (B, 3, H, W) normalised, ``seeds`` (B,) int64 on the CPU.
            data_samples: unused; never labels.
        """
        masks, grid = self._draw(inputs)
        context = self._context(inputs['images'], masks)
        prediction = self.predictor(context, masks.context, masks.targets, grid)
        target = self._targets(inputs['images'], masks, grid)
        if self.capture:
            rows = target.shape[1] * target.shape[2]
            images = torch.arange(len(target), device=target.device).repeat_interleave(rows)
            self.record(target.flatten(0, 2), prediction.flatten(0, 2), images)
        return self.loss_module(prediction, target)

    @torch.no_grad()
    def monitor_distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N,) error of rows, in the kind of the loss."""
        return self.loss_module.error(prediction, target).mean(1)

    @torch.no_grad()
    def inspect(self, inputs: dict) -> dict[str, Any]:
        """What a picture needs.

        Returns:
            ``masks`` (:class:`BlockMasks`), ``grid``, ``prediction`` and ``target``
            (B, M, K_t, D), and ``tokens`` (B, N, D), all target tokens.
        """
        masks, grid = self._draw(inputs)
        context = self._context(inputs['images'], masks)
        return dict(
            masks=masks,
            grid=grid,
            prediction=self.predictor(context, masks.context, masks.targets, grid).float(),
            target=self._targets(inputs['images'], masks, grid),
            tokens=self._target_tokens(inputs['images']),
        )
