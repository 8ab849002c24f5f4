"""XGBoost, CatBoost, and logistic or ridge regression, from their own libraries."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .heads import Columns, one_hot
from .training import Task

TREES = ('xgboost', 'catboost')
LINEAR = ('linear',)  # logistic regression of classes, ridge of numbers
INSTALL = {
    'xgboost': 'xgboost-cpu',
    'catboost': 'catboost',
    'sklearn': 'scikit-learn',
    'scipy': 'scipy',
    'pandas': 'pandas',
}


@dataclass(frozen=True)
class TreeBudget:
    """Equal in all arms; depth and rate of XGBoost are the paper's.

    Attributes:
        trees: at most.
        depth: of XGBoost; CatBoost's trees are symmetric and get one more, its own default.
        lr: learning rate.
        patience: trees without a lower validation loss before it ends.
    """

    trees: int = 1000
    depth: int = 5
    lr: float = 0.1
    patience: int = 50


PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of linear models, chosen by validation


def load(package: str) -> Any:
    """Import a library.

    Raises:
        ImportError: it is not installed; says how.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = INSTALL[package.partition('.')[0]]
        raise ImportError(f'{package} is not installed: pip install {name}') from error


def fit_predict(
    name: str,
    task: Task,
    rows: np.ndarray,
    targets: np.ndarray,
    val_rows: np.ndarray,
    val_targets: np.ndarray,
    test_rows: np.ndarray,
    columns: Columns | None = None,
    budget: TreeBudget = TreeBudget(),
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, float]]:
    """Fit with early stopping or a penalty chosen on the validation part; outputs for the test.

    Args:
        name: of ``TREES`` or ``LINEAR``.
        task: of the table.
        rows, val_rows, test_rows: (N, D) numbers; categories one-hot, for CatBoost codes.
        targets, val_targets: (N,) classes 0 ... C - 1, or standardised numbers.
        columns: of rows that hold codes (CatBoost only).
        budget: of trees.
        seed: of the library's own draws.

    Returns:
        (M, C) scores of classes, (M, 1) a logit or a number; what was chosen: ``trees`` or
        ``penalty``.

    Raises:
        ImportError, ValueError: no such library or model.
    """
    data = rows, targets, val_rows, val_targets
    if name == 'xgboost':
        model, chosen = _xgboost(task, *data, budget, seed)
    elif name == 'catboost':
        model, chosen = _catboost(task, *data, columns, budget, seed)
        test_rows = _with_categories(test_rows, columns)
    elif name == 'linear':
        model, chosen = _linear(task, *data, seed)
    else:
        raise ValueError(f'no model {name!r}; there are {", ".join((*TREES, *LINEAR))}')
    return _outputs(model, task, test_rows), chosen


def importances(
    task: Task,
    rows: Tensor,
    targets: np.ndarray,
    val_rows: Tensor,
    val_targets: np.ndarray,
    columns: Columns,
) -> np.ndarray:
    """(D,) importances (gain) of XGBoost on raw rows (N, D), those of categories added up."""
    data = one_hot(rows, columns).numpy(), targets, one_hot(val_rows, columns).numpy(), val_targets
    model, _ = _xgboost(task, *data, TreeBudget(), 0)
    known = [count - 1 for count in columns.cardinalities]
    features = np.repeat(np.arange(columns.numeric + len(known)), [1] * columns.numeric + known)
    return np.bincount(features, model.feature_importances_, columns.numeric + len(known))


def _outputs(model: Any, task: Task, rows: Any) -> np.ndarray:
    if task == 'regression':
        return np.asarray(model.predict(rows), dtype=np.float64).reshape(-1, 1)
    chances = np.asarray(model.predict_proba(rows))
    if task == 'binclass':
        return chances[:, 1:] - 0.5
    scores = np.zeros((len(chances), int(max(model.classes_)) + 1))
    scores[:, np.asarray(model.classes_, dtype=int)] = chances  # a class may lack in training
    return scores


def _xgboost(task: Task, rows: Any, targets: Any, val_rows: Any, val_targets: Any,
             budget: TreeBudget, seed: int) -> tuple[Any, dict[str, float]]:  # fmt: skip
    xgboost = load('xgboost')
    model = (xgboost.XGBRegressor if task == 'regression' else xgboost.XGBClassifier)(
        n_estimators=budget.trees,
        max_depth=budget.depth,
        learning_rate=budget.lr,
        early_stopping_rounds=budget.patience,
        tree_method='hist',
        n_jobs=torch.get_num_threads(),
        random_state=seed,
        # without it nothing is drawn and all seeds are one
        subsample=0.8,
    )
    model.fit(rows, targets, eval_set=[(val_rows, val_targets)], verbose=False)
    return model, dict(trees=model.best_iteration + 1)


def _catboost(task: Task, rows: Any, targets: Any, val_rows: Any, val_targets: Any,
              columns: Columns | None, budget: TreeBudget, seed: int
              ) -> tuple[Any, dict[str, float]]:  # fmt: skip
    catboost = load('catboost')
    categories = list(_categorical(rows, columns))
    model = (catboost.CatBoostRegressor if task == 'regression' else catboost.CatBoostClassifier)(
        iterations=budget.trees,
        depth=budget.depth + 1,
        learning_rate=budget.lr,
        early_stopping_rounds=budget.patience,
        thread_count=torch.get_num_threads(),
        random_seed=seed,
        allow_writing_files=False,
        logging_level='Silent',
    )
    val = _with_categories(val_rows, columns), val_targets
    train = _with_categories(rows, columns)
    model.fit(train, targets, cat_features=categories, eval_set=val)
    return model, dict(trees=model.tree_count_)


def _categorical(rows: np.ndarray, columns: Columns | None) -> range:
    return range(columns.numeric, rows.shape[1]) if columns is not None else range(0)


def _with_categories(rows: np.ndarray, columns: Columns | None) -> Any:
    """CatBoost wants whole numbers or strings where categories are."""
    places = _categorical(rows, columns)
    if not places:
        return rows
    pandas = load('pandas')
    return pandas.DataFrame(rows).astype(dict.fromkeys(places, int))


def _linear(task: Task, rows: Any, targets: Any, val_rows: Any, val_targets: Any, seed: int
            ) -> tuple[Any, dict[str, float]]:  # fmt: skip
    linear = load('sklearn.linear_model')
    best, chosen, least = None, {}, np.inf
    for penalty in PENALTIES:
        if task == 'regression':
            model = linear.Ridge(alpha=penalty * len(rows) / 1000)
        else:
            model = linear.LogisticRegression(C=1 / penalty, max_iter=500, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # 500 steps are the budget
            model.fit(rows, targets)
        loss = _validation_loss(task, model, val_rows, val_targets)
        if loss < least:
            best, chosen, least = model, dict(penalty=penalty), loss
    return best, chosen


def _validation_loss(task: Task, model: Any, rows: Any, targets: Any) -> float:
    if task == 'regression':
        return float(np.square(model.predict(rows) - targets).mean())
    chances = model.predict_proba(rows)
    picked = chances[np.arange(len(targets)), np.searchsorted(model.classes_, targets)]
    return float(-np.log(np.clip(picked, 1e-12, None)).mean())


def settings_of(name: str, budget: TreeBudget) -> dict[str, Any]:
    """JSON-ready."""
    return asdict(budget) if name in TREES else dict(penalties=list(PENALTIES))
