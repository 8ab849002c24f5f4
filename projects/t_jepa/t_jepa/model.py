"""T-JEPA: JEPA on the rows of a table."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.models.targets import TargetEncoder
from mmjepa.registry import MODELS

from .encoder import gather_tokens
from .masks import FeatureMasks


@MODELS.register_module()
class TJEPA(BaseJEPA):
    """T-JEPA: Augmentation-Free Self-Supervised Learning for Tabular Data.

    arXiv 2410.05016. From the latents of some features of a row a narrow predictor guesses those
    that an EMA encoder of the whole row gives to other features of it.

    Paper and released code differ (``semantics``):
        * ``'paper'``: [REG] tokens are in every context and in no target set, and the predictor
          doesn't see them; the K target sets of a row differ;
        * ``'released'``: masks number the tokens, [REG] first, without a shift. [REG] is a context
          or a target now and then, the last feature never is, and the K target sets are one,
          which is computed once here.
    Deviations from the code: masks are a function of the rows' seeds; the first step has the
    schedule's learning rate; rows are shuffled; the target encoder is in evaluation mode
    (``target.mode='train'`` keeps its dropout).

    Args:
        encoder: :class:`TabularEncoder`.
        target: EMA policy.
        predictor: :class:`TabularPredictor`; the numbers of features and channels are the
            encoder's where not given.
        mask_generator: :class:`FeatureSubsetMaskGenerator`; number of features and ``semantics``
            are the model's where not given.
        loss: ``RegressionLoss``.
        semantics: see above.
        target_norm: ``'layer'``: targets are normalised over channels; ``'none'``.
        keep_reg: :meth:`extract_feat` keeps [REG] tokens; None: with ``'released'`` only.
        features: encoder of :meth:`extract_feat`, ``'context'`` (paper) or ``'target'`` (the
            released probe). What is exported is the context encoder.
        grad_clamp: elementwise limit of the context encoder's gradients, and of no others, before
            they are summed over accumulated batches and processes; None: no limit.
        data_preprocessor: :class:`TabularPreprocessor`.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        ValueError: an unknown option, or parts that don't fit together.
    """

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        mask_generator: dict | Any | None = None,
        loss: dict | nn.Module | None = None,
        semantics: Literal['paper', 'released'] = 'paper',
        target_norm: Literal['layer', 'none'] = 'none',
        keep_reg: bool | None = None,
        features: Literal['context', 'target'] = 'context',
        grad_clamp: float | None = 1.0,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        for name, value, allowed in (
            ('semantics', semantics, ('paper', 'released')),
            ('target_norm', target_norm, ('layer', 'none')),
            ('features', features, ('context', 'target')),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        context: Any = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        count = context.num_features
        if isinstance(predictor, dict):
            shape = dict(num_features=count, in_channels=context.out_channels)
            predictor = {**shape, **predictor}
        if isinstance(mask_generator, dict):
            mask_generator = dict(num_features=count, semantics=semantics) | mask_generator
        super().__init__(
            context, target, predictor, mask_generator, loss, data_preprocessor, init_cfg
        )
        self.semantics, self.target_norm, self.features = semantics, target_norm, features
        self.keep_reg = semantics == 'released' if keep_reg is None else keep_reg
        self._check(count)
        self.grad_clamp = grad_clamp
        if grad_clamp is not None:
            for parameter in self.encoder.parameters():
                parameter.register_hook(lambda grad: grad.clamp(-grad_clamp, grad_clamp))

    def _check(self, count: int) -> None:
        masks = self.mask_generator
        if masks is not None and (masks.num_features, masks.semantics) != (count, self.semantics):
            raise ValueError(
                f'mask_generator draws from {masks.num_features} features with semantics '
                f'{masks.semantics!r}; the model has {count} and {self.semantics!r}'
            )
        if self.features == 'target' and self.target.encoder is None:
            raise ValueError(
                f"features='target' needs a target encoder; policy {self.target.policy!r} has none"
            )

    def extract_feat(self, inputs: dict, keep_ids: Tensor | None = None) -> Tensor:
        """Latents of whole rows.

        Args:
            inputs: ``rows`` (B, D) float.
            keep_ids: (B, n) int64 features that are seen; None: all D.

        Returns:
            (B, n, H); (B, R + n, H) with ``keep_reg``.
        """
        encoder = self.encoder if self.features == 'context' else self.target.encoder
        tokens = encoder(inputs['rows'], keep_ids)
        return tokens if self.keep_reg else tokens[:, self.encoder.num_reg :]

    def _target_tokens(self, rows: Tensor) -> Tensor:
        """(B, N, H) float32 in the masks' numbering."""
        tokens = self.target(self.encoder, rows).float()
        if self.target_norm == 'layer':
            tokens = F.layer_norm(tokens, tokens.shape[-1:])
        return tokens if self.semantics == 'released' else tokens[:, self.encoder.num_reg :]

    def predict_sets(self, rows: Tensor, masks: FeatureMasks) -> Tensor:
        """Predicted latents (B, K, n_t, H) of the target sets, from the context alone."""
        if self.semantics == 'released':
            context = self.encoder.encode_tokens(rows, masks.context)
        else:
            context = self.encoder(rows, masks.context)[:, self.encoder.num_reg :]
        return self.predictor(context, masks.context, masks.targets)

    def _pair(self, rows: Tensor, masks: FeatureMasks) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions and targets (B, K, n_t, H), and the tokens of whole rows."""
        tokens = self._target_tokens(rows)
        return self.predict_sets(rows, masks), gather_tokens(tokens, masks.targets), tokens

    def _draw(self, inputs: dict) -> FeatureMasks:
        return self.require_masks()(inputs['seeds'], inputs['batch_seed'])

    def loss(self, inputs: dict, data_samples: list | None = None) -> dict[str, Tensor]:
        """Loss of a batch of rows.

        Args:
            inputs: ``rows`` (B, D) float32, ``seeds`` (B,) int64 and ``batch_seed``, an int.
            data_samples: unused; never labels.

        Returns:
            ``loss_prediction``, and ``spread``, the standard deviation of the target latents over
            the rows, a mean over features and channels: it tells collapse, the loss doesn't.
        """
        half = torch.is_autocast_enabled('cuda') and torch.get_autocast_dtype('cuda')
        if self.grad_clamp is not None and half is torch.float16:
            raise ValueError(
                'grad_clamp would see gradients that are scaled up for fp16: take --amp bf16, or '
                'model.grad_clamp=None'
            )
        masks = self._draw(inputs)
        if self.semantics == 'released':  # K equal sets have the mean of one
            masks = FeatureMasks(masks.context, masks.targets[:, :1])
        prediction, target, tokens = self._pair(inputs['rows'], masks)
        if self.capture:
            # around each feature's mean: features differ even when rows don't
            centre = tokens.mean(0)[masks.targets] - 1.0
            self.record((target - centre).flatten(0, 2), (prediction - centre).flatten(0, 2))
        losses = self.loss_module(prediction, target)
        losses['spread'] = tokens.detach().std(0).mean()
        return losses

    @torch.no_grad()
    def monitor_distance(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N,) error of rows, in the kind of the loss."""
        return self.loss_module.error(prediction, target).mean(1)

    @torch.no_grad()
    def inspect(self, inputs: dict, masks: FeatureMasks | None = None) -> dict[str, Any]:
        """What a picture or a test needs.

        Args:
            inputs: as for :meth:`loss`; ``rows`` alone where ``masks`` are given.
            masks: None: drawn.

        Returns:
            ``masks``, ``prediction`` and ``target`` (B, K, n_t, H), and ``tokens`` of whole rows
            in the masks' numbering.
        """
        masks = self._draw(inputs) if masks is None else masks
        prediction, target, tokens = self._pair(inputs['rows'], masks)
        return dict(masks=masks, prediction=prediction, target=target, tokens=tokens)
