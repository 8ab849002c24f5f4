"""Trees and linear models from their own libraries."""

import sys

import numpy as np
import pytest
import torch

from projects.t_jepa.t_jepa.heads import Columns
from projects.t_jepa.t_jepa.trees import TreeBudget, fit_predict, importances, load

PACKAGE = {'xgboost': 'xgboost', 'catboost': 'catboost', 'linear': 'sklearn'}


def data(task, count=600):
    """(N, 3) rows, targets that follow from the first column, by part."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, 3)).astype(np.float32)
    targets = {
        'regression': rows[:, 0] * 2,
        'binclass': (rows[:, 0] > 0).astype(int),
        'multiclass': (rows[:, 0] > 0.5).astype(int) + (rows[:, 0] > -0.5),
    }[task]
    cuts = [count // 2, count * 3 // 4]
    return list(zip(np.split(rows, cuts), np.split(targets, cuts), strict=True))


@pytest.mark.parametrize('task', ['regression', 'binclass', 'multiclass'])
@pytest.mark.parametrize('name', PACKAGE)
def test_fits_and_says_what_was_chosen(name, task):
    pytest.importorskip(PACKAGE[name])
    train, val, test = data(task)
    outputs, chosen = fit_predict(name, task, *train, *val, test[0], None, TreeBudget(60))
    assert outputs.shape == (150, 3 if task == 'multiclass' else 1)
    if task == 'regression':
        assert np.sqrt(np.square(outputs[:, 0] - test[1]).mean()) < 0.35
    else:
        found = outputs[:, 0] > 0 if task == 'binclass' else outputs.argmax(1)
        assert (found == test[1]).mean() > 0.93
    assert (1 <= chosen['trees'] <= 60) if name != 'linear' else chosen['penalty'] > 0


@pytest.mark.parametrize('name', ['xgboost', 'catboost'])
def test_trees_end_early_on_the_validation_part(name):
    pytest.importorskip(name)
    train, val, test = data('regression')
    noise = np.random.default_rng(1).normal(size=len(val[1]))
    budget = TreeBudget(200, patience=5)
    _, chosen = fit_predict(name, 'regression', *train, val[0], noise, test[0], None, budget)
    assert chosen['trees'] < 50


def test_catboost_takes_codes_as_categories():
    pytest.importorskip('catboost')
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 9, 800)
    rows = np.stack([rng.normal(size=800), codes], 1).astype(np.float32)
    targets = np.isin(codes, [1, 4, 7]).astype(int)  # no order of codes tells it
    columns = Columns(1, (9,))
    part = slice(0, 500), slice(500, 650), slice(650, 800)
    outputs, _ = fit_predict('catboost', 'binclass', rows[part[0]], targets[part[0]],
                             rows[part[1]], targets[part[1]], rows[part[2]], columns,
                             TreeBudget(40))  # fmt: skip
    assert ((outputs[:, 0] > 0) == targets[part[2]]).mean() > 0.97


def test_scores_have_a_column_for_a_class_that_training_lacks():
    pytest.importorskip('sklearn')
    train, val, test = data('multiclass')
    keep = train[1] != 1
    outputs, _ = fit_predict('linear', 'multiclass', train[0][keep], train[1][keep],
                             val[0][val[1] != 1], val[1][val[1] != 1], test[0])  # fmt: skip
    assert outputs.shape == (150, 3)
    assert (outputs[:, 1] == 0).all()
    assert (outputs.argmax(1) == test[1])[test[1] != 1].mean() > 0.9


def test_importances_of_categories_are_added_up():
    pytest.importorskip('xgboost')
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 5, (600, 1), generator=rng)
    rows = torch.cat([torch.randn(600, 2, generator=rng), codes.float()], 1)
    targets = ((codes[:, 0] == 2) | (rows[:, 1] > 1)).long().numpy()
    found = importances('binclass', rows[:400], targets[:400], rows[400:], targets[400:],
                        Columns(2, (5,)))  # fmt: skip
    assert found.shape == (3,)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found[2] > found[1] > found[0]


def test_unknown_models_and_missing_packages_are_named(monkeypatch):
    train, val, test = data('regression')
    with pytest.raises(ValueError, match="no model 'lightgbm'; there are xgboost"):
        fit_predict('lightgbm', 'regression', *train, *val, test[0])
    monkeypatch.setitem(sys.modules, 'catboost', None)
    with pytest.raises(ImportError, match='pip install catboost'):
        load('catboost')
