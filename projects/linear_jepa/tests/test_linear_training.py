"""Plain SGD through the core against theory; real trainings, resumed; what collapses."""

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from linear_cases import CASES, LAM, RHO, write_pairs

from mmjepa.registry import MODELS
from projects.linear_jepa.linear_jepa import direct_process, theory
from projects.linear_jepa.linear_jepa.measure import product
from projects.linear_jepa.linear_jepa.simulate import build, descend
from projects.linear_jepa.linear_jepa.study import Study

PROCESS = direct_process(LAM, RHO)


@pytest.mark.parametrize('objective', ['jepa', 'mae'])
@pytest.mark.parametrize('depth', [1, 2, 3, 4])
def test_inversion(objective, depth):
    """The central claim: from three layers on a JEPA learns 3, 2, 1, an MAE always 1, 2, 3."""
    study = Study(PROCESS, depth, 1e-2, objective)
    run = study.descent(1.02 * study.predicted.max(), steps=1500)
    hits = run.hits(0.5 * study.limits)
    reverse = objective == 'jepa' and depth >= 3
    assert theory.order(hits) == ([3, 2, 1] if reverse else [1, 2, 3])
    np.testing.assert_allclose(hits, study.predicted, rtol=0.01)
    assert run.off_diagonal < 1e-9


def test_fresh_samples():
    """Mini-batches of 64 follow the same clock."""
    study = Study(PROCESS, 3, 0.25**3, 'jepa')
    hits = study.descent(475, lr=0.1, batch_size=64).hits(0.5 * study.limits)
    np.testing.assert_allclose(hits, study.predicted, rtol=0.02)
    assert theory.order(hits) == [3, 2, 1]
    study = Study(PROCESS, 3, 0.25**3, 'mae')
    hits = study.descent(12, lr=0.05, batch_size=64, every=1).hits(0.5 * study.limits)
    np.testing.assert_allclose(hits, study.predicted, rtol=0.06)
    assert theory.order(hits) == [1, 2, 3]


@pytest.mark.filterwarnings('ignore:.*negative control')
def test_online_grad_loses_every_feature():
    sick = build(3, 2, 0.3**2, 'online_grad')
    run = descend(sick, PROCESS, 0.1, 200.0, every=10)
    assert run.amplitudes[-1].max() < 0.1 * run.amplitudes[0].max()
    healthy = descend(build(3, 2, 0.3**2), PROCESS, 0.1, 60.0, every=10)
    assert healthy.amplitudes[-1].min() > 0.9 * theory.limit(RHO, 2, 'jepa').min()


def test_a_learning_rate_that_is_too_large_is_said():
    with pytest.raises(FloatingPointError, match='diverged at lr=9'):
        descend(build(3, 2, 0.3**2, 'data'), PROCESS, 9.0, 900.0)


def test_starts():
    """Balanced and aligned by default, unbalanced on demand."""
    model = build(3, 3, 1e-3, predictor_depth=2)
    singular = torch.linalg.svdvals(product(model.encoder.weights))
    torch.testing.assert_close(singular, torch.full_like(singular, 1e-3))
    torch.testing.assert_close(product(model.encoder.weights), 1e-3 * model.frame)
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(product(model.predictor.weights), 1e-2 * eye)
    mae = build(3, 3, 1e-3, 'data')
    whole = product([*mae.encoder.weights, *mae.predictor.weights])
    torch.testing.assert_close(whole, 1e-4 * eye)
    loud = build(3, 2, 1e-2, predictor_init='identity', predictor_scale=1.0)
    torch.testing.assert_close(loud.predictor.weights[0], eye)
    normal = build(3, 2, 1e-2, layer_init='gaussian')
    torch.testing.assert_close(normal.frame @ normal.frame.T, eye)
    ema = build(3, 2, 1e-2, 'ema')
    for a, b in zip(ema.target.encoder.weights, ema.encoder.weights, strict=True):
        assert torch.equal(a, b)
    for bad in (dict(layer_init='xavier'), dict(predictor_init='xavier'), dict(epsilon=0.0)):
        with pytest.raises(ValueError, match=next(iter(bad))):
            build(3, 2, **{'epsilon': 1e-2, **bad})
    with pytest.raises(ValueError, match='dtype'):
        MODELS.build(dict(type='DeepLinear', channels=3, dtype='float16'))
    with pytest.raises(ValueError, match='6 columns, got 8'):
        model.loss(dict(pairs=torch.zeros(8, 8, dtype=torch.float64)))


def test_single_precision_trains():
    def made(dtype):
        encoder = dict(type='DeepLinear', channels=3, depth=2, dtype=dtype)
        return MODELS.build(
            dict(
                type='LinearJEPA',
                encoder=encoder,
                predictor=dict(encoder, depth=1),
                target=dict(type='TargetEncoder', policy='stop_grad'),
                mask_generator=dict(type='SecondViewMaskGenerator', channels=3),
                loss=dict(type='HalfSquaredError'),
                epsilon=1e-2,
                layer_init='identity',
            )
        )

    pairs = torch.from_numpy(PROCESS.exact_batch)
    single, double = (made(f'float{bits}') for bits in (32, 64))
    loss, wanted = (model.loss(dict(pairs=pairs))['loss_prediction'] for model in (single, double))
    loss.backward()
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert all(p.grad.dtype == torch.float32 for p in single.encoder.parameters())


def test_features_of_both_views():
    model = build(3, 2, 1e-2)
    pairs = torch.from_numpy(PROCESS.exact_batch)
    feats = model.extract_feat(dict(pairs=pairs))
    assert feats.shape == (6, 2, 3)
    torch.testing.assert_close(feats[:, 1], model.target(model.encoder, pairs[:, 3:]))


def train(tmp_path, name, load_from=None, config='linear_jepa', **options):
    """A runner that has trained."""
    path = f'projects/linear_jepa/configs/{config}.py'
    case = replace(CASES['LinearJEPA'], config=path, options=dict(log_interval=50))
    options = {'train_dataloader.dataset.data_root': None, **options}
    runner = case.runner(tmp_path, tmp_path / name, load_from=load_from, **options)
    runner.train()
    return runner


def table(tmp_path, name):
    with (tmp_path / name / 'hit_times.csv').open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}


def test_config_of_the_mae(tmp_path):
    runner = train(tmp_path, 'mae', config='linear_mae', lr=0.02, max_iters=900)
    seen = table(tmp_path, 'mae')
    np.testing.assert_allclose(seen['time'], seen['theory'], rtol=0.01)
    np.testing.assert_allclose(seen['amplitude'], seen['limit'], rtol=0.01)
    hub = runner.message_hub
    eigenvalues = [hub.get_scalar(f'train/predictor/eigenvalue_{i}').current() for i in (1, 2, 3)]
    np.testing.assert_allclose(eigenvalues, theory.layer_limit(RHO, 3, 'mae'), rtol=0.01)


def test_resume_is_exact(tmp_path):
    """Weights, features, conserved matrices, and hits before and after the stop."""
    options = dict(epsilon=0.1**2, depth=2, lr=0.4, max_iters=1200)  # time 480: all but one
    whole = train(tmp_path, 'whole', **options)
    first = tmp_path / 'whole' / 'iter_800.pth'  # time 320: none
    resumed = train(tmp_path, 'resumed', load_from=str(first), **options)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
    a, b = table(tmp_path, 'whole'), table(tmp_path, 'resumed')
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])
    np.testing.assert_allclose(a['time'][:2], a['theory'][:2], rtol=0.01)
    assert np.isnan(a['time'][2])
    drift = whole.message_hub.get_scalar('train/conserved/drift').current()
    assert 0 < drift < 1e-3
    assert drift == resumed.message_hub.get_scalar('train/conserved/drift').current()


@pytest.mark.parametrize(
    'option',
    [
        {'model.encoder.slope': 0.5},
        {'model.layer_init': 'gaussian'},
        {'model.predictor_init': 'identity', 'model.predictor_scale': 1.0},
    ],
)
def test_where_theory_does_not_hold_none_is_told(tmp_path, option):
    train(tmp_path, 'other', max_iters=3, **option)
    assert np.isnan(table(tmp_path, 'other')['theory']).all()
    train(tmp_path, 'plain', max_iters=3)
    assert not np.isnan(table(tmp_path, 'plain')['theory']).any()


def test_an_ema_target_ends_at_the_same_place(tmp_path):
    options = dict(policy='ema', tau=10.0, depth=2, epsilon=0.3**2, max_iters=900)
    train(tmp_path, 'ema', **options)
    late = table(tmp_path, 'ema')
    np.testing.assert_allclose(late['amplitude'], late['limit'], rtol=0.01)
    assert np.isnan(late['theory']).all()  # which knows no lag
    soon = Study(PROCESS, 2, 0.3**2, 'jepa').predicted
    assert (late['time'] > 1.05 * soon).all()


def test_another_optimizer_has_no_theory(tmp_path):
    train(tmp_path, 'm', max_iters=10, **{'optim_wrapper.optimizer.momentum': 0.9})
    assert np.isnan(table(tmp_path, 'm')['theory']).all()


def test_your_own_pairs(tmp_path):
    """Their moments are exact, too; without common basis the predictor still reads rho."""
    write_pairs(tmp_path)
    options = {'train_dataloader.dataset.data_root': str(tmp_path), 'epsilon': 0.4**3}
    runner = train(tmp_path, 'own', max_iters=20, **options)
    process = runner.train_dataloader.dataset.process
    with np.load(tmp_path / 'pairs.npz') as file:
        np.testing.assert_allclose(process.sxx, np.cov(file['x'].T, bias=True))
    assert process.basis is None
    assert runner.message_hub.get_scalar('train/conserved/drift').current() < 1e-2
    assert not (tmp_path / 'own' / 'hit_times.csv').exists()
    np.savez(tmp_path / 'pairs.npz', x=np.zeros((3, 2)))
    with pytest.raises(ValueError, match='must hold x and y'):
        train(tmp_path, 'bad', max_iters=1, **options)


def test_batches_that_are_not_exact_are_refused(tmp_path):
    with pytest.raises(ValueError, match='batch_size=8'):
        train(tmp_path, 'x', batch_size=8, max_iters=2)


def test_command_line(repo, tmp_path):
    """The documented command, in a process that has the root of the checkout on its path."""
    command = [
        sys.executable, 'tools/train.py', 'projects/linear_jepa/configs/linear_jepa.py',
        '--work-dir', str(tmp_path / 'work'), '--cfg-options', 'max_iters=60', 'log_interval=20',
    ]  # fmt: skip
    env = {**os.environ, 'PYTHONPATH': str(repo)}
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'amplitude/feature_3' in done.stdout + done.stderr
    assert (tmp_path / 'work' / 'iter_60.pth').is_file()
    assert table(tmp_path, 'work')['theory'] == pytest.approx([881.235, 782.834, 758.009])
