"""Schedules of V-JEPA, SALT and V-JEPA 2, as their configs state them."""

import pytest
import torch
from mmengine.registry import init_default_scope
from test_vjepa import build

from mmjepa.engine.config import load_config
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.schedules import PhasedScheduler
from mmjepa.registry import OPTIM_WRAPPER_CONSTRUCTORS


def at(cfg, step, total, name):
    """Value that step ``step`` (from 1) of ``total`` is taken with."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, weight_decay=0.04)
    for group in optimizer.param_groups:
        group['lr'] = cfg.optim_wrapper.optimizer.lr
    options = next(dict(s) for s in cfg.param_scheduler if s['param_name'] == name)
    options.pop('type')
    schedule = PhasedScheduler(optimizer, end=total, **options)
    return schedule.value_at(step - 1) * schedule.base_values[0]


def hook_of(cfg):
    (options,) = (dict(h) for h in cfg.custom_hooks if h['type'] == 'TargetUpdateHook')
    options.pop('type')
    return TargetUpdateHook(**options)


def test_schedules_of_vjepa(repo):
    cfg = load_config(repo / 'configs/vjepa/vit_large16_224.py')
    total = cfg.max_iters
    assert total == 90_000
    lr = {s: at(cfg, s, total, 'lr') for s in (1, 12_000, 45_000, 90_000)}
    assert lr[1] == pytest.approx(2e-4 + (6.25e-4 - 2e-4) / 12_000)
    assert lr[12_000] == pytest.approx(6.25e-4)
    assert lr[45_000] == pytest.approx(4.7320e-4, rel=1e-4)
    assert lr[90_000] == pytest.approx(7.5042e-5, rel=1e-4)
    assert at(cfg, 45_000, total, 'weight_decay') == pytest.approx(0.16438, rel=1e-4)
    assert at(cfg, 90_000, total, 'weight_decay') == pytest.approx(0.36562, rel=1e-4)
    hook = hook_of(cfg)
    assert hook.momentum_at(0, total) == 0.998
    assert hook.momentum_at(90_000, total) == pytest.approx(0.9996)
    assert cfg.optim_wrapper.clip_grad.max_norm == 10


def test_schedules_of_salt(repo):
    for name, total in dict(teacher_vit_base=40_000, student_vit_base=200_000).items():
        cfg = load_config(repo / f'configs/salt/{name}.py')
        assert cfg.max_iters == total
        assert at(cfg, 5_000, total, 'lr') == pytest.approx((2e-4 + 6.25e-4) / 2)
        assert at(cfg, 10_000, total, 'lr') == pytest.approx(6.25e-4)
        assert at(cfg, total, total, 'lr') == pytest.approx(1e-6)
        assert at(cfg, total, total, 'weight_decay') == pytest.approx(0.4)
        assert at(cfg, total // 2, total, 'weight_decay') == pytest.approx(0.22)
        optimizer = cfg.optim_wrapper.optimizer
        assert tuple(optimizer.betas) == (0.9, 0.95)
        assert cfg.optim_wrapper.clip_grad.max_norm == 0.02
        assert not any(h['type'] == 'TargetUpdateHook' for h in cfg.custom_hooks)


def test_schedules_of_vjepa2(repo):
    cfg = load_config(repo / 'configs/vjepa/vit_large16_256_rope.py')
    total = cfg.max_iters
    assert total == 240_000
    assert at(cfg, 6_000, total, 'lr') == pytest.approx((1e-4 + 5.25e-4) / 2)
    for step in (12_000, 100_000, 240_000):
        assert at(cfg, step, total, 'lr') == pytest.approx(5.25e-4)
    assert [s['param_name'] for s in cfg.param_scheduler] == ['lr']  # weight decay stays 0.04
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.04
    assert hook_of(cfg).momentum_at(100_000, total) == 0.99925
    assert cfg.optim_wrapper.get('clip_grad') is None


def test_biases_and_norms_never_decay(repo):
    init_default_scope('mmjepa')
    cfg = load_config(repo / 'configs/vjepa/vit_tiny_sim.py').optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.pop('constructor'))
    model = build()
    optimizer = constructor(cfg, cfg.pop('paramwise_cfg'))(model).optimizer
    schedule = PhasedScheduler(
        optimizer, 'weight_decay', [dict(until=1.0, start=1.0, stop=10.0)], first=1, end=5
    )
    decays = []
    for _ in range(5):
        decays.append([group['weight_decay'] for group in optimizer.param_groups])
        schedule.step()
    names = {id(p): n for n, p in model.named_parameters()}
    for i, group in enumerate(optimizer.param_groups):
        flat = {p.ndim == 1 or names[id(p)].endswith('bias') for p in group['params']}
        assert len(flat) == 1
        values = [row[i] for row in decays]
        assert values == [0.0] * 5 if flat == {True} else values[-1] == pytest.approx(0.4)


def test_a_stretched_schedule_is_the_start_of_a_longer_one():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    phases = [
        dict(until=0.1, start=0.0, stop=1.0, curve='linear'),
        dict(until=1.0, start=1.0, stop=0.0),
    ]
    short = PhasedScheduler(optimizer, 'lr', phases, stretch=1.25, end=80)
    long = PhasedScheduler(optimizer, 'lr', phases, end=100)
    assert [short.value_at(i) for i in range(80)] == [long.value_at(i) for i in range(80)]
    with pytest.raises(ValueError, match='stretch'):
        PhasedScheduler(optimizer, 'lr', phases, stretch=0.5)
