"""AD-L-JEPA against its description: locality, values, gradients, shapes, EMA, sabotage."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toy_lidar import TINY_RANGE, TOY_RANGE, TOY_VOXEL, toy_scene

from mmjepa.engine.config import load_config
from mmjepa.engine.hooks import CollapseMonitorHook, TargetUpdateHook
from mmjepa.engine.hooks.collapse_monitor import collapse_statistics
from mmjepa.models.predictors import BEVConvPredictor
from mmjepa.registry import MODELS


def _config(repo, **options):
    return load_config(
        repo / 'configs/adl_jepa/kitti.py',
        {'point_cloud_range': TOY_RANGE, 'voxel_size': TOY_VOXEL, **options},
    )


def _model(repo, seed=0, **options):
    torch.manual_seed(seed)
    model = MODELS.build(_config(repo, **options).model)
    model.target.sync(model.encoder)
    return model.train()


def _raw(first: int, count: int = 2) -> dict:
    return dict(
        inputs=dict(points=[torch.from_numpy(toy_scene(first + i)) for i in range(count)]),
        data_samples=[dict(sample_seed=1000 + first + i) for i in range(count)],
    )


def _inputs(model, first: int = 0) -> dict:
    return model.data_preprocessor(_raw(first), True)['inputs']


@pytest.fixture
def model(repo):
    return _model(repo)


def test_parameter_counts(model):
    assert sum(p.numel() for p in model.encoder.parameters()) == 711_872
    assert sum(p.numel() for p in model.predictor.parameters()) == 1_771_776


@pytest.mark.parametrize(
    ('name', 'c_bev', 'bev'),
    [
        ('kitti', 256, (200, 176)),
        ('waymo', 256, (188, 188)),
        ('once', 256, (188, 188)),
        ('nuscenes', 256, (128, 128)),
    ],
)
def test_published_grids(repo, name, c_bev, bev):
    cfg = load_config(repo / f'configs/adl_jepa/{name}.py')
    encoder = MODELS.build(cfg.model.encoder)
    assert (encoder.out_channels, encoder.bev_shape) == (c_bev, bev)
    assert cfg.model.encoder.sparse_shape[0] == 41


def test_other_z_extent(repo):
    model = _model(repo, point_cloud_range=[0, -6.4, -3, 12.8, 6.4, 3], voxel_size=[0.2, 0.2, 0.1])
    assert model.encoder.out_depth == 3
    assert model.encoder.out_channels == 384 == model.mask_token.shape[1]
    losses = model.loss(_inputs(model))
    assert all(torch.isfinite(v).all() for v in losses.values())


def test_values(model):
    inputs = _inputs(model)
    out = model.inspect(inputs)
    classes = out['mask_classes']
    for name in ('context', 'prediction'):
        norms = out[name].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
    context = out['context'].permute(0, 2, 3, 1)
    empty, mask = (F.normalize(t, dim=1)[0] for t in (model.empty_token, model.mask_token))
    assert (context[classes == 2] == empty).all()
    assert (context[(classes == 1) | (classes == 3)] == mask).all()
    assert (out['prediction'] >= 0).all()
    target = out['target'].permute(0, 2, 3, 1)
    torch.testing.assert_close(
        target[classes == 1].norm(dim=1), torch.ones(int((classes == 1).sum()))
    )
    assert (target[classes == 3] == empty).all()


def test_locality(model):
    """Features of hidden voxels reach the target only, those of visible voxels the context only."""
    inputs = _inputs(model)
    masks = model._masks(inputs)
    _, context = model._context(inputs, masks)
    target = model._target_rows(inputs, masks)

    def changed(voxels):
        other = dict(inputs, feats=inputs['feats'].clone())
        other['feats'][voxels[:20]] += 5
        return model._context(other, masks)[1], model._target_rows(other, masks)

    hidden_context, hidden_target = changed(masks.masked_voxels)
    assert torch.equal(hidden_context, context)
    assert not torch.equal(hidden_target, target)
    visible_context, visible_target = changed(masks.visible_voxels)
    assert torch.equal(visible_target, target)
    assert not torch.equal(visible_context, context)


def test_halo_is_erased(model):
    """Strided convolutions activate cells around the visible ones; none of it reaches the map."""
    inputs = _inputs(model)
    masks = model._masks(inputs)
    seen = masks.visible_voxels
    sparse = model.encoder.forward_sparse(inputs['feats'][seen], inputs['coors'][seen], 2)
    dense = sparse.dense().flatten(1, 2).permute(0, 2, 3, 1)
    halo = dense.abs().sum(-1).gt(0) & (masks.classes != 0)
    assert halo.any()
    context = model._context(inputs, masks)[1].permute(0, 2, 3, 1)
    unit = F.normalize(torch.cat([model.empty_token, model.mask_token]), dim=1)
    token = (masks.classes & 1).long()
    assert torch.equal(context[halo], unit[token[halo]])


def test_gradients(model):
    losses = model.loss(_inputs(model))
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert model.mask_token.grad.abs().sum() > 0
    assert model.empty_token.grad.abs().sum() > 0
    # tokens are normalised: their gradient has no component along them
    for token in (model.mask_token, model.empty_token):
        along = (token.grad * token).sum() / token.norm() / token.grad.norm()
        assert abs(along.item()) < 1e-4


def test_empty_token_gets_gradient_through_the_context_only(model):
    model.mask_generator.empty_mask_ratio = 0.999999  # no empty cell is visible: only targets
    inputs = _inputs(model)
    assert len(model._masks(inputs).visible_empty) == 0
    losses = model.loss(inputs)
    assert losses['distance_empty'] > 0
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert model.empty_token.grad.abs().sum() == 0
    assert model.mask_token.grad.abs().sum() > 0


def test_loss_ignores_the_scale_of_tokens(model):
    inputs = _inputs(model)
    before = model.loss(inputs)
    with torch.no_grad():
        model.mask_token.mul_(7)
        model.empty_token.mul_(0.1)
    after = model.loss(inputs)
    for key in before:
        torch.testing.assert_close(after[key], before[key], rtol=1e-4, atol=1e-6)


def test_frozen_tokens_are_not_trained(repo):
    model = _model(repo, **{'model.train_tokens': False})
    assert not model.mask_token.requires_grad and not model.empty_token.requires_grad


def test_without_the_empty_token(repo):
    model = _model(repo, **{'model.empty_token': False})
    assert not model.empty_token.requires_grad
    out = model.inspect(_inputs(model))
    context = out['context'].permute(0, 2, 3, 1)
    assert (context[out['mask_classes'] == 2] == 0).all()
    losses = model.loss(_inputs(model))
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('policy', ['ema', 'frozen'])
def test_copied_target_starts_from_the_initialised_encoder(repo, policy):
    model = _model(repo, **{'model.target.policy': policy})
    with torch.no_grad():
        model.encoder.conv_input[0].weight.fill_(0.5)  # what an init_cfg would do
    model.init_weights()
    assert (model.target.encoder.conv_input[0].weight == 0.5).all()


def test_fields_against_a_dense_form(model):
    """The row-wise loss equals the paper's formula written on whole maps."""
    inputs = _inputs(model)
    masks = model._masks(inputs)
    losses = model.loss(inputs)
    classes = masks.classes
    z = model.encoder(
        inputs['feats'][masks.visible_voxels], inputs['coors'][masks.visible_voxels], 2
    )
    where = classes[:, None]
    z = torch.where(
        where == 0,
        z,
        torch.where(
            where == 2, model.empty_token[..., None, None], model.mask_token[..., None, None]
        ),
    )
    z = F.normalize(z, dim=1)
    s_hat = F.normalize(model.predictor(z), dim=1)
    with torch.no_grad():
        s = model.target.encoder(
            inputs['feats'][masks.masked_voxels], inputs['coors'][masks.masked_voxels], 2
        )
        s = F.normalize(torch.where(where == 3, model.empty_token[..., None, None], s), dim=1)
    distance = 1 - (s * s_hat).sum(1)
    torch.testing.assert_close(losses['loss_occupied'], 0.75 * distance[classes == 1].mean())
    torch.testing.assert_close(losses['loss_empty'], 0.25 * distance[classes == 3].mean())

    def hinge(maps, wanted):
        rows = [m[:, c == wanted].t() for m, c in zip(maps, classes, strict=True)]
        return torch.stack([F.relu(1 / 16 - (r.var(0) + 1e-4).sqrt()).mean() for r in rows]).mean()

    torch.testing.assert_close(losses['loss_variance'], hinge(z, 0) + hinge(s_hat, 1))


def test_target_batchnorm_stays_on_batch_statistics(model):
    inputs = _inputs(model)
    model.eval()
    first = model._target_rows(inputs, model._masks(inputs))
    for module in model.target.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.fill_(100.0)
    second = model._target_rows(inputs, model._masks(inputs))
    assert torch.equal(first, second)


def test_buffers_of_target_and_context_differ(model):
    model.loss(_inputs(model))
    own = dict(model.encoder.named_buffers())
    assert any(
        not torch.equal(b, own[n])
        for n, b in model.target.encoder.named_buffers()
        if 'running' in n
    )


def test_predictor_options():
    relu = BEVConvPredictor(8)
    linear = BEVConvPredictor(8, num_layers=2, final_relu=False)
    x = torch.randn(2, 8, 5, 5)
    assert relu(x).min() == 0 and linear(x).min() < 0
    assert len([m for m in linear if isinstance(m, torch.nn.Conv2d)]) == 2
    for bad in (dict(num_layers=0), dict(kernel_size=2)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            BEVConvPredictor(8, **bad)


def test_autocast_keeps_the_encoder_in_float32(model):
    inputs = _inputs(model)
    exact = model.loss(inputs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        rows, context = model._context(inputs, model._masks(inputs))
        mixed = model.loss(inputs)
    assert rows.dtype == torch.float32 and context.dtype == torch.bfloat16
    assert all(v.dtype == torch.float32 for v in mixed.values())
    assert mixed['loss_occupied'].item() == pytest.approx(exact['loss_occupied'].item(), rel=0.05)


class Run:
    """A short training on toy scenes without the runner; scenes recycle after 40."""

    def __init__(self, model, lr=3e-4, ema=True, total=150):
        self.model, self.total = model, total
        params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.99), weight_decay=0.01)
        self.hook = TargetUpdateHook() if ema else None
        if ema:
            self.hook.attach(model, self.optimizer)
        self.monitor = CollapseMonitorHook()
        self.history = []

    def step(self, i, measure=False):
        self.model.capture = measure
        losses = self.model.loss(_inputs(self.model, 2 * (i % 20)))
        self.optimizer.zero_grad()
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10)
        self.optimizer.step()
        if self.hook is not None:
            self.hook.update(self.hook.momentum_at(i, self.total))
        if measure:
            values = collapse_statistics(self.model, **self.model.captured).tolist()
            now = dict(zip(self.monitor.names, values, strict=True))
            self.monitor.start = self.monitor.start or now
            self.monitor.warnings += self.monitor.judge(now)
            self.history.append(dict(now, **{k: v.item() for k, v in losses.items()}))
        return losses

    def run(self, steps, every=10):
        for i in range(steps):
            self.step(i, measure=i % every == 0 or i == steps - 1)
        return self.history


def _sabotage_eval(model):
    model.target.mode = 'eval'
    model.target.train()


def test_monitor_warns_on_target_in_eval(repo):
    model = _model(repo)
    _sabotage_eval(model)
    run = Run(model)
    run.run(8, every=7)
    assert any('targets collapse: effective rank' in w for w in run.monitor.warnings)


def test_monitor_warns_on_constant_predictor(repo):
    model = _model(repo)

    class Constant(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.value = torch.nn.Parameter(torch.rand(channels))

        def forward(self, x):
            return self.value[None, :, None, None].expand_as(x)

    model.predictor = Constant(model.encoder.out_channels)
    run = Run(model)
    run.run(3, every=2)
    assert any('prediction is constant' in w for w in run.monitor.warnings)


def test_monitor_warns_on_gradient_through_the_target(repo):
    """At a learning rate where the EMA target stays healthy."""
    tiny = {'point_cloud_range': TINY_RANGE}
    sick = Run(_model(repo, **tiny, **{'model.target.policy': 'online_grad'}), lr=1e-3, ema=False)
    sick.run(21, every=5)
    assert any('targets collapse: effective rank' in w for w in sick.monitor.warnings)
    healthy = Run(_model(repo, **tiny), lr=1e-3)
    healthy.run(21, every=5)
    assert healthy.monitor.warnings == []


def test_monitor_is_silent_on_a_healthy_start(repo):
    run = Run(_model(repo))
    history = run.run(12, every=3)
    assert run.monitor.warnings == []
    assert history[-1]['loss_occupied'] < history[0]['loss_occupied']


@pytest.mark.slow
def test_learning_signature(repo):
    """Orderings of rank and loss after 150 steps; a lower loss is not a better run."""
    runs, models = {}, {}
    for name, options in dict(
        w1={},
        w10=dict(variance_weight=10.0),
        w0=dict(variance_weight=0.0),
        untrained_tokens={'model.train_tokens': False},
        frozen={'model.target.policy': 'frozen'},
        eval={},
        online={'model.target.policy': 'online_grad'},
    ).items():
        model = models[name] = _model(repo, **options)
        if name == 'eval':
            _sabotage_eval(model)
        run = Run(model, ema=name not in ('frozen', 'online'))
        history = run.run(150)
        runs[name] = (history, run.monitor.warnings)
        first, last = history[0], history[-1]
        print(
            f'{name:16s} L_occ {first["distance_occupied"]:.3f} -> {last["distance_occupied"]:.3f}'
            f'  L_emp {first["distance_empty"]:.3f} -> {last["distance_empty"]:.3f}'
            f'  hinge ctx {first["hinge_context"]:.4f} -> {last["hinge_context"]:.4f}'
            f'  pred {first["hinge_prediction"]:.4f} -> {last["hinge_prediction"]:.4f}'
            f'  target rank {first["target_rank"]:.1f} -> {last["target_rank"]:.1f}'
            f'  loss/trivial {first["loss_over_trivial"]:.2f} -> {last["loss_over_trivial"]:.2f}'
            f'  std {last["target_std"]:.2f} {last["prediction_std"]:.2f}'
            f'  warnings {len(run.monitor.warnings)}'
        )
    last = {name: history[-1] for name, (history, _) in runs.items()}
    rank = {name: values['target_rank'] for name, values in last.items()}
    assert rank['w10'] > rank['w1'] > rank['w0']
    assert rank['eval'] < 5
    assert last['eval']['distance_occupied'] < last['w1']['distance_occupied']
    assert last['w10']['distance_occupied'] > last['w1']['distance_occupied']
    history = runs['w1'][0]
    assert rank['w1'] > history[0]['target_rank']
    assert last['w1']['distance_occupied'] < 0.7 * history[0]['distance_occupied']
    # predictions are >= 0 after the final ReLU: no closer to a token than its positive part
    token = models['untrained_tokens'].empty_token.detach()
    floor = 1 - (token.relu().norm() / token.norm()).item()
    assert floor - 1e-3 < last['untrained_tokens']['distance_empty'] < floor + 0.1
    for healthy in ('w1', 'w10', 'untrained_tokens', 'frozen'):
        assert runs[healthy][1] == [], healthy
    for sick in ('eval', 'online'):
        assert runs[sick][1], sick


def test_ema_follows_the_formula(model):
    run = Run(model)
    old = copy.deepcopy(list(model.target.encoder.parameters()))
    run.step(0)
    for before, target, online in zip(
        old, model.target.encoder.parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.996 * before + 0.004 * online)
    assert run.hook.momentum_at(0, 100) == 0.996
    assert run.hook.momentum_at(50, 100) == pytest.approx(0.998)
    assert run.hook.momentum_at(100, 100) == 1.0
