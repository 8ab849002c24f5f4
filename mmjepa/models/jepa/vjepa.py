"""V-JEPA: JEPA on video."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.masks import ClipMasks
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .base import BaseJEPA


@MODELS.register_module()
class VJEPA(BaseJEPA):
    """Revisiting Feature Prediction for Learning Visual Representations from Video.

    arXiv 2404.08471; with rotary positions V-JEPA 2's pre-training (2506.09985). From the visible
    tubelets of a clip a narrow predictor guesses the layer-normed embeddings that an EMA encoder
    of the whole clip gives to the hidden ones. Every clip has several masks, each with a context
    and a prediction of its own; one pass of the target encoder serves them all. The loss is the
    mean over the masks of each one's mean.

    Deviation from the code: masks are a function of the samples' seeds, not of worker timing. Its
    variance term (weight 0 in all its configs) is left out.

    Args:
        encoder: :class:`JEPAViT` with ``num_frames``.
        target: EMA policy, or another: see :class:`SALT` and :class:`VPixel`.
        predictor: :class:`ViTPredictor`; grid, widths and heads follow from encoder and target
            where not given. It has one mask token, or one for each mask.
        mask_generator: :class:`MultiBlock3DMaskGenerator`, or another of clips.
        loss: :class:`RegressionLoss`.
        target_norm: ``'layer'``: targets are normalised over channels; ``'none'``.
        data_preprocessor: :class:`VideoPreprocessor`.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        ValueError: parts that don't fit together.
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
        init_cfg: dict | list | None = None,
    ):
        if target_norm not in ('layer', 'none'):
            raise ValueError(f"target_norm must be 'layer' or 'none', got {target_norm!r}")
        encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        if encoder.num_frames is None:
            raise ValueError(f'{type(self).__name__} takes clips: give the encoder num_frames')
        target = MODELS.build(target) if isinstance(target, dict) else target
        if isinstance(predictor, dict):
            follows = dict(
                grid=encoder.grid, in_channels=encoder.out_channels, num_heads=encoder.num_heads
            )
            follows['out_channels'] = _source(encoder, target).out_channels
            predictor = {**follows, **predictor}
        super().__init__(
            encoder, target, predictor, mask_generator, loss, data_preprocessor, init_cfg
        )
        self.target_norm = target_norm
        self._check_parts()

    def _check_parts(self) -> None:
        source = _source(self.encoder, self.target)
        for name in ('patch_size', 'tubelet_size'):
            ours, theirs = getattr(self.encoder, name), getattr(source, name)
            if ours != theirs:
                raise ValueError(f'{name} of the encoder is {ours}, that of the target {theirs}')
        if self.mask_generator is None:
            return
        self.mask_generator.check(self.encoder.grid)
        tokens, masks = len(self.predictor.mask_token), self.mask_generator.num_masks
        if tokens not in (1, masks):
            raise ValueError(f'predictor.mask_tokens is {tokens}: 1, or {masks} for {masks} masks')

    def extract_feat(self, inputs: dict) -> Tensor:
        """Tokens (B * n, L, D) of the whole clips, time by time, row by row."""
        return self.encoder(inputs['videos'])

    def _draw(self, inputs: dict) -> tuple[list[ClipMasks], tuple[int, int, int]]:
        videos = inputs['videos']
        grid = self.encoder.grid_of(*videos.shape[2:])
        return [m.to(videos.device) for m in self.require_masks()(inputs['seeds'], grid)], grid

    def _targets(self, videos: Tensor) -> Tensor:
        """(B, L, D) float32 of whole clips, whose tubelets all see each other."""
        tokens = self.target(self.encoder, videos).float()
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.target_norm == 'layer' else tokens

    def _pairs(self, inputs: dict) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]:
        """What was drawn and aimed at, and (B, K_t, D) prediction and target for each mask."""
        videos = inputs['videos']
        masks, grid = self._draw(inputs)
        tokens = self._targets(videos)
        first = torch.arange(len(videos), device=videos.device)[:, None] * tokens.shape[1]
        pairs = []
        for i, mask in enumerate(masks):
            valid = None
            if mask.context_valid is not None and mask.targets_valid is not None:
                valid = torch.cat([mask.context_valid, mask.targets_valid], 1)
            context = self.encoder(videos, mask.context, mask.context_valid)
            prediction = self.predictor(
                context,
                mask.context,
                mask.targets,
                grid,
                mask_index=i % len(self.predictor.mask_token),
                valid=valid,
            )
            pairs.append((prediction, tokens.flatten(0, 1)[first + mask.targets]))
        return dict(masks=masks, grid=grid, tokens=tokens), pairs

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of a batch of clips.

        Args:
            inputs: ``videos`` (B * n, 3, T, H, W) normalised, ``seeds`` (B * n,) int64 on the CPU.
            data_samples: unused; never labels.
        """
        drawn, pairs = self._pairs(inputs)
        pairs = [(p.flatten(0, 1), t.flatten(0, 1)) for p, t in pairs]
        for i, asked in enumerate(mask.asked for mask in drawn['masks']):
            if asked is not None:
                pairs[i] = pairs[i][0][asked], pairs[i][1][asked]
        if self.capture:
            predictions, targets = (torch.cat(side) for side in zip(*pairs, strict=True))
            self.record(targets, predictions, _clips_of(drawn['masks']))
        losses = [self.loss_module(*pair)['loss_prediction'] for pair in pairs]
        return dict(loss_prediction=torch.stack(losses).mean())

    @torch.no_grad()
    def monitor_distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N,) error of rows, in the kind of the loss."""
        return self.loss_module.error(prediction, target).mean(1)

    @torch.no_grad()
    def inspect(self, inputs: dict) -> dict[str, Any]:
        """What a picture needs.

        Returns:
            ``masks`` (:class:`ClipMasks`), ``prediction`` and ``target`` (B * n, K_t, D), each a
            list with an entry a mask; ``grid``; ``tokens`` (B * n, L, D), all targets.
        """
        seen, pairs = self._pairs(inputs)
        predictions, targets = zip(*pairs, strict=True)
        return dict(seen, prediction=[p.float() for p in predictions], target=list(targets))


def _clips_of(masks: list[ClipMasks]) -> Tensor:
    """(N,) int64 the clip of each target that counts, mask by mask."""
    rows = []
    for mask in masks:
        ids = torch.arange(mask.targets.numel(), device=mask.targets.device)
        rows.append((ids if mask.asked is None else mask.asked) // mask.targets.shape[1])
    return torch.cat(rows)


def _source(encoder: Any, target: TargetEncoder) -> Any:
    """What decides over width and tubelets of the targets."""
    if target.policy == 'data':
        return target.transform
    return encoder if target.encoder is None else target.encoder
