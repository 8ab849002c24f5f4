"""Toy pre-training that a wrong implementation fails, and controls that must fail."""

import functools

import numpy as np
import pytest
import torch
from toy_images import colour_scene

from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.hooks.collapse_monitor import collapse_statistics
from mmjepa.evaluation.functional import fit_linear
from mmjepa.registry import MODELS

pytestmark = pytest.mark.slow
STEPS, BATCH, LR = 500, 64, 1e-3


@functools.cache
def scenes(start, count):
    """Images (N, 3, 64, 64) normalised, and the colours of their shapes (N,)."""
    drawn = [colour_scene(start + i) for i in range(count)]
    images = torch.from_numpy(np.stack([image for image, _, _ in drawn]))
    return (images.permute(0, 3, 1, 2).float() - 115) / 60, torch.tensor([c for _, c, _ in drawn])


def build(kind, policy, masks):
    torch.manual_seed(0)
    config = dict(
        type=kind,
        encoder=dict(type='JEPAViT', arch=(64, 4, 4, 256), img_size=64, patch_size=8),
        target=dict(type='TargetEncoder', policy=policy),
        predictor=dict(type='ViTPredictor', channels=32, depth=2),
        mask_generator=dict(type='MultiBlockMaskGenerator', **masks),
        loss=dict(type='RegressionLoss'),
    )
    if kind == 'DMTJEPA':
        config.update(head=dict(type='AggregationHead'), neighbours=dict(type='NeighbourTargets'))
    return MODELS.build(config)


@torch.no_grad()
def colour_probe(encoder):
    """Accuracy of a linear probe of pooled features on unseen scenes."""
    sets = [scenes(0, 2000), scenes(100_000, 600)]
    encoder.eval()
    train, test = (torch.cat([encoder(part).mean(1) for part in x.split(200)]) for x, _ in sets)
    encoder.train()
    with torch.enable_grad():
        probe = fit_linear(train, sets[0][1], 6)
    return float((probe.predict(test) == sets[1][1]).float().mean())


def pretrain(kind, policy='ema', **masks):
    """Loss and spread of the targets at the end, and the gain of the probe over no training."""
    model = build(kind, policy, masks or dict(min_keep=4))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.04
    )
    hook = TargetUpdateHook((0.99, 1.0))
    hook.attach(model, optimizer)
    images, before = scenes(0, 2000)[0], colour_probe(model.encoder)
    rng = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group['lr'] = LR * min(1, (step + 1) / 60)
        chosen = torch.randint(0, len(images), (BATCH,), generator=rng)
        model.capture = step == STEPS - 1
        seeds = torch.arange(BATCH) + step * BATCH
        loss = model.loss(dict(images=images[chosen], seeds=seeds))['loss_prediction']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if policy == 'ema':
            hook.update(hook.momentum_at(step, STEPS))
    spread = float(collapse_statistics(model, **model.captured)[0])
    gain = colour_probe(model.target.encoder or model.encoder) - before
    print(
        f'{kind} {policy}: loss {loss:.4f}, spread {spread:.3f}, gain {gain:+.3f} on {before:.3f}'
    )
    return loss.item(), spread, gain


@pytest.mark.parametrize('kind', ['IJEPA', 'DMTJEPA'])
def test_learns_without_labels(kind):
    """A zero predictor has 0.42 against targets of unit variance."""
    loss, spread, gain = pretrain(kind)
    assert loss < 0.3
    assert spread > 0.3
    assert gain > 0.1


def test_a_target_that_is_trained_too_collapses():
    loss, spread, _ = pretrain('IJEPA', 'online_grad')
    assert loss < 0.01
    assert spread < 0.1


def test_a_lower_loss_is_not_a_better_encoder():
    """One small target in an image that is all but visible is easily guessed."""
    hard = pretrain('IJEPA')
    easy = pretrain('IJEPA', min_keep=1, num_targets=1, target_scale=(0.05, 0.07))
    assert easy[0] < hard[0] / 2
    assert easy[2] < hard[2] + 0.05
