"""V-JEPA and SALT: who sees what, gradients, teachers, schedules, what collapses or doesn't."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from mmjepa.engine.checkpoint import CheckpointError, atomic_save
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.models.losses import RegressionLoss
from mmjepa.registry import MODELS

GRID, LENGTH = (4, 4, 4), 64
ENCODER = dict(type='JEPAViT', arch=(32, 2, 2, 64), img_size=32, patch_size=8, num_frames=8)
TEACHER = dict(ENCODER, arch=(48, 2, 4, 96))
TARGETS = dict(
    VJEPA=dict(type='TargetEncoder', policy='ema'),
    SALT=dict(type='TargetEncoder', policy='frozen', encoder=TEACHER),
    VPixel=dict(
        type='TargetEncoder', policy='data', transform=dict(type='PixelTargets', patch_size=8)
    ),
)


def build(kind='VJEPA', seed=0, teacher=True, **options):
    """Clips of 8 frames of 32 x 32 pixels: 4 x 4 x 4 tubelets."""
    torch.manual_seed(seed)
    config = dict(
        type=kind,
        encoder=ENCODER,
        target=TARGETS[kind],
        predictor=dict(
            type='ViTPredictor', channels=32, depth=2, mask_tokens=2, mask_token_std=0.0
        ),
        mask_generator=dict(type='MultiBlock3DMaskGenerator'),
        loss=dict(type='RegressionLoss', kind='mse' if kind == 'VPixel' else 'l1'),
    )
    model = MODELS.build(dict(config, **options))
    model.target.sync(model.encoder)
    if kind == 'SALT':
        model.has_teacher = teacher  # one of random weights
    return model


def batch(count=3, seed=0):
    torch.manual_seed(seed)
    return dict(videos=torch.randn(count, 3, 8, 32, 32), seeds=torch.arange(count) + 5)


def change(videos, tubelets_BL):
    """Other pixels in some tubelets (B, L) bool."""
    where = tubelets_BL.view(-1, 1, *GRID)
    for axis, size in ((2, 2), (3, 8), (4, 8)):
        where = where.repeat_interleave(size, axis)
    return torch.where(where, torch.randn_like(videos), videos)


@pytest.fixture(params=sorted(TARGETS))
def kind(request):
    return request.param


def test_clips_of_an_uncut_batch_are_alone(kind):
    """Filling leaks nowhere: each clip's predictions, and the loss, are those of a batch of one."""
    model = build(kind, mask_generator=dict(type='MultiBlock3DMaskGenerator', truncate='none'))
    inputs = batch()
    inputs['seeds'][1:] = inputs['seeds'][0] + torch.tensor([1, 2])
    generator, grid = model.mask_generator, GRID
    masks = generator(inputs['seeds'], grid)
    assert not all(mask.context_valid.all() for mask in masks)  # some row is filled up
    drawn, pairs = model._pairs(inputs)
    errors = []
    for i, mask in enumerate(drawn['masks']):
        for row in range(3):
            ids = mask.context[row, mask.context_valid[row]][None]
            aims = mask.targets[row, mask.targets_valid[row]][None]
            one = model.encoder(inputs['videos'][row : row + 1], ids)
            alone = model.predictor(one, ids, aims, grid, mask_index=i)
            whole = pairs[i][0][row, mask.targets_valid[row]]
            torch.testing.assert_close(alone[0], whole, rtol=1e-4, atol=1e-5)
            target = pairs[i][1][row, mask.targets_valid[row]]
            errors.append(model.loss_module.error(whole, target))
    half = len(errors) // 2
    wanted = sum(torch.cat(part).mean() for part in (errors[:half], errors[half:])) / 2
    torch.testing.assert_close(model.loss(inputs)['loss_prediction'], wanted)


@pytest.mark.parametrize('truncate', ['raster', 'none'])
def test_recorded_rows_know_their_clip(truncate):
    model = build(mask_generator=dict(type='MultiBlock3DMaskGenerator', truncate=truncate))
    inputs = batch()
    model.capture = True
    model.loss(inputs)
    clips, rows = model.captured['samples'], model.captured['target']
    assert len(clips) == len(rows) and set(clips.tolist()) == {0, 1, 2}
    tokens = model.inspect(inputs)['tokens']
    for clip, row in list(zip(clips, rows, strict=True))[::37]:
        assert (tokens[clip] - row).abs().amax(1).min() < 1e-5  # one of its own


def test_information_flow(kind):
    model, inputs = build(kind), batch()
    before = model.inspect(inputs)
    assert len(before['masks']) == 2
    for i, mask in enumerate(before['masks']):
        hidden = torch.ones(3, LENGTH, dtype=torch.bool).scatter(1, mask.context, False)
        after = model.inspect(dict(inputs, videos=change(inputs['videos'], hidden)))
        assert torch.equal(after['prediction'][i], before['prediction'][i])
        assert not torch.allclose(after['target'][i], before['target'][i])
        one = torch.zeros_like(hidden).scatter(1, mask.context[:, :1], True)
        seen = model.inspect(dict(inputs, videos=change(inputs['videos'], one)))
        moved = (seen['prediction'][i] != before['prediction'][i]).any(2)
        assert moved.float().mean() > 0.9  # one visible tubelet says something to all


def test_targets_know_the_whole_clip_and_pixels_only_themselves(kind):
    model, inputs = build(kind), batch()
    last = torch.zeros(3, LENGTH, dtype=torch.bool)
    last[:, -1] = True
    before, after = (model._targets(v) for v in (inputs['videos'], change(inputs['videos'], last)))
    moved = (before != after).any(2)
    assert moved[:, -1].all()
    assert moved[:, :-1].float().mean() == (0 if kind == 'VPixel' else 1)


def test_targets_of_the_masks_are_rows_of_one_pass(kind):
    model, inputs = build(kind), batch()
    passes = []
    if kind != 'VPixel':
        model.target.encoder.norm.register_forward_hook(lambda *args: passes.append(args[2].shape))
    seen = model.inspect(inputs)
    width = dict(VJEPA=32, SALT=48, VPixel=384)[kind]
    assert seen['tokens'].shape == (3, LENGTH, width)
    assert passes == ([] if kind == 'VPixel' else [(3, LENGTH, width)])
    for mask, target, prediction in zip(
        seen['masks'], seen['target'], seen['prediction'], strict=True
    ):
        ids = mask.targets[..., None].expand(-1, -1, width)
        assert torch.equal(target, seen['tokens'].gather(1, ids))
        assert prediction.shape == target.shape
    if kind != 'VPixel':
        mean, var = seen['tokens'].mean(2), seen['tokens'].var(2, unbiased=False)
        torch.testing.assert_close(mean, torch.zeros(3, LENGTH), atol=1e-5, rtol=0)
        torch.testing.assert_close(var, torch.ones(3, LENGTH), atol=1e-3, rtol=0)
        plain = build(kind, target_norm='none')._targets(inputs['videos'])
        torch.testing.assert_close(F.layer_norm(plain, (width,)), seen['tokens'])


def test_the_loss_is_the_mean_over_masks_of_their_means(kind):
    model, inputs = build(kind), batch()
    seen = model.inspect(inputs)
    power = 2 if kind == 'VPixel' else 1
    means = [
        (p - t).abs().pow(power).mean()
        for p, t in zip(seen['prediction'], seen['target'], strict=True)
    ]
    torch.testing.assert_close(model.loss(inputs)['loss_prediction'], sum(means) / 2)
    # each mask asks with its own token
    with torch.no_grad():
        model.predictor.mask_token[1] += 1
    again = model.inspect(inputs)['prediction']
    assert torch.equal(again[0], seen['prediction'][0])
    assert not torch.allclose(again[1], seen['prediction'][1])


def test_power_loss():
    a, b = torch.tensor([[0.0, 3.0]]), torch.tensor([[0.5, 0.0]])

    def value(*args):
        return RegressionLoss(*args)(a, b)['loss_prediction'].item()

    assert value('power', 1.0) == pytest.approx(value('l1'))
    assert value('power', 2.0) == pytest.approx(value('mse') / 2)
    assert value('power', 3.0) == pytest.approx((0.125 + 27) / 2 / 3)
    for bad in (('power', 0.5), ('l1', 2.0)):
        with pytest.raises(ValueError, match='exponent'):
            RegressionLoss(*bad)


def test_gradients(kind):
    model, inputs = build(kind), batch()
    model.loss(inputs)['loss_prediction'].backward()
    assert all(p.grad is None for p in model.target.parameters())
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(n.startswith(('encoder.', 'predictor.')) for n in trained)
    for name, p in trained.items():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    assert (model.predictor.mask_token.grad.abs().sum((1, 2)) > 0).all()


def test_ema_is_the_closed_form_and_frozen_stays_bit_for_bit():
    for kind in ('VJEPA', 'SALT'):
        model = build(kind)
        before = copy.deepcopy(model.target.state_dict())
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        hook = TargetUpdateHook()
        hook.attach(model, optimizer)
        expected = dict(model.target.named_parameters())
        expected = {n: p.clone() for n, p in expected.items()}
        for step in range(3):
            model.train()
            optimizer.zero_grad()
            model.loss(batch(seed=step))['loss_prediction'].backward()
            optimizer.step()
            if kind == 'VJEPA':
                hook.update(0.9)
                for name, p in model.encoder.named_parameters():
                    old = expected[f'encoder.{name}']
                    expected[f'encoder.{name}'] = 0.9 * old + 0.1 * p.detach()
        for name, p in model.target.named_parameters():
            torch.testing.assert_close(p, expected[name])
        if kind == 'SALT':
            after = model.target.state_dict()
            assert all(torch.equal(v, after[k]) for k, v in before.items())
            assert not any(m.training for m in model.target.encoder.modules())


def test_loss_at_the_start():
    """E|N(0, 1)| = 0.798 for layer-normed targets, 1 for normalised pixels and squares."""
    for kind, value in dict(VJEPA=0.798, SALT=0.798, VPixel=1.0).items():
        loss = build(kind).loss(batch(8))['loss_prediction'].item()
        assert loss == pytest.approx(value, rel=0.08), kind


def test_extract_feat_and_other_sizes(kind):
    model = build(kind)
    assert torch.equal(model.extract_feat(batch()), model.encoder(batch()['videos']))
    inputs = dict(videos=torch.randn(2, 3, 4, 48, 64), seeds=torch.arange(2))
    assert model.extract_feat(inputs).shape == (2, 2 * 6 * 8, 32)
    assert torch.isfinite(model.loss(inputs)['loss_prediction'])


def test_one_mask_token_serves_all_masks():
    model = build(predictor=dict(type='ViTPredictor', channels=32, depth=1))
    model.loss(batch())['loss_prediction'].backward()
    assert model.predictor.mask_token.grad.shape == (1, 1, 32)


@pytest.mark.parametrize('masks', ['TubeMaskGenerator', 'FrameMaskGenerator'])
def test_other_masks(masks):
    model = build(
        predictor=dict(type='ViTPredictor', channels=32, depth=1),
        mask_generator=dict(type=masks, num_masks=2),
    )
    assert torch.isfinite(model.loss(batch())['loss_prediction'])


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match='num_frames'):
        build(encoder=dict(ENCODER, num_frames=None))
    with pytest.raises(ValueError, match='target_norm'):
        build(target_norm='batch')
    with pytest.raises(ValueError, match='predictor.mask_tokens is 3: 1, or 2'):
        build(predictor=dict(type='ViTPredictor', channels=32, depth=1, mask_tokens=3))
    whole = [dict(spatial_scale=(1.0, 1.0), aspect=(1.0, 1.0))]
    with pytest.raises(ValueError, match='spatial_scale.*hide all'):
        build(mask_generator=dict(type='MultiBlock3DMaskGenerator', blocks=whole))
    with pytest.raises(ValueError, match='patch_size of the encoder is 8, that of the target 16'):
        build('VPixel', target=dict(TARGETS['VPixel'], transform=dict(type='PixelTargets')))
    coarse = dict(TARGETS['SALT'], encoder=dict(TEACHER, patch_size=16))
    with pytest.raises(ValueError, match='patch_size of the encoder is 8, that of the target 16'):
        build('SALT', target=coarse)
    with pytest.raises(ValueError, match="policy='data', not 'ema'"):
        build('VPixel', target=TARGETS['VJEPA'])
    for target in (TARGETS['VJEPA'], dict(type='TargetEncoder', policy='frozen')):
        with pytest.raises(ValueError, match="policy='frozen', encoder=dict"):
            build('SALT', target=target)
    with pytest.raises(ValueError, match='teacher_amp'):
        build('SALT', teacher_amp='fp16')


# --- SALT's teacher


def teacher_file(path, kind='VPixel', **options):
    model = build(kind, seed=7, encoder=dict(TEACHER, **options))
    atomic_save(dict(meta=dict(method=kind), state_dict=model.state_dict()), path)
    return model


def student(path, **options):
    model = build('SALT', teacher=False, teacher_checkpoint=str(path), **options)
    model._dump_init_info = lambda *args: None
    model.init_weights()
    return model


@pytest.mark.parametrize('made_by', ['VPixel', 'VJEPA'])
def test_the_teacher_is_loaded_whole(tmp_path, made_by):
    source = teacher_file(tmp_path / 'teacher.pth', made_by)
    model = student(tmp_path / 'teacher.pth')
    own = model.target.encoder.state_dict()
    wanted = source.encoder.state_dict()
    assert own.keys() == wanted.keys()
    assert all(torch.equal(v, own[k]) for k, v in wanted.items())
    assert model.encoder.out_channels == 32  # and the student has nothing of it
    assert torch.isfinite(model.loss(batch())['loss_prediction'])
    expected = F.layer_norm(source.extract_feat(batch()), (48,))
    torch.testing.assert_close(model._targets(batch()['videos']), expected)


def test_without_a_teacher_there_is_no_training(tmp_path):
    model = build('SALT', teacher=False)
    with pytest.raises(RuntimeError, match='teacher_checkpoint=FILE'):
        model.loss(batch())
    assert model.extract_feat(batch()).shape == (3, LENGTH, 32)  # the untrained student
    # a whole checkpoint brings the teacher along
    trained = build('SALT', seed=3)
    model.load_state_dict(trained.state_dict())
    expected = trained.loss(batch())['loss_prediction']
    assert torch.equal(model.loss(batch())['loss_prediction'], expected)
    # the student alone doesn't
    other = build('SALT', teacher=False)
    alone = {k: v for k, v in trained.state_dict().items() if not k.startswith('target.')}
    for whole, prefix in ((other, ''), (torch.nn.Sequential(other), '0.')):
        whole.load_state_dict({prefix + k: v for k, v in alone.items()}, strict=False)
        assert not other.has_teacher


def test_a_wrong_teacher_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'teacher_checkpoint: .*salt/teacher_'):
        student(tmp_path / 'absent.pth')
    teacher_file(tmp_path / 'wide.pth', arch=(64, 2, 4, 96))
    teacher_file(tmp_path / 'deep.pth', arch=(48, 3, 4, 96))
    for name in ('wide', 'deep'):
        with pytest.raises(CheckpointError, match=f'{name}.pth does not fit: .*target.encoder'):
            student(tmp_path / f'{name}.pth')
    source = teacher_file(tmp_path / 'teacher.pth')
    meta = "model = dict(encoder=dict(type='JEPAViT', arch=[48, 2, 2, 96], img_size=32, "
    meta += 'patch_size=8, num_frames=8))'
    file = dict(meta=dict(method='VPixel', cfg=meta), state_dict=source.state_dict())
    atomic_save(file, tmp_path / 'heads.pth')  # which no tensor tells
    with pytest.raises(CheckpointError, match='heads: 2 in the file, 4 in the config'):
        student(tmp_path / 'heads.pth')


def test_the_teacher_has_a_precision_of_its_own():
    for amp, wanted in ((None, torch.float32), ('bf16', torch.bfloat16)):
        model, seen = build('SALT', teacher_amp=amp), []
        for encoder in (model.target.encoder, model.encoder):
            encoder.blocks[0].mlp.fc1.register_forward_hook(
                lambda *args, seen=seen: seen.append(args[2].dtype)
            )
        model.loss(batch())
        assert seen == [wanted, torch.float32, torch.float32]


# --- schedules of the papers


# --- what must collapse, and what must not


def clips(count, seed):
    """(count, 3, 8, 32, 32): smooth pictures of some colour that drift."""
    generator = torch.Generator().manual_seed(seed)
    pictures = F.interpolate(
        torch.randn(count, 3, 4, 4, generator=generator), (32, 32), mode='bicubic'
    )
    pictures = pictures + 1.5 * torch.randn(count, 3, 1, 1, generator=generator)
    speed = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
    return torch.stack(
        [
            torch.stack([picture.roll((v * t, u * t), (1, 2)) for t in range(8)], 1)
            for picture, (v, u) in zip(pictures, speed, strict=True)
        ]
    )


def train(model, videos, steps):
    """Mean loss of the last 20 steps, and the spread of layer-normed features over clips."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(0, len(videos), (8,), generator=generator)
        loss = model.loss(dict(videos=videos[chosen], seeds=torch.arange(8) + 1000 * step))
        optimizer.zero_grad()
        loss['loss_prediction'].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss['loss_prediction'].detach())
    with torch.no_grad():
        features = model.extract_feat(dict(videos=videos))
    spread = F.layer_norm(features, features.shape[-1:]).std((0, 1)).mean().item()
    return torch.stack(losses[-20:]).mean().item(), spread


@pytest.fixture(scope='module')
def videos():
    return clips(64, 1)


@pytest.fixture(scope='module')
def aligned(videos):
    return train(build('SALT'), videos, 100)


def test_gradient_through_the_target_collapses_and_a_teacher_does_not(videos, aligned):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # which says that it collapses
        target = dict(type='TargetEncoder', policy='online_grad')
        loss, spread = train(build(target=target), videos, 160)
    assert loss < 0.15 and spread < 0.5
    loss, spread = aligned
    assert loss > 0.3 and spread > 0.8


def test_targets_of_other_clips_teach_nothing_but_positions(videos, aligned):
    model = build('SALT')
    own = model._targets
    model._targets = lambda batch: own(batch).roll(1, 0)
    loss, _ = train(model, videos, 100)
    with torch.no_grad():
        tokens = own(videos)
    # the best that one can say of a token without having seen the clip
    ignorant = (tokens - tokens.median(0).values).abs().mean().item()
    assert loss == pytest.approx(ignorant, rel=0.06)
    assert aligned[0] < 0.8 * loss
