"""Schedules are functions of (iteration, length): hand-computed values, groups, accumulation."""

import math
from itertools import pairwise

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from torch import nn
from toy_engine import Log, StopAt, toy_runner

from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.optim import JEPAOptimWrapperConstructor
from mmjepa.engine.schedules import PhasedScheduler, interpolate


def _values(scheduler, name, steps, group=0):
    out = []
    for _ in range(steps):
        out.append(scheduler.optimizer.param_groups[group][name])
        scheduler.optimizer.step()
        scheduler.step()
    return out


def _adamw(lr=3e-4, **kwargs):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    return torch.optim.AdamW([weight], lr=lr, betas=(0.95, 0.99), **kwargs)


ONE_CYCLE = [dict(until=0.4, start=0.1, stop=1.0), dict(until=1.0, start=1.0, stop=1e-5)]


def test_one_cycle_by_hand():
    """3e-5 up to 3e-4 over 40 %, then down to 3e-9; half-way values of a cosine are the means."""
    scheduler = PhasedScheduler(_adamw(), 'lr', ONE_CYCLE, end=100)
    lr = _values(scheduler, 'lr', 101)
    assert lr[0] == pytest.approx(3e-5)
    assert lr[20] == pytest.approx((3e-5 + 3e-4) / 2)
    assert lr[40] == pytest.approx(3e-4)
    assert lr[70] == pytest.approx((3e-4 + 3e-9) / 2)
    assert lr[99] == pytest.approx(3e-9 + (3e-4 - 3e-9) * 0.5 * (1 + math.cos(math.pi * 59 / 60)))
    assert lr[100] == pytest.approx(3e-9)
    assert max(lr) == lr[40] and all(a < b for a, b in pairwise(lr[:41]))
    assert all(a > b for a, b in pairwise(lr[40:]))


def test_one_cycle_matches_torch():
    """The independent peer: torch's OneCycleLR, whose last value is reached one step earlier."""
    scheduler = PhasedScheduler(_adamw(), 'lr', ONE_CYCLE, end=99)
    optimizer = _adamw()
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-4, total_steps=100, pct_start=40.6 / 100, div_factor=10, final_div_factor=1e4
    )
    for iteration in range(100):
        assert scheduler.value_at(iteration) * 3e-4 == pytest.approx(
            optimizer.param_groups[0]['lr'], rel=1e-6, abs=1e-12
        )
        optimizer.step()
        peer.step()


def test_beta1_is_absolute_and_leaves_beta2():
    phases = [dict(until=0.4, start=0.95, stop=0.85), dict(until=1.0, start=0.85, stop=0.95)]
    betas = _values(PhasedScheduler(_adamw(), 'beta1', phases, end=50), 'betas', 51)
    assert [betas[i][0] for i in (0, 10, 20, 35, 50)] == pytest.approx([0.95, 0.9, 0.85, 0.9, 0.95])
    assert {b[1] for b in betas} == {0.99}
    relative = PhasedScheduler(_adamw(), 'beta1', phases, relative=True, end=50)
    assert relative.optimizer.param_groups[0]['betas'][0] == pytest.approx(0.95**2)


def test_weight_decay_and_momentum():
    decay = [dict(until=1.0, start=1.0, stop=10.0, curve='cosine')]
    wd = _values(
        PhasedScheduler(_adamw(weight_decay=0.04), 'weight_decay', decay, end=20),
        'weight_decay',
        21,
    )
    assert [wd[0], wd[10], wd[20]] == pytest.approx([0.04, 0.22, 0.4])  # the ViT recipe 0.04 -> 0.4
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.5)
    momentum = _values(
        PhasedScheduler(
            sgd, 'momentum', [dict(until=1.0, start=0.9, stop=0.8, curve='linear')], end=10
        ),
        'momentum',
        11,
    )
    assert [momentum[0], momentum[5], momentum[10]] == pytest.approx([0.9, 0.85, 0.8])


def test_groups_keep_their_multipliers():
    """Relative values scale each group's own start; no decay stays no decay."""
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW(
        [dict(params=[a], lr=0.1, weight_decay=0.0), dict(params=[b], lr=0.01, weight_decay=0.2)]
    )
    lr = PhasedScheduler(optimizer, 'lr', ONE_CYCLE, end=10)
    wd = PhasedScheduler(
        optimizer, 'weight_decay', [dict(until=1, start=1, stop=3, curve='linear')], end=10
    )
    for step in range(11):
        factor = lr.value_at(step)
        assert [g['lr'] for g in optimizer.param_groups] == pytest.approx(
            [0.1 * factor, 0.01 * factor]
        )
        assert [g['weight_decay'] for g in optimizer.param_groups] == pytest.approx(
            [0, 0.2 * (1 + 2 * step / 10)]
        )
        optimizer.step()
        lr.step()
        wd.step()


def test_state_is_the_step_alone():
    """Resumed at any step, with any length, the closed form's value is set at once."""
    saved = PhasedScheduler(_adamw(), 'lr', ONE_CYCLE, end=100)
    for _ in range(70):
        saved.step()
    for end in (100, 200):
        resumed = PhasedScheduler(_adamw(lr=1e-3), 'lr', ONE_CYCLE, end=end)
        resumed.load_state_dict(saved.state_dict())
        expected = 1e-3 * resumed.value_at(70)
        assert resumed.optimizer.param_groups[0]['lr'] == pytest.approx(expected)
        assert resumed.get_last_value() == pytest.approx([expected])
        resumed.step()
        assert resumed.get_last_value() == pytest.approx([1e-3 * resumed.value_at(71)])


@pytest.mark.parametrize(
    'phases',
    [
        [],
        [dict(until=0.5, start=0, stop=1)],
        [
            dict(until=0.6, start=0, stop=1),
            dict(until=0.4, start=1, stop=0),
            dict(until=1, start=0, stop=0),
        ],
        [
            dict(until=0.5, start=0, stop=1),
            dict(until=0.5, start=1, stop=0),
            dict(until=1, start=0, stop=0),
        ],
    ],
)
def test_phases_must_cover_the_run(phases):
    with pytest.raises(ValueError, match='until'):
        PhasedScheduler(_adamw(), 'lr', phases, end=10)


def test_bad_settings():
    with pytest.raises(ValueError, match='curve'):
        PhasedScheduler(_adamw(), 'lr', [dict(until=1, start=0, stop=1, curve='cosin')], end=10)
    with pytest.raises(ValueError, match='by_epoch'):
        PhasedScheduler(_adamw(), 'lr', [dict(until=1, start=0, stop=1)], end=10, by_epoch=True)


def test_interpolate():
    assert [interpolate('linear', 2, 4, p) for p in (-1, 0, 0.5, 1, 2)] == [2, 2, 3, 4, 4]
    assert interpolate('cosine', 0, 1, 0.25) == pytest.approx((1 - math.cos(math.pi / 4)) / 2)
    assert interpolate('constant', 2, 4, 0.9) == 2


@pytest.mark.parametrize('curve', ['linear', 'cosine'])
def test_target_momentum(curve):
    """Weight of the OLD target: 0.996 at iteration 0, towards 1 at the end, at any length."""
    hook = TargetUpdateHook((0.996, 1.0), curve)
    assert hook.momentum_at(0, 1000) == 0.996
    assert hook.momentum_at(500, 1000) == pytest.approx(0.998)
    assert hook.momentum_at(1000, 1000) == 1.0
    assert (
        hook.momentum_at(999, 1000) == pytest.approx(1.0, abs=5e-6)
        and hook.momentum_at(999, 1000) < 1
    )
    assert TargetUpdateHook((0.9, 0.9), 'constant').momentum_at(7, 10) == 0.9
    for bad in ((1.1, 1.0), (0.9, -0.1)):
        with pytest.raises(ValueError, match='momentum'):
            TargetUpdateHook(bad)


def test_values_a_run_sees(repo, tmp_path):
    """Each iteration trains with the value of its own number, accumulated iterations included."""
    runner = toy_runner(repo, tmp_path / 'w', max_iters=6, accumulate=2)
    seen, steps = [], []
    step = runner.model.train_step

    def watched(data, optim_wrapper):
        group = optim_wrapper.optimizer.param_groups[0]
        seen.append((group['lr'], group['betas'][0], group['weight_decay']))
        before = runner.model.head.weight.clone()
        out = step(data, optim_wrapper)
        steps.append(not torch.equal(before, runner.model.head.weight))
        return out

    runner.model.train_step = watched
    runner.train()
    lr = [0.1 * f for f in (0.2, 0.4, 0.8, 1.0, 0.75, 0.25)]  # cosine thirds: 1/4 and 3/4
    assert [s[0] for s in seen] == pytest.approx(lr)
    assert [s[1] for s in seen] == pytest.approx([0.95 - 0.1 * i / 6 for i in range(6)])
    assert [s[2] for s in seen] == pytest.approx([0.1 * (1 + 3 * i / 6) for i in range(6)])
    assert steps == [False, True] * 3


def test_accumulated_gradients_equal_the_large_batch(repo, tmp_path):
    """Two half batches and one step = one batch and one step (without BatchNorm and dropout)."""

    def run(name, **options):
        runner = toy_runner(
            repo,
            tmp_path / name,
            length=8,
            **options,
            **{'custom_hooks': [], 'train_dataloader.sampler.shuffle': False},
        )
        runner.model.norm = nn.Identity()
        runner.model.eval()
        runner.model.train = lambda mode=True: runner.model
        sampler = runner.train_dataloader.batch_sampler
        # the same samples: seeds follow the position in the batch otherwise
        size = sampler.batch_size
        type(sampler).__iter__, old = (
            lambda self: iter(
                [[(i, i) for i in range(k * size, k * size + size)] for k in range(8 // size)]
            ),
            type(sampler).__iter__,
        )
        try:
            runner.train()
        finally:
            type(sampler).__iter__ = old
        return runner.model.state_dict()

    small = run('small', batch_size=2, accumulate=2, max_iters=4, param_scheduler=[])
    large = run('large', batch_size=4, accumulate=1, max_iters=2, param_scheduler=[])
    for key, value in large.items():
        torch.testing.assert_close(small[key], value, rtol=1e-5, atol=1e-6)
    start = toy_runner(repo, tmp_path / 'start').model.state_dict()
    assert not torch.equal(start['head.weight'], large['head.weight'])


@pytest.mark.parametrize(('accumulate', 'lr'), [(1, 0.1 * 2 / 16), (4, 0.1 * 8 / 16)])
def test_auto_scale_lr(repo, tmp_path, accumulate, lr):
    """The learning rate follows the effective batch, and the schedule the scaled one."""
    runner = toy_runner(repo, tmp_path / 'w', max_iters=2, accumulate=accumulate)
    runner.auto_scale_lr = dict(enable=True, base_batch_size=16)
    runner.train()
    assert runner.message_hub.get_scalar('train/lr').data[0][0] == pytest.approx(lr * 0.2)
    plain = toy_runner(repo, tmp_path / 'v', max_iters=2)
    plain.auto_scale_lr = dict(enable=False, base_batch_size=16)
    plain.train()
    assert plain.message_hub.get_scalar('train/lr').data[0][0] == pytest.approx(0.1 * 0.2)


def test_mmengine_schedules_still_work(repo, tmp_path):
    """Counted in iterations or epochs as they say, also when resumed."""
    schedule = [dict(type='CosineAnnealingLR', T_max=6, by_epoch=False, eta_min=0.0)]
    runner = toy_runner(repo, tmp_path / 'w', param_scheduler=schedule)
    runner.register_hook(StopAt(4))
    runner.train()
    resumed = toy_runner(repo, tmp_path / 'w', resume=True, param_scheduler=schedule)
    resumed.train()
    lr = resumed.message_hub.get_scalar('train/lr').data[0]
    assert lr == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 6)) for i in range(6)])


class _Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.target = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)).requires_grad_(False)
        self.token = nn.Parameter(torch.zeros(2))


@pytest.mark.parametrize(
    ('paramwise', 'groups'),
    [
        (None, 1),
        (dict(norm_decay_mult=0.0, bias_decay_mult=0.0), 2),
        (dict(norm_decay_mult=0.0, custom_keys=dict(token=dict(lr_mult=0.1))), 3),
    ],
)
def test_optimizer_groups_are_merged_and_trainable(paramwise, groups, monkeypatch):
    told = []
    monkeypatch.setattr(
        'mmengine.optim.optimizer.default_constructor.print_log',
        lambda text, **_: told.append(text),
    )
    init_default_scope('mmjepa')
    model = _Parts()
    cfg = dict(type='JEPAOptimWrapper', optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.5))
    wrapper = JEPAOptimWrapperConstructor(cfg, paramwise)(model)
    assert isinstance(wrapper, OptimWrapper)
    assert len(wrapper.optimizer.param_groups) == groups
    mine = [id(p) for g in wrapper.optimizer.param_groups for p in g['params']]
    assert sorted(mine) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    by_id = {id(p): g for g in wrapper.optimizer.param_groups for p in g['params']}
    norm, token = by_id[id(model.encoder[1].weight)], by_id[id(model.token)]
    assert norm['weight_decay'] == (0.0 if paramwise else 0.5)
    assert token['lr'] == (0.1 if paramwise and 'custom_keys' in paramwise else 1.0)
    assert not [t for t in told if 'requires_grad' in t]  # MMEngine: one a frozen parameter


def test_effective_batch_is_logged(repo, tmp_path):
    runner = toy_runner(repo, tmp_path / 'w', accumulate=3, max_iters=3)
    log = Log(runner, level=20)
    runner.train()
    assert [
        t for t in log.texts if t.startswith('effective batch 6 = 2 a process x 1 processes x 3')
    ]
