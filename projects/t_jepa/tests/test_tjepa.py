"""T-JEPA as a whole: semantics, gradients, options, schedules, resuming, configs."""

import copy
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from tjepa_cases import CASES, batch, build
from torch.testing import assert_close

from mmjepa.engine.config import check_config, load_config
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.hooks.loss_guard import LossGuardHook, NonFiniteLossError
from mmjepa.engine.schedules import PhasedScheduler
from mmjepa.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from projects.t_jepa.t_jepa import FeatureMasks
from projects.t_jepa.t_jepa.rows import RowSamples

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(path.stem for path in CONFIGS.glob('*.py'))


def rows(count=6, features=8):
    return torch.rand(count, features)


def masks(context, *targets, count=6):
    """The same sets for every row."""
    expand = torch.tensor(context).expand(count, -1)
    return FeatureMasks(expand, torch.tensor(targets).expand(count, -1, -1))


@torch.no_grad()
def test_the_loss_in_the_words_of_the_paper():
    """[REG] is in the context and no target; targets are latents of the whole row."""
    model, x = build(), rows()
    for p in model.encoder.parameters():  # so that the two encoders differ
        p.add_(0.1 * torch.randn_like(p))
    drawn = model.mask_generator(batch(x)['seeds'], 1000)
    context = model.encoder(x, drawn.context)
    assert context.shape == (6, 1 + drawn.context.shape[1], 16)
    whole = model.target.encoder(x)
    assert whole.shape == (6, 1 + 8, 16)
    total = 0.0
    for k in range(4):
        target = drawn.targets[:, k : k + 1]
        prediction = model.predictor(context[:, 1:], drawn.context, target)[:, 0]
        wanted = torch.stack([w[1 + ids] for w, ids in zip(whole, target[:, 0], strict=True)])
        total += (prediction - wanted).square().mean() / 4
    losses = model.loss(batch(x))
    assert_close(losses['loss_prediction'], total)
    assert_close(losses['spread'], whole[:, 1:].std(0).mean())


@torch.no_grad()
def test_the_loss_as_released():
    """Masks number the tokens: 0 is [REG], and the K equal sets are computed once."""
    model, x = build(semantics='released'), rows()
    drawn = model.mask_generator(batch(x)['seeds'], 1000)
    assert drawn.targets.shape[1] == 4
    context = model.encoder.tokenizer(x)[torch.arange(6)[:, None], drawn.context]
    context = model.encoder.stack(context)
    prediction = model.predictor(context, drawn.context, drawn.targets)
    wanted = model.target.encoder(x)[torch.arange(6)[:, None, None], drawn.targets]
    loss = model.loss(batch(x))['loss_prediction']
    assert_close(loss, (prediction - wanted).square().mean())


@torch.no_grad()
@pytest.mark.parametrize('semantics', ['paper', 'released'])
def test_the_last_feature_is_unseen_as_released(semantics):
    """Selecting all indices, then changing one feature after the other."""
    model, x = build(semantics=semantics), rows()
    all_ids = masks(range(8), [0])
    seen = model.predict_sets(x, all_ids)
    moved = []
    for feature in range(8):
        other = x.clone()
        other[:, feature] += 1
        moved.append(not torch.equal(model.predict_sets(other, all_ids), seen))
    assert moved == [True] * 7 + [semantics == 'paper']


def test_every_feature_is_once_seen_and_once_predicted():
    model = build()
    seen, predicted = set(), set()
    for number in range(20):
        drawn = model.mask_generator(torch.arange(32) + 32 * number, number)
        seen |= set(drawn.context.flatten().tolist())
        predicted |= set(drawn.targets.flatten().tolist())
    assert seen == predicted == set(range(8))


@pytest.mark.parametrize(
    ('semantics', 'reg'), [('paper', 0), ('paper', 1), ('paper', 2), ('released', 1)]
)
def test_gradients(semantics, reg):
    """All of encoder and predictor, the [REG] rows included; nothing of the target."""
    encoder = dict(num_reg=reg, feature_index_embedding=True, feature_type_embedding=True)
    model = build(5, (4, 3), semantics=semantics, encoder=encoder)
    x = torch.cat([torch.rand(64, 5), torch.randint(1, 3, (64, 2)).float()], 1)
    for number in range(4):
        model.loss(batch(x, number * 64))['loss_prediction'].backward()
    assert all(p.grad is None for p in model.target.parameters())
    parts = [*model.encoder.named_parameters(), *model.predictor.named_parameters()]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in parts)
    assert model.encoder.tokenizer.weight.grad[:reg].abs().sum(1).gt(0).all()


@torch.no_grad()
def test_rows_and_order_of_the_context():
    model, x = build().eval(), rows()
    drawn = masks([1, 4, 6], [0, 2], [3, 7])
    prediction = model.predict_sets(x, drawn)
    order = torch.randperm(6)
    assert_close(model.predict_sets(x[order], drawn), prediction[order])
    assert_close(model.predict_sets(x, masks([6, 1, 4], [0, 2], [3, 7])), prediction)


def test_only_the_context_encoders_gradients_are_clamped():
    x = 100 * rows(64)
    grads = {}
    for limit in (None, 1e-4):
        model = build(grad_clamp=limit)
        (model.loss(batch(x))['loss_prediction']).backward()
        grads[limit] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for name, grad in grads[None].items():
        wanted = grad.clamp(-1e-4, 1e-4) if name.startswith('encoder.') else grad
        assert_close(grads[1e-4][name], wanted)
    assert any((g.abs() > 1e-4).any() for n, g in grads[None].items() if n.startswith('encoder.'))
    assert any((g.abs() > 1e-4).any() for n, g in grads[None].items() if n.startswith('pred'))


@torch.no_grad()
def test_options_of_the_features():
    x = rows()
    model = build(encoder=dict(num_reg=2)).eval()
    assert model.extract_feat(dict(rows=x)).shape == (6, 8, 16)
    ids = torch.tensor([2, 5]).expand(6, -1)
    assert torch.equal(model.extract_feat(dict(rows=x), ids), model.encoder(x, ids)[:, 2:])
    assert build(semantics='released').eval().extract_feat(dict(rows=x)).shape == (6, 9, 16)
    assert build(keep_reg=True).extract_feat(dict(rows=x)).shape == (6, 9, 16)
    model.encoder.tokenizer.bias.add_(1)
    model.features = 'target'
    assert torch.equal(model(dict(rows=x)), model.target.encoder(x)[:, 2:])


@torch.no_grad()
def test_target_norm():
    x, drawn = rows(), masks([1, 4], [0, 2])
    plain, normed = build(), build(target_norm='layer')
    for model in (plain, normed):  # the encoder's own last norm does the same at the start
        model.target.encoder.stack[-1].bias.add_(torch.arange(16.0))
    target = plain.inspect(dict(rows=x), drawn)['target']
    assert_close(normed.inspect(dict(rows=x), drawn)['target'], F.layer_norm(target, (16,)))


def test_what_the_monitor_measures():
    """Errors stay, and the feature's mean doesn't count as spread."""
    model, x = build(), rows(64)
    model.capture = True
    loss = model.loss(batch(x))['loss_prediction']
    target, prediction = model.captured['target'], model.captured['prediction']
    assert_close((target - prediction).square().mean(), loss.detach())
    drawn = model.mask_generator(batch(x)['seeds'], 1000)
    tokens = model._target_tokens(x)
    wanted = (tokens - tokens.mean(0))[torch.arange(64)[:, None, None], drawn.targets]
    assert_close(target, wanted.flatten(0, 2) + 1)


def test_what_does_not_fit_is_refused():
    for name in ('semantics', 'target_norm', 'features'):
        with pytest.raises(ValueError, match=f'{name} must be one of'):
            build(**{name: 'other'})
    with pytest.raises(ValueError, match='draws from 9 features'):
        build(masks=dict(num_features=9))
    with pytest.raises(ValueError, match="semantics 'released'; the model has 8 and 'paper'"):
        build(masks=dict(semantics='released'))
    with pytest.raises(ValueError, match="policy 'stop_grad' has none"):
        build(features='target', target=dict(policy='stop_grad'))


def test_preprocessor():
    prepare = build().data_preprocessor
    x = rows()
    samples = [dict(sample_seed=7 + i) for i in range(6)]
    made = prepare(dict(inputs=dict(rows=x), data_samples=samples))['inputs']
    assert made['batch_seed'] == 7 and made['seeds'].tolist() == list(range(7, 13))
    given = dict(rows=x, seeds=torch.arange(3, 9))
    assert prepare(dict(inputs=given, data_samples=samples))['inputs']['batch_seed'] == 3
    x[4, 2] = math.nan
    with pytest.raises(ValueError, match='nan in row 4 of the batch, feature 2'):
        prepare(dict(inputs=dict(rows=x), data_samples=samples))
    for bad in (x[0], x.double(), [1.0]):
        with pytest.raises(ValueError, match='float32'):
            prepare(dict(inputs=dict(rows=bad), data_samples=samples))
    with pytest.raises(KeyError, match='rows'):
        prepare(dict(inputs=dict(images=x), data_samples=samples))


@torch.no_grad()
def test_saved_and_loaded_features_are_the_same_bits(tmp_path):
    model, x = build(encoder=dict(dropout=0.2)), rows()
    torch.save(model.state_dict(), tmp_path / 'w.pth')
    again = build(seed=1, encoder=dict(dropout=0.2)).eval()
    again.load_state_dict(torch.load(tmp_path / 'w.pth', weights_only=True))
    wanted = model.eval().extract_feat(dict(rows=x))
    assert torch.equal(again.extract_feat(dict(rows=x)), wanted)
    assert torch.equal(again.extract_feat(dict(rows=x)), wanted)
    copy.deepcopy(model)  # hooks of the gradients don't stand in the way


def load(name, **options):
    init_default_scope('mmjepa')
    return load_config(CONFIGS / f'{name}.py', options)


@pytest.mark.parametrize('name', NAMES)
def test_configs_are_valid_and_build(name):
    cfg = load(name)
    check_config(cfg)
    model = MODELS.build(cfg.model)
    columns = dict(adult=14, aloi=128, california=8, helena=27, higgs=28, jannis=54)
    assert model.encoder.num_features == columns[name]
    dataset = cfg.train_dataloader.dataset
    named = [*dataset.numeric, *dataset.get('categorical', ())]
    assert len(named) == len(set(named)) == columns[name]
    counts = [
        sum(p.numel() for p in part.parameters()) for part in (model.encoder, model.predictor)
    ]
    if name == 'jannis':
        assert counts == [414_848, 156_368]
    assert (model.semantics, model.mask_generator.num_targets) == ('paper', 4)


def test_schedules_of_jannis():
    """lr i / W up to W = 10 of 300 epochs, then half a cosine to 0; momentum linear to 1."""
    cfg, per_epoch = load('jannis'), 148
    total, warmup = 300 * per_epoch, 10 * per_epoch
    optimizer = torch.optim.AdamW([torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr)
    schedule = dict(cfg.param_scheduler[0])
    assert schedule.pop('type') == 'PhasedScheduler' and len(cfg.param_scheduler) == 1
    scheduler = PhasedScheduler(optimizer, end=total, **schedule)
    for i in (0, 1, warmup - 1, warmup, warmup + 1, 20_000, total - 1):
        late = (i - warmup) / (total - warmup)
        wanted = i / warmup if i < warmup else 0.5 * (1 + math.cos(math.pi * late))
        assert scheduler.value_at(i) == pytest.approx(wanted, abs=1e-12)
    assert optimizer.param_groups[0]['lr'] == 0  # of iteration 0, not AdamW's default
    assert scheduler.value_at(total - 1) < 1e-8
    hook = next(dict(h) for h in cfg.custom_hooks if h['type'] == 'TargetUpdateHook')
    hook = TargetUpdateHook(hook['momentum'], hook['curve'])
    for i in (0, 1, 1000, total):
        assert hook.momentum_at(i, total) == pytest.approx(0.996 + 0.004 * i / total, abs=1e-12)


def test_weight_decay_goes_by_name_and_dimension():
    """None where the name holds 'bias' or the tensor is flat; the tokeniser's bias is 2-D."""
    cfg = load('adult', **{'optim_wrapper.optimizer.weight_decay': 0.1})
    model = MODELS.build(cfg.model)
    wrapper = cfg.optim_wrapper
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(wrapper.pop('constructor'))
    built = constructor(wrapper, wrapper.pop('paramwise_cfg'))(model)
    decay = {id(p): g['weight_decay'] for g in built.optimizer.param_groups for p in g['params']}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        free = 'bias' in name or parameter.ndim == 1
        assert decay[id(parameter)] == (0 if free else 0.1), name
    for name in ('encoder.tokenizer.bias', 'encoder.tokenizer.weight', 'predictor.mask_token'):
        assert name in trained
    assert load('adult').optim_wrapper.optimizer.weight_decay == 0


def test_resume_is_exact(tmp_path):
    """Four steps, and two after a checkpoint of the second: the same bits."""
    case = CASES['TJEPA']
    root = case.make_data(tmp_path / 'toy')
    options = {'max_iters': 6, 'default_hooks.checkpoint.interval': 4, 'dropout': 0.1}
    whole = case.runner(root, tmp_path / 'whole', **options)
    whole.train()
    torch.manual_seed(99)
    saved = str(tmp_path / 'whole' / 'iter_4.pth')
    rest = case.runner(root, tmp_path / 'rest', load_from=saved, **options)
    rest.train()
    wanted, found = whole.model.state_dict(), rest.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[k], v) for k, v in wanted.items())
    histories = [r.message_hub.get_scalar('train/loss').data[0][-2:] for r in (whole, rest)]
    assert histories[0].tolist() == histories[1].tolist()


@pytest.mark.cuda
@pytest.mark.parametrize('semantics', ['paper', 'released'])
def test_first_loss_equals_the_cpu(semantics):
    """Same weights, rows and masks."""
    model = build(5, (4, 3), semantics=semantics)
    x = torch.cat([torch.rand(64, 5), torch.randint(1, 3, (64, 2)).float()], 1)
    data = dict(inputs=dict(rows=x, seeds=torch.arange(64)), data_samples=[])
    here = model.loss(model.data_preprocessor(data)['inputs'])
    model.cuda()
    there = model.loss(model.data_preprocessor(data)['inputs'])
    for key, value in here.items():
        assert_close(there[key].cpu(), value, rtol=1e-4, atol=1e-5)


def test_the_clamp_refuses_gradients_that_fp16_scales_up(monkeypatch):
    model = build(6)
    model.loss(batch(torch.randn(8, 6)))
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda device: device == 'cuda')
    for kind, refused in ((torch.bfloat16, False), (torch.float16, True)):
        monkeypatch.setattr(torch, 'get_autocast_dtype', lambda device, kind=kind: kind)
        if refused:
            with pytest.raises(ValueError, match='take --amp bf16'):
                model.loss(batch(torch.randn(8, 6)))
        else:
            model.loss(batch(torch.randn(8, 6)))
    build(6, grad_clamp=None).loss(batch(torch.randn(8, 6)))


def test_a_batch_that_made_nan_can_be_read_again(tmp_path):
    """Its samples are told on demand; what lies on the disk are plain dicts."""
    samples = RowSamples('t.csv', np.arange(2), torch.tensor([5, 6]))
    bad = dict(inputs=dict(rows=torch.zeros(2, 3)), data_samples=samples)
    guard, runner = LossGuardHook(), SimpleNamespace(work_dir=str(tmp_path), rank=0)
    guard._waiting = torch.tensor([math.nan, 0.0]), None, dict(loss=torch.tensor(math.nan)), bad, 3
    with pytest.raises(NonFiniteLossError):
        guard.check(runner)
    (path,) = tmp_path.glob('nonfinite_*.pth')
    found = torch.load(path, weights_only=True)['batch']['data_samples']
    assert found == [samples[0], samples[1]] and found[1]['sample_seed'] == 6
