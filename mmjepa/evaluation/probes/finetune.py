"""Fine-tuning as a protocol: the whole encoder learns, with a linear head."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import Tensor

from mmjepa.downstream.images.classifier import ImageClassifier
from mmjepa.engine.optim import JEPAOptimWrapper, JEPAOptimWrapperConstructor
from mmjepa.engine.schedules import PhasedScheduler
from mmjepa.evaluation.progress import Progress, silent

from .features import depth_of, with_layers
from .labelled import LabelledSplit
from .sample_protocols import Predictions


@dataclass(frozen=True)
class FinetuneSettings:
    """A short schedule: AdamW, linear warm-up over a tenth of the steps, cosine to 0.

    Attributes:
        epochs: Passes over the training samples; the last one is scored, none is chosen.
        lr: Peak learning rate of the head and the last norm.
        layer_decay: Factor of the learning rate from each block to the one before it.
        weight_decay: Of weights, not of biases and norms.
        label_smoothing: Share of the target that is spread over all classes.
        batch_size: Samples a step.

    Raises:
        ValueError: On numbers out of range.
    """

    epochs: int = 20
    lr: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    batch_size: int = 256

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.lr <= 0 or not 0 < self.layer_decay <= 1:
            raise ValueError(
                'fine-tuning needs epochs and batch_size of at least 1, lr above 0 and '
                f'layer_decay in (0, 1], got {self}'
            )


def make_optimizer(
    model: ImageClassifier, settings: FinetuneSettings, amp: bool = False
) -> JEPAOptimWrapper:
    """AdamW with layer-wise rates, as ``configs/downstream/cls`` has it.

    Args:
        model: To train.
        settings: The schedule.
        amp: Train in bfloat16.
    """
    wrapper = dict(
        type='JEPAOptimWrapper',
        amp='bf16' if amp else None,
        optimizer=dict(type='AdamW', lr=settings.lr, weight_decay=settings.weight_decay),
    )
    rules = dict(layer_decay=settings.layer_decay, norm_decay_mult=0.0, bias_decay_mult=0.0)
    with DefaultScope.overwrite_default_scope('mmjepa'):
        return JEPAOptimWrapperConstructor(wrapper, rules)(model)


@torch.no_grad()
def _classes(model: ImageClassifier, batches: Any, amp: bool) -> Tensor:
    model.eval()
    found = []
    for batch in batches:
        inputs = model.data_preprocessor(batch, training=False)['inputs']
        with torch.autocast(inputs['images'].device.type, torch.bfloat16, enabled=amp):
            found.append(model(inputs, mode='tensor').float())
    logits = torch.cat(found)
    if not bool(logits.isfinite().all()):
        raise ValueError('fine-tuning diverged to NaN: give a lower learning rate (--lr)')
    return logits.argmax(-1)


def finetune_protocol(
    model: Any,
    train: LabelledSplit,
    test: LabelledSplit,
    settings: FinetuneSettings,
    seed: int,
    loading: Mapping[str, Any],
    amp: bool = False,
    progress: Progress = silent,
) -> Predictions:
    """Train a copy of the encoder and a linear head on averaged tokens; draws from torch's RNG.

    Args:
        model: From ``init_model``, with the encoder in its slot; stays as it is.
        train: Learned from, with random crops and flips.
        test: Predicted by the weights after the last step.
        settings: The schedule.
        seed: Of the order of the samples and their crops.
        loading: The config's ``train_dataloader``.
        amp: Train and predict in bfloat16.
        progress: Called with (what, done, total).

    Raises:
        ValueError: If the encoder gives no tokens, or the training diverged.
    """
    encoder = with_layers(model, 1).encoder
    if not depth_of(encoder):
        raise ValueError(
            f'{type(encoder).__name__} cannot be fine-tuned here: it has no .layers() that gives '
            'tokens'
        )
    classifier = ImageClassifier(
        copy.deepcopy(encoder).requires_grad_(True),
        len(train.classes),
        label_smoothing=settings.label_smoothing,
        data_preprocessor=model.data_preprocessor,
    ).to(next(encoder.parameters()).device)
    wrapper = make_optimizer(classifier, settings, amp)
    batch_size = min(settings.batch_size, len(train))
    steps = settings.epochs * (len(train) // batch_size)
    phases: list[dict] = [
        dict(until=0.1, start=0.0, stop=1.0, curve='linear'),
        dict(until=1.0, start=1.0, stop=0.0),
    ]
    schedule = PhasedScheduler(wrapper.optimizer, 'lr', phases, first=1, end=steps + 1)
    classifier.train()
    for epoch in range(settings.epochs):
        for batch in train.training_loader(loading, batch_size, seed, epoch):
            for sample in batch['data_samples']:
                sample['label'] = int(train.labels[sample['index']])
            classifier.train_step(batch, wrapper)
            schedule.step()
        progress('fine-tuning', epoch + 1, settings.epochs)
    classes = _classes(classifier, test.loader(loading, batch_size), amp)
    chosen = {name: getattr(settings, name) for name in ('epochs', 'lr', 'layer_decay')}
    return Predictions(classes, chosen, None, [])
