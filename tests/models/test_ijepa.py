"""I-JEPA: who sees what, gradients, targets, the value of a zero predictor."""

import pytest
import torch

from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.registry import MODELS

GRID = (8, 8)


def build(kind='IJEPA', seed=0, **options):
    """A method of 64 x 64 pixels in 8 x 8 patches."""
    torch.manual_seed(seed)
    config = dict(
        type=kind,
        encoder=dict(type='JEPAViT', arch=(32, 3, 4, 128), img_size=64, patch_size=8),
        target=dict(type='TargetEncoder'),
        predictor=dict(type='ViTPredictor', channels=32, depth=2),
        mask_generator=dict(type='MultiBlockMaskGenerator', min_keep=4),
        loss=dict(type='RegressionLoss'),
    )
    if kind == 'DMTJEPA':
        config.update(head=dict(type='AggregationHead'), neighbours=dict(type='NeighbourTargets'))
    model = MODELS.build(dict(config, **options))
    model.target.sync(model.encoder, model.head)
    return model


def batch(count=3, seed=0):
    torch.manual_seed(seed)
    return dict(images=torch.randn(count, 3, 64, 64), seeds=torch.arange(count) + 5)


def change(images, patches_BN):
    """Other pixels in some patches (B, N) bool."""
    where = patches_BN.view(-1, 1, *GRID).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.where(where, torch.randn_like(images), images)


@pytest.fixture(params=['IJEPA', 'DMTJEPA'])
def kind(request):
    return request.param


def parts(model, inputs):
    seen = model.inspect(inputs)
    return seen['masks'], seen['prediction'], seen['target']


def test_information_flow(kind):
    model, inputs = build(kind), batch()
    masks, prediction, target = parts(model, inputs)
    outside = torch.ones(3, 64, dtype=torch.bool).scatter(1, masks.context, False)
    changed = dict(inputs, images=change(inputs['images'], outside))
    _, same, other = parts(model, changed)
    assert torch.equal(same, prediction)  # predictions know the context only
    assert not torch.allclose(other, target)
    # one far patch changes the targets everywhere: outputs are masked, not inputs
    corner = torch.zeros(3, 64, dtype=torch.bool)
    corner[:, 63] = True
    _, _, moved = parts(model, dict(inputs, images=change(inputs['images'], corner)))
    assert (moved != target).any(3).float().mean() > 0.9


def test_blocks_are_predicted_by_themselves_and_order_does_not_matter(kind):
    model, inputs = build(kind), batch()
    masks = model.inspect(inputs)['masks']
    with torch.no_grad():
        context = model._context(inputs['images'], masks)
        every = model.predictor(context, masks.context, masks.targets)
        alone = model.predictor(context, masks.context, masks.targets[:, 1:2])
        torch.testing.assert_close(alone[:, 0], every[:, 1])
        order = torch.randperm(masks.context.shape[1])
        shuffled = model.predictor(context[:, order], masks.context[:, order], masks.targets)
        torch.testing.assert_close(shuffled, every, rtol=1e-4, atol=1e-5)
        order = torch.randperm(masks.targets.shape[2])
        turned = model.predictor(context, masks.context, masks.targets[:, :, order])
        torch.testing.assert_close(turned, every[:, :, order], rtol=1e-4, atol=1e-5)


def test_targets_are_layer_normed(kind):
    model, inputs = build(kind), batch()
    tokens = model.inspect(inputs)['tokens']
    torch.testing.assert_close(tokens.mean(2), torch.zeros(3, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(2, unbiased=False), torch.ones(3, 64), atol=1e-3, rtol=0)
    if kind == 'IJEPA':
        masks, _, target = parts(model, inputs)
        ids = masks.targets.flatten(1)[..., None].expand(-1, -1, 32)
        assert torch.equal(target.flatten(1, 2), tokens.gather(1, ids))


def test_gradients(kind):
    model, inputs = build(kind), batch()
    model.loss(inputs)['loss_prediction'].backward()
    assert all(p.grad is None for p in model.target.parameters())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert 'predictor.mask_token' in trained
    assert ('head.norm.weight' in trained) == (kind == 'DMTJEPA')
    for name, p in trained.items():
        if name.endswith('.attn.k.bias'):
            continue  # a key's bias moves every score alike
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_hook_moves_the_target(kind):
    model = build(kind)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    hook = TargetUpdateHook()
    hook.attach(model, optimizer)
    assert len(hook._target) == len(list(model.target.parameters()))
    before = {n: p.clone() for n, p in model.target.named_parameters()}
    model.loss(batch())['loss_prediction'].backward()
    optimizer.step()
    hook.update(0.996)
    online = {**dict(model.encoder.named_parameters(prefix='encoder'))}
    if model.head is not None:
        online.update(model.head.named_parameters(prefix='head'))
    assert online.keys() == before.keys()
    for name, p in model.target.named_parameters():
        torch.testing.assert_close(p, 0.996 * before[name] + 0.004 * online[name])
        if name.endswith('fc1.weight'):
            assert not torch.equal(p, before[name])


def test_a_head_on_one_side_only_is_refused():
    model = build('DMTJEPA')
    with pytest.raises(ValueError, match='only one of them has a head'):
        model.target.sync(model.encoder)
    model.target.head = None
    with pytest.raises(ValueError, match='only one of them has a head'):
        TargetUpdateHook().attach(model, torch.optim.SGD(model.encoder.parameters(), lr=0.1))


def test_zero_predictor_against_gaussian_targets():
    from mmjepa.models.losses import RegressionLoss

    torch.manual_seed(0)
    target = torch.randn(2000, 500)
    loss = RegressionLoss()(torch.zeros_like(target), target)['loss_prediction']
    assert loss.item() == pytest.approx(0.4247, abs=5e-4)
    model = build()
    torch.nn.init.zeros_(model.predictor.proj.weight)
    loss = model.loss(batch(16))['loss_prediction'].item()
    assert loss == pytest.approx(0.4247, abs=0.03)


def test_losses():
    from mmjepa.models.losses import RegressionLoss

    a, b = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 0.0]])
    wanted = dict(smooth_l1=(0.125 + 2.5) / 2, mse=(0.25 + 9) / 2, l1=3.5 / 2)
    for kind, value in wanted.items():
        assert RegressionLoss(kind)(a, b)['loss_prediction'].item() == pytest.approx(value)
    with pytest.raises(ValueError, match='kind must be'):
        RegressionLoss('huber')
    with pytest.raises(ValueError, match='differ'):
        RegressionLoss()(a, b[:, :1])


def test_masks_that_do_not_fit_are_told_when_built(kind):
    with pytest.raises(ValueError, match='lower min_keep'):
        build(kind, mask_generator=dict(type='MultiBlockMaskGenerator'))
    with pytest.raises(ValueError, match='target_norm'):
        build(kind, target_norm='batch')


@torch.no_grad()
def test_targets_may_stay_as_they_are():
    model, inputs = build(target_norm='none'), batch()
    torch.nn.init.normal_(model.target.encoder.norm.bias)  # or both would be normal
    masks, _, target = parts(model, inputs)
    tokens = model.target.encoder(inputs['images'])
    assert torch.equal(target, tokens.flatten(0, 1)[masks.rows][masks.places])
    assert not torch.allclose(target, parts(build(), inputs)[2], atol=0.1)


def test_other_image_sizes(kind):
    model = build(kind)
    inputs = dict(images=torch.randn(2, 3, 64, 96), seeds=torch.arange(2))
    assert model.extract_feat(inputs).shape == (2, 96, 32)
    assert torch.isfinite(model.loss(inputs)['loss_prediction'])
