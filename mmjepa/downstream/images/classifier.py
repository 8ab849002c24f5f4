"""Image classification on a JEPA encoder: fine-tuning, and linear probing."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmjepa.registry import MODELS

HEAD_NORMS = ('layer', 'batch', None)


def _build(cfg: Any) -> Any:
    return MODELS.build(cfg) if isinstance(cfg, dict) else cfg


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Average of the patch tokens, an optional norm, a linear layer.

    Args:
        backbone: :class:`mmjepa.models.encoders.JEPAViT`; with ``final_norm`` tokens are normed
            before they are averaged.
        num_classes: C.
        head_norm: of the averaged tokens: 'layer' (fine-tuning, as MAE's), 'batch' (without
            weights, linear probing) or None.
        last_layers: blocks whose averaged tokens are read side by side; 4 is I-JEPA's second
            linear probe.
        frozen: the backbone keeps its weights and stays in eval mode: linear probing.
        label_smoothing: share of the target that is spread over all classes.
        mixing: :class:`MixImages` or its config; targets become soft.
        data_preprocessor: default: ``ImagePreprocessor``.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        ValueError: an argument out of its set.

    Source: arXiv 2301.08243, appendices A.2 and D; head of fine-tuning as in arXiv 2111.06377.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        num_classes: int,
        head_norm: str | None = 'layer',
        last_layers: int = 1,
        frozen: bool = False,
        label_smoothing: float = 0.0,
        mixing: dict | Any | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list | None = None,
    ):
        if num_classes < 2:
            raise ValueError(f'num_classes must be at least 2, got {num_classes}')
        if head_norm not in HEAD_NORMS:
            raise ValueError(f"head_norm must be 'layer', 'batch' or None, got {head_norm!r}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing must lie in [0, 1), got {label_smoothing}')
        preprocessor = data_preprocessor or dict(type='mmjepa.ImagePreprocessor')
        # built here: MMEngine's base class would look in its own registry only
        super().__init__(data_preprocessor=_build(preprocessor), init_cfg=init_cfg)
        self.backbone = _build(backbone)
        depth = len(self.backbone.blocks)
        if not 1 <= last_layers <= depth:
            raise ValueError(f'last_layers={last_layers}: the backbone has {depth} blocks')
        width = self.backbone.out_channels * last_layers
        self.norm: nn.Module = nn.Identity()
        if head_norm == 'layer':
            self.norm = nn.LayerNorm(width, eps=1e-6)
        elif head_norm == 'batch':
            self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.num_classes = num_classes
        self.indices = range(-last_layers, 0)
        self.label_smoothing = label_smoothing
        self.mixing = _build(mixing)
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> 'ImageClassifier':
        """As torch; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, inputs: Any, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """MMEngine's entry.

        Args:
            inputs: of ``ImagePreprocessor``: ``images`` (B, 3, H, W), ``seeds`` (B,).
            data_samples: a dict a sample, with its ``label`` (int) unless ``mode='tensor'``.
            mode: 'loss': ``{'loss': scalar}``; 'predict': a dict a sample with ``scores``
                (C,) float32 on the CPU, ``label`` and ``path``; 'tensor': logits (B, C).

        Raises:
            ValueError: unknown mode, samples without label, or labels that aren't classes.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        if mode == 'predict':
            return self.predict(inputs, data_samples or [])
        if mode == 'tensor':
            return self._logits(inputs['images'])
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")

    def _logits(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            layers = self.backbone.layers(images, self.indices)
            pooled = torch.cat([tokens.float().mean(1) for tokens in layers], dim=-1)
        return self.head(self.norm(pooled))

    def loss(self, inputs: dict, data_samples: Sequence[dict]) -> dict[str, Tensor]:
        """Cross-entropy with smoothed, and in training mixed targets; see :meth:`forward`."""
        images = inputs['images']
        labels = torch.tensor(self._labels(data_samples), device=images.device)
        targets = F.one_hot(labels, self.num_classes).float()
        if self.mixing is not None and self.training:
            images, targets = self.mixing(images, targets, inputs['seeds'])
        logits = self._logits(images).float()
        return dict(loss=F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing))

    def predict(self, inputs: dict, data_samples: Sequence[dict]) -> list[dict[str, Any]]:
        """Scores beside the labels; see :meth:`forward`."""
        scores = self._logits(inputs['images']).float().cpu()
        labels = self._labels(data_samples)
        return [
            dict(scores=row, label=label, path=sample.get('path'))
            for row, label, sample in zip(scores, labels, data_samples, strict=True)
        ]

    def _labels(self, data_samples: Sequence[dict]) -> list[int]:
        # on the host: a class that isn't there would be an assertion on the device
        labels = [int(sample.get('label', -1)) for sample in data_samples]
        if not labels or min(labels) < 0 or max(labels) >= self.num_classes:
            raise ValueError(
                f'ImageClassifier: every sample needs a label in [0, {self.num_classes}), got '
                f"{labels[:8]}: the pipeline ends with PackJEPAInputs(keys=['image'], "
                "meta_keys=['label']) on a LabelledImageDataset of num_classes classes"
            )
        return labels
