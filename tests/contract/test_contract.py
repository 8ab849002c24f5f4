"""The rules of docs/architecture.md for every registered method."""

import copy

import pytest
import torch
from cases import CASES
from mmengine.hooks import Hook

from mmjepa.engine.hooks import CollapseMonitorHook, TargetUpdateHook
from mmjepa.models.jepa.base import BaseJEPA
from mmjepa.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS

NAMES = sorted(CASES)
RULES = {
    'pure_loss': 'loss() changes nothing but BatchNorm running statistics and never reads a scalar',
    'loss_keys': 'keys that contain "loss" are optimised, monitors are detached',
    'target_no_grad': 'the target gets no gradient, is in no optimizer group and keeps its mode',
    'target_moves_in_hook': 'the target moves in TargetUpdateHook only, when the optimizer stepped',
    'hook_required': 'an EMA target without the hook stops before the first step',
    'masks': 'masks are a function of seed, iteration and position; never empty; checked settings',
    'keep_ids': 'keep_ids=None equals all ids',
    'mask_generator_required': 'training without a mask generator stops',
    'round_trip': 'extract_feat is the same after a trip through a file',
    'schedules': 'every schedule is right at iteration 0, at the last one and after a resume',
    'silent_monitor': 'the collapse monitor measures and stays silent on a healthy run',
    'label_free': 'one step gives the same loss with the label files deleted',
}


def _applies(name: str, rule: str) -> None:
    reason = MODELS.get(name).contract.get(rule)
    if reason:
        pytest.skip(f'{name}: {reason}')


@pytest.fixture(params=NAMES)
def case(request, tmp_path):
    _applies(request.param, request.node.originalname.removeprefix('test_'))
    case = CASES[request.param]
    case.name = request.param
    case.root = case.make_data(tmp_path / 'toy')
    return case


def test_every_registered_method_has_a_case_and_prints_its_rules(capsys):
    methods = {
        name
        for name, cls in MODELS.module_dict.items()
        if isinstance(cls, type)
        and issubclass(cls, BaseJEPA)
        # methods of projects/ are under contract in the projects' own tests
        and (cls.__module__.startswith('mmjepa.') or name in CASES)
    }
    assert methods == set(CASES)
    with capsys.disabled():
        for name in NAMES:
            left_out = MODELS.get(name).contract
            assert set(left_out) <= set(RULES), f'{name} leaves out rules that do not exist'
            print(f'\ncontract of {name}:')
            for rule, text in RULES.items():
                print(f'  [{"-" if rule in left_out else "x"}] {rule}: {left_out.get(rule, text)}')


def test_pure_loss(case, monkeypatch, capsys):
    model = case.model(case.root)
    data = case.batch(model, case.root)
    norm_buffers = {
        f'{name}.{b}'
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
        for b, _ in m.named_buffers()
    }
    before = copy.deepcopy(model.state_dict())
    attributes = {k: v for k, v in vars(model).items() if isinstance(v, (int, float, str))}
    capsys.readouterr()

    reads = []

    def forbidden(self, *args):
        raise AssertionError('a scalar is read inside loss()')

    def counted(self):
        reads.append(self)
        return tolist(self)

    tolist = torch.Tensor.tolist

    with monkeypatch.context() as patch:
        for method in ('item', '__float__'):
            patch.setattr(torch.Tensor, method, forbidden)
        patch.setattr(torch.Tensor, 'tolist', counted)
        torch.manual_seed(1)
        first = model.loss(**data)
        torch.manual_seed(1)
        second = model.loss(**data)
    assert capsys.readouterr().out == ''
    assert len(reads) <= 2 * case.host_reads
    assert {
        k for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    } <= norm_buffers
    assert attributes == {k: v for k, v in vars(model).items() if isinstance(v, (int, float, str))}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_loss_keys(case):
    model = case.model(case.root)
    losses = model.loss(**case.batch(model, case.root))
    optimised = [k for k in losses if 'loss' in k]
    assert optimised
    assert all(losses[k].requires_grad for k in optimised)
    assert not any(losses[k].requires_grad for k in losses if 'loss' not in k)
    total, _ = model.parse_losses(losses)
    total.backward()
    for part in (model.encoder, model.predictor):
        grads = [p.grad for p in part.parameters() if p.requires_grad]
        assert all(g is not None and torch.isfinite(g).all() for g in grads)
        assert any(g.abs().sum() > 0 for g in grads)


def test_target_no_grad(case):
    model = case.model(case.root)
    inner = model.target.encoder
    seen = []
    for module in inner.modules():
        module.register_forward_hook(lambda *a: seen.append(torch.is_grad_enabled()))
    total, _ = model.parse_losses(model.loss(**case.batch(model, case.root)))
    total.backward()
    assert seen and not any(seen)
    assert all(p.grad is None and not p.requires_grad for p in inner.parameters())
    cfg = case.load(case.root).optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(cfg.pop('constructor'))
    optimizer = constructor(cfg, cfg.pop('paramwise_cfg', None))(model).optimizer
    mine = {id(p) for g in optimizer.param_groups for p in g['params']}
    assert not mine & {id(p) for p in inner.parameters()}
    assert mine == {id(p) for p in model.parameters() if p.requires_grad}
    for mode in (True, False):
        model.train(mode)
        assert {m.training for m in inner.modules()} == {model.target.mode == 'train'}


def test_target_moves_in_hook(case, tmp_path):
    """Three iterations, gradients accumulated over two: one move, by the formula."""
    runner = case.runner(case.root, tmp_path / 'w', accumulate=2, max_iters=3)
    model = runner.model
    moves, hook = [], None
    for candidate in runner.hooks:
        if isinstance(candidate, TargetUpdateHook):
            hook = candidate
    update = hook.update

    def watched(momentum):
        before = [p.clone() for p in model.target.encoder.parameters()]
        update(momentum)
        for old, new, online in zip(
            before, model.target.encoder.parameters(), model.encoder.parameters(), strict=True
        ):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * online)
        moves.append((runner.iter, momentum))

    hook.update = watched
    runner.train()
    assert not model.target.has_updater  # the hook let go
    # iterations 0 and 1 accumulate to one step; the last one steps by itself, as MMEngine does
    assert [i for i, _ in moves] == [1, 2]
    assert moves[0][1] == pytest.approx(hook.momentum_at(1, 3))


def test_skipped_step_leaves_the_target(case):
    _applies(case.name, 'target_moves_in_hook')
    model = case.model(case.root)
    optimizer = torch.optim.AdamW(model.predictor.parameters(), lr=0.1, fused=True)
    for parameter in model.predictor.parameters():
        parameter.grad = torch.ones_like(parameter)
    hook = TargetUpdateHook()
    hook.attach(model, optimizer)
    # what a loss scaler leaves on a fused optimizer
    optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.ones(())
    optimizer.step()
    assert not hook._stepped
    optimizer.grad_scale, optimizer.found_inf = None, None
    optimizer.step()
    assert hook._stepped


def test_hook_required(case, tmp_path):
    runner = case.runner(case.root, tmp_path / 'w')
    runner._hooks = [h for h in runner.hooks if not isinstance(h, TargetUpdateHook)]
    before = copy.deepcopy(runner.model.state_dict())
    assert not runner.model.target.has_updater
    with pytest.raises(RuntimeError, match='TargetUpdateHook'):
        runner.train()
    assert all(torch.equal(v, before[k]) for k, v in runner.model.state_dict().items())


def _first_batches(case, workers: int, count: int = 4, **options):
    loader = case.loader(case.root, num_workers=workers, **options)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def _leaves(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in _leaves(v)]
    if isinstance(value, (list, tuple)):
        return [leaf for v in value for leaf in _leaves(v)]
    return []


def test_masks(case):
    """Same batches, augmentations and masks for any number of workers, others for another seed."""
    alone, many = _first_batches(case, 0), _first_batches(case, 2)
    model = case.model(case.root)
    for a, b in zip(alone, many, strict=True):
        assert a['data_samples'] == b['data_samples']
        assert all(torch.equal(x, y) for x, y in zip(_leaves(a), _leaves(b), strict=True))
    seeds = [s['sample_seed'] for batch in alone for s in batch['data_samples']]
    assert len(set(seeds)) == len(seeds)
    other = _first_batches(case, 0, 1, seed=5)[0]
    assert other['data_samples'][0]['sample_seed'] != seeds[0]
    torch.manual_seed(3)
    first = model.loss(**model.data_preprocessor(copy.deepcopy(alone[0]), True))
    torch.manual_seed(4)  # the global generator has no say
    second = model.loss(**model.data_preprocessor(copy.deepcopy(alone[0]), True))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert case.hidden_and_visible(model, model.data_preprocessor(alone[0], True)['inputs'])
    for bad in case.impossible:
        with pytest.raises(ValueError, match=next(iter(bad))):
            type(model.mask_generator)(**bad)


def test_keep_ids(case):
    model = case.model(case.root).eval()
    inputs = case.batch(model, case.root)['inputs']
    x = inputs['images'] if 'images' in inputs else inputs['videos']
    with torch.no_grad():
        tokens = model.encoder(x, None)
        ids = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
        torch.testing.assert_close(model.encoder(x, ids), tokens)


def test_mask_generator_required(case):
    model = case.model(case.root, **{'model.mask_generator': None})
    with pytest.raises(RuntimeError, match='mask_generator'):
        model.loss(**case.batch(model, case.root))


def test_round_trip(case, tmp_path):
    from mmjepa.adapters import read_encoder, write_encoder
    from mmjepa.engine.checkpoint import atomic_save, load_verified

    model = case.model(case.root)
    data = case.batch(model, case.root)
    model.loss(**data)  # moves the running statistics off their start
    model.eval()
    with torch.no_grad():
        before = model.extract_feat(data['inputs'])
    source = tmp_path / 'jepa.pth'
    meta = dict(method=case.name, cfg=case.load(case.root).pretty_text)
    atomic_save(dict(meta=meta, state_dict=model.state_dict()), source)
    out = tmp_path / 'out.safetensors'
    write_encoder(read_encoder(source, 'mmjepa'), out, 'safetensors')
    again = read_encoder(out, 'safetensors')
    fresh = case.model(case.root)
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(1.0)
    load_verified(fresh.encoder, again.state, what='encoder')
    fresh.eval()
    with torch.no_grad():
        assert torch.equal(fresh.extract_feat(data['inputs']), before)


class _Recorder(Hook):
    """Learning rates, betas and weight decays that each step is taken with, and target momenta."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.rows = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        momentum = [
            hook.momentum_at(runner.iter, runner.max_iters)
            for hook in runner.hooks
            if isinstance(hook, TargetUpdateHook)
        ]
        groups = runner.optim_wrapper.param_groups
        self.rows[runner.iter] = (
            [(g['lr'], g.get('betas'), g['weight_decay']) for g in groups],
            momentum,
        )


def test_schedules(case, tmp_path):
    def train(name, **kwargs):
        runner = case.runner(case.root, tmp_path / name, max_iters=6, **kwargs)
        runner.register_hook(recorder := _Recorder())
        runner.train()
        return runner, recorder.rows

    runner, whole = train('whole')
    assert sorted(whole) == list(range(6))
    for scheduler in runner.param_schedulers:
        name = 'betas' if scheduler.first_beta else scheduler.param_name
        column = dict(lr=0, betas=1, weight_decay=2)[name]
        for i, row in whole.items():
            wanted = scheduler.value_at(i)
            for base, group in zip(scheduler.base_values, row[0], strict=True):
                value = group[column][0] if scheduler.first_beta else group[column]
                assert value == pytest.approx(wanted * base if scheduler.relative else wanted)
    first = tmp_path / 'whole' / 'iter_4.pth'
    _, rest = train('resumed', load_from=str(first))
    assert sorted(rest) == [4, 5]
    assert all(rest[i] == whole[i] for i in rest)


def test_silent_monitor(case, tmp_path):
    runner = case.runner(case.root, tmp_path / 'w', max_iters=12, log_interval=3)
    runner.train()
    monitor = next(h for h in runner.hooks if isinstance(h, CollapseMonitorHook))
    measured = runner.message_hub.get_scalar('train/collapse/target_rank').data[0]
    assert len(measured) == 5  # the first iteration and every third
    assert monitor.warnings == []
    within = runner.message_hub.log_scalars.get('train/collapse/target_within')
    if within is not None:
        assert all(0 <= value <= 1 for value in within.data[0])


def test_label_free(case, tmp_path):
    def one_step(name):
        runner = case.runner(case.root, tmp_path / name, max_iters=1)
        runner.train()
        return runner.message_hub.get_scalar('train/loss').current(), runner.model.state_dict()

    loss, weights = one_step('with')
    case.remove_labels(case.root)
    again, same = one_step('without')
    assert loss == again
    assert all(torch.equal(v, same[k]) for k, v in weights.items())
