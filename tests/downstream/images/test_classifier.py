"""Classifier and mixing by hand: loss, gradients, frozen backbones, what the seeds decide."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmjepa.downstream.images.classifier import ImageClassifier
from mmjepa.downstream.images.mixing import MixImages, paste_box
from mmjepa.models.encoders import JEPAViT


def classifier(final_norm=False, drop_path=0.0, **options):
    backbone = JEPAViT([8, 2, 2, 16], 16, 4, drop_path_rate=drop_path, final_norm=final_norm)
    return ImageClassifier(backbone, 3, **options)


def batch(labels=(0, 2, 1, 2), seed=0):
    pixels = torch.randn(len(labels), 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    samples = [dict(label=label, path=f'{i}.png') for i, label in enumerate(labels)]
    return dict(images=pixels, seeds=torch.arange(len(labels)) + 7), samples


def test_loss_by_hand():
    """Label smoothing, then mixup's soft targets, from the definition of cross-entropy."""
    inputs, samples = batch()
    model = classifier(label_smoothing=0.1).train()
    log_p = model(inputs).log_softmax(-1)
    true = log_p[torch.arange(4), torch.tensor([0, 2, 1, 2])]
    expected = -(0.9 * true + 0.1 * log_p.mean(1)).mean()
    assert torch.allclose(model(inputs, samples, mode='loss')['loss'], expected, atol=1e-6)

    model.mixing = MixImages(mixup=0.8, cutmix=0.0)
    rng = np.random.default_rng([7, 8, 9, 10])
    rng.random(2)  # whether to mix, and how
    lam = rng.beta(0.8, 0.8)
    assert 0.001 < lam < 0.999
    mixed = lam * inputs['images'] + (1 - lam) * inputs['images'][[1, 2, 3, 0]]
    targets = torch.zeros(4, 3)
    for row, (own, other) in enumerate([(0, 2), (2, 1), (1, 2), (2, 0)]):
        targets[row, own] += lam
        targets[row, other] += 1 - lam
    targets = 0.9 * targets + 0.1 / 3
    expected = -(targets * model(dict(inputs, images=mixed)).log_softmax(-1)).sum(1).mean()
    assert torch.allclose(model(inputs, samples, mode='loss')['loss'], expected, atol=1e-6)
    plain = model.eval()(inputs, samples, mode='loss')['loss']
    assert not torch.allclose(plain, expected, atol=1e-4)  # evaluation mixes nothing


def test_logits_are_those_of_the_averaged_tokens():
    inputs, _ = batch()
    model = classifier(final_norm=True, head_norm=None, last_layers=2).eval()
    layers = model.backbone.layers(inputs['images'], (0, 1))
    pooled = torch.cat([tokens.mean(1) for tokens in layers], 1)
    assert torch.allclose(model(inputs), model.head(pooled), atol=1e-6)
    model = classifier().eval()
    pooled = F.layer_norm(model.backbone(inputs['images']).mean(1), (8,), eps=1e-6)
    assert torch.allclose(model(inputs), model.head(pooled), atol=1e-6)


def test_predictions_carry_scores_and_labels():
    inputs, samples = batch()
    model = classifier().eval()
    found = model(inputs, samples, mode='predict')
    assert [one['label'] for one in found] == [0, 2, 1, 2]
    assert [one['path'] for one in found] == ['0.png', '1.png', '2.png', '3.png']
    assert torch.equal(torch.stack([one['scores'] for one in found]), model(inputs))


@pytest.mark.parametrize('head_norm', ['layer', 'batch', None])
def test_every_parameter_gets_a_gradient(head_norm):
    inputs, samples = batch()
    model = classifier(final_norm=head_norm != 'layer', head_norm=head_norm).train()
    model(inputs, samples, mode='loss')['loss'].backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_frozen_backbone_neither_learns_nor_drops():
    inputs, samples = batch()
    model = classifier(final_norm=True, drop_path=0.9, frozen=True, head_norm='batch').train()
    assert model.head.training and not model.backbone.training
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.backbone.modules())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    losses = []
    for _ in range(5):
        loss = model(inputs, samples, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in model.backbone.parameters())
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {'head.weight', 'head.bias', 'norm.running_mean'} <= moved
    assert not any(k.startswith('backbone') for k in moved)
    thawed = classifier(final_norm=True, drop_path=0.9).train()
    assert thawed.backbone.training


@pytest.mark.parametrize('share', [0.0, 0.3, 0.75, 1.0])
def test_cutmix_tells_the_share_of_the_pixels(share):
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 20, 30)
    for seed in range(5):
        mixed, kept = paste_box(images, share, np.random.default_rng(seed))
        for row in range(3):
            assert set(mixed[row].unique().tolist()) <= {row, (row + 1) % 3}
            assert float((mixed[row] == row).float().mean()) == pytest.approx(kept)
        assert kept >= share - 1e-9
    assert torch.equal(images, torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 20, 30))


def test_mixing_is_a_function_of_the_seeds():
    images, _ = batch()
    targets = F.one_hot(torch.tensor([0, 2, 1, 2]), 3).float()
    mix = MixImages()

    def run(seed):
        return mix(images['images'], targets, torch.arange(4) + seed)

    torch.manual_seed(1)
    first = run(100)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, run(100), strict=True))
    drawn = [run(seed) for seed in range(100, 140)]
    assert all(torch.allclose(t.sum(1), torch.ones(4)) for _, t in drawn)
    assert len({float(t[0, 0]) for _, t in drawn}) > 30
    blended = [bool((x != images['images']).all()) for x, _ in drawn]
    assert 5 < sum(blended) < 35  # some are blended everywhere, others in a box
    half = [MixImages(prob=0.5)(images['images'], targets, torch.tensor([s])) for s in range(40)]
    assert 5 < sum(torch.equal(t, targets) for _, t in half) < 35


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_classes=1), 'num_classes'),
        (dict(head_norm='group'), 'head_norm'),
        (dict(last_layers=3), 'last_layers=3: the backbone has 2'),
        (dict(label_smoothing=1.0), 'label_smoothing'),
    ],
)
def test_bad_arguments_raise(arguments, message):
    backbone = JEPAViT([8, 2, 2, 16], 16, 4)
    with pytest.raises(ValueError, match=message):
        ImageClassifier(backbone, **{'num_classes': 3, **arguments})


@pytest.mark.parametrize('arguments', [dict(mixup=0, cutmix=0), dict(prob=0), dict(mixup=-1)])
def test_bad_mixing_raises(arguments):
    with pytest.raises(ValueError, match='mixup and cutmix must be'):
        MixImages(**arguments)


@pytest.mark.parametrize('labels', [(0, 3), (0, -1), ()])
@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_labels_that_are_no_classes_raise(labels, mode):
    inputs, _ = batch((0, 1))
    with pytest.raises(ValueError, match=r'label in \[0, 3\)'):
        classifier()(inputs, [dict(label=label) for label in labels], mode=mode)
    with pytest.raises(ValueError, match='meta_keys'):
        classifier()(inputs, [dict(path='a'), dict(path='b')], mode=mode)
    with pytest.raises(ValueError, match="mode must be 'loss'"):
        classifier()(inputs, mode='train')
