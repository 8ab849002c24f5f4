import copy
import json
import warnings

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from toy_tables import toy_table

pytest.importorskip('sklearn')
pytest.importorskip('safetensors')

from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from projects.t_jepa.t_jepa import pretrain
from projects.t_jepa.t_jepa.transformer import CollapseWarning, TJEPATransformer

SMALL = dict(
    epochs=2,
    channels=4,
    depth=1,
    ffn_channels=8,
    predictor_channels=4,
    predictor_depth=1,
    batch_size=16,
    device='cpu',
)


@pytest.fixture(scope='module')
def table():
    return toy_table().drop(columns='label')


@pytest.fixture(scope='module')
def fitted(table):
    return TJEPATransformer(**SMALL).fit(table)


def test_latents_of_every_column_with_names(fitted, table):
    latents = fitted.transform(table)
    assert latents.shape == (60, 6 * 4) and latents.dtype == np.float32
    assert np.isfinite(latents).all()
    assert fitted.columns_ == ('age', 'pay', 'size', 'rate', 'job', 'town')
    names = fitted.get_feature_names_out()
    assert names[:5].tolist() == ['age_0', 'age_1', 'age_2', 'age_3', 'pay_0'] and len(names) == 24
    assert fitted.feature_names_in_.tolist() == list(table)
    # rows don't see each other; a column's latent sees the whole row
    np.testing.assert_allclose(fitted.transform(table[7:8]), latents[7:8], atol=1e-6)
    moved = fitted.transform(table.assign(rate=table['rate'] + 1))
    assert (np.abs(moved - latents).reshape(60, 6, 4).max(2) > 0).all()
    assert fitted.spread_start_ > 0 and fitted.spread_end_ > 0


def test_training_changes_the_encoder_and_repeats_itself(fitted, table):
    torch.manual_seed(99)
    again = TJEPATransformer(**SMALL).fit(table)
    assert np.array_equal(again.transform(table), fitted.transform(table))
    for changes in (dict(random_state=1), dict(epochs=1)):
        other = TJEPATransformer(**{**SMALL, **changes}).fit(table)
        assert np.abs(other.transform(table) - fitted.transform(table)).max() > 1e-4
    seeded = [
        TJEPATransformer(**SMALL, random_state=np.random.RandomState(5)).fit(table)
        for _ in range(2)
    ]
    assert np.array_equal(*(one.transform(table) for one in seeded))


def test_fit_leaves_the_host_program_alone(table, monkeypatch):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    loggers, scopes = (set(one._instance_dict) for one in (MMLogger, DefaultScope))
    threads, method = cv2.getNumThreads(), torch.multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    TJEPATransformer(**{**SMALL, 'epochs': 1}).fit(table)
    assert torch.backends.cudnn.benchmark and cv2.getNumThreads() == threads
    if method:
        assert torch.multiprocessing.get_start_method() == method
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert set(MMLogger._instance_dict) == loggers
    assert set(DefaultScope._instance_dict) == scopes


def test_set_output_clone_and_parameters(fitted, table):
    frame = clone(fitted).set_output(transform='pandas').fit_transform(table[10:30])
    assert list(frame.index) == list(range(10, 30))
    assert list(frame.columns) == fitted.get_feature_names_out().tolist()
    other = clone(copy.copy(fitted).set_params(lr=2e-3))
    assert other.get_params()['lr'] == 2e-3 and not hasattr(other, 'encoder_')
    with pytest.raises(ValueError, match="Invalid parameter 'depht'"):
        other.set_params(depht=2)


def test_in_a_pipeline_under_cross_validation():
    df = toy_table(90)
    model = make_pipeline(
        TJEPATransformer(**SMALL), StandardScaler(), LogisticRegression(max_iter=300)
    )
    scores = cross_val_score(model, df.drop(columns='label'), df['label'], cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.6
    numbers = make_column_transformer(
        (TJEPATransformer(**SMALL), make_column_selector(dtype_include=np.number)),
        remainder='drop',
    )
    assert numbers.fit_transform(df).shape == (90, 4 * 4)


def test_saved_and_loaded_without_pickle(fitted, table, tmp_path, monkeypatch):
    fitted.save(tmp_path / 'model')
    assert sorted(p.name for p in (tmp_path / 'model').iterdir()) == [
        'model.safetensors',
        'transformer.json',
    ]

    def forbidden(*args, **kwargs):
        raise AssertionError('something is unpickled')

    for name in ('load', 'loads', 'Unpickler'):
        monkeypatch.setattr(f'pickle.{name}', forbidden)
    loaded = TJEPATransformer.load(tmp_path / 'model', device='cpu')
    assert np.array_equal(loaded.transform(table), fitted.transform(table))
    assert loaded.get_params() == fitted.get_params()
    assert loaded.get_feature_names_out().tolist() == fitted.get_feature_names_out().tolist()
    assert (loaded.spread_start_, loaded.spread_end_) == (fitted.spread_start_, fitted.spread_end_)
    with pytest.raises(ValueError, match='feature names should match'):
        loaded.transform(table.rename(columns=dict(pay='wage')))


def test_files_that_are_no_saved_transformer(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match='transformer.json'):
        TJEPATransformer.load(tmp_path)
    fitted.save(tmp_path)
    state = json.loads((tmp_path / 'transformer.json').read_text())
    (tmp_path / 'transformer.json').write_text(json.dumps({**state, 'format': 'x'}))
    with pytest.raises(ValueError, match='not of the format'):
        TJEPATransformer.load(tmp_path)
    wide = {**state, 'params': {**state['params'], 'channels': 8}}
    (tmp_path / 'transformer.json').write_text(json.dumps(wide))
    with pytest.raises(ValueError, match='weights are of another encoder'):
        TJEPATransformer.load(tmp_path)
    (tmp_path / 'model.safetensors').write_bytes(b'\x80\x04cos\nsystem\n')
    with pytest.raises(ValueError, match='no saved TJEPATransformer'):
        TJEPATransformer.load(tmp_path)
    with pytest.raises(ValueError, match='an int for random_state'):
        copy.copy(fitted).set_params(random_state=np.random.RandomState(0)).save(tmp_path / 'x')
    copy.copy(fitted).set_params(epochs=np.int64(2)).save(tmp_path / 'x')
    assert TJEPATransformer.load(tmp_path / 'x').epochs == 2


def test_bad_tables_are_refused_by_name(fitted, table):
    with pytest.raises(ValueError, match=r"'pay', row 4: the number is missing"):
        fitted.transform(table.assign(pay=table['pay'].where(table.index != 4)))
    with pytest.raises(ValueError, match="'rate', row 0: 'fast' is no number"):
        fitted.transform(table.assign(rate='fast'))
    with pytest.raises(ValueError, match='Feature names seen at fit time, yet now missing'):
        fitted.transform(table.drop(columns='job'))
    fresh = TJEPATransformer(**SMALL)
    with pytest.raises(ValueError, match="'when' is datetime64"):
        fresh.fit(table.assign(when=pd.Timestamp('2020-01-01')))
    with pytest.raises(ValueError, match=r"numeric: no columns \['wage'\]"):
        clone(fresh).set_params(numeric=['wage']).fit(table)
    with pytest.raises(ValueError, match='epochs must be'):
        clone(fresh).set_params(epochs=0).fit(table)
    with pytest.raises(ValueError, match='n_features = 1'):
        fresh.fit(table[['age']])
    with pytest.raises(ValueError, match='not fitted'):
        TJEPATransformer().transform(table)


def test_unseen_kinds_and_filled_numbers(table):
    gaps = table.assign(pay=table['pay'].where(table.index % 7 != 0))
    model = TJEPATransformer(**{**SMALL, 'epochs': 1}, missing='median', categorical=['age'])
    latents = model.fit(gaps).transform(gaps.assign(job='new', age=1000))
    assert np.isfinite(latents).all()
    assert model.columns_ == ('pay', 'size', 'rate', 'age', 'job', 'town')
    assert model.table_transform_.unknown == dict(job=60, age=60)


@pytest.mark.parametrize('columns', [2, 3, 4, 5])
def test_narrow_tables_and_arrays(columns):
    values = np.random.default_rng(0).normal(size=(20, columns))
    model = TJEPATransformer(**{**SMALL, 'epochs': 1}).fit(values)
    assert model.transform(values).shape == (20, columns * 4)
    assert model.columns_[-1] == f'x{columns - 1}' and not hasattr(model, 'feature_names_in_')


def test_a_collapsed_encoder_is_told(table, monkeypatch):
    measured = [0.2, 0.019]
    monkeypatch.setattr(pretrain, 'spread', lambda *args: measured.pop(0))
    with pytest.warns(CollapseWarning, match='vary by 0.019 over the rows, by 0.2 before'):
        TJEPATransformer(**{**SMALL, 'epochs': 1}).fit(table)
    measured[:] = [0.2, 0.021]
    with warnings.catch_warnings():
        warnings.simplefilter('error', CollapseWarning)
        TJEPATransformer(**{**SMALL, 'epochs': 1}).fit(table)


def test_a_work_dir_keeps_log_and_checkpoint(table, tmp_path):
    TJEPATransformer(**{**SMALL, 'epochs': 1}, work_dir=str(tmp_path / 'run')).fit(table)
    assert list((tmp_path / 'run').glob('epoch_1.pth'))


@pytest.mark.slow
def test_scikit_learns_own_checks():
    from sklearn.utils.estimator_checks import check_estimator

    small = dict(SMALL, epochs=1, num_heads=1, ffn_channels=4)
    results = check_estimator(TJEPATransformer(**small), on_fail=None, on_skip=None)
    assert [r['check_name'] for r in results if r['status'] == 'failed'] == []
    assert len(results) > 40
