"""T-JEPA as a scikit-learn transformer: table in, latents out."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mmengine.device import get_device
from numpy.typing import NDArray

from .pretrain import latents, pretrain, restore, shares
from .schema import Categorical, TableSchema
from .table_transform import TableTransform
from .tables import INSTALL, TableError, import_pandas

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(f'TJEPATransformer needs scikit-learn >= 1.6: {INSTALL}') from error

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 't_jepa_transformer_1'
COLLAPSED = 0.1  # share of the spread at the start


class CollapseWarning(UserWarning):
    """The latents hardly vary over the rows any more."""


class TJEPATransformer(TransformerMixin, BaseEstimator):
    """Learns a representation of a table's rows without labels, and gives it to other estimators.

    ``fit`` runs a T-JEPA pre-training (arXiv 2410.05016) on the rows with the project's base
    config; ``transform`` gives each column of each row its latent from the whole row. Columns that
    hold numbers are scaled, others are kinds; a category that ``fit`` didn't see, and a missing
    one, count as unknown. It trains on what ``fit`` gets and on nothing else, so in a ``Pipeline``
    each fold of a cross-validation trains its own.

    Args:
        epochs: passes over the rows.
        channels: H, numbers a column is described by; even.
        depth: layers of the encoder.
        num_heads: of its attention.
        ffn_channels: width of its feed-forward parts.
        num_reg: [REG] tokens, which help attention and are dropped from the output.
        dropout: of the encoder.
        predictor_channels: width of the predictor.
        predictor_depth: its layers.
        context_share: least and largest share of the columns that the predictor sees; None: that
            of the published recipe, raised where a table of few columns needs it.
        target_share: the same for the columns that it predicts.
        num_targets: sets of columns that are predicted at a time.
        lr: highest learning rate, after a warm-up over a tenth of the training.
        batch_size: rows a step.
        numeric: names of numeric columns; None: by type.
        categorical: names of the others, or name -> number of categories, or name -> categories;
            None: by type.
        drop: columns to leave out.
        num_scaler: ``'standard'``, ``'minmax'`` or ``'quantile'``.
        missing: for missing numbers: ``'raise'``, ``'mean'`` or ``'median'``.
        random_state: int, ``RandomState`` or None; an int makes ``fit`` repeatable.
        device: such as ``'cuda'``; None: the GPU where there is one.
        work_dir: where log and checkpoints stay; None: nothing stays.
        verbose: print the log of the training.

    Attributes:
        encoder_: the trained encoder.
        table_transform_: :class:`TableTransform`, fitted on the same rows.
        columns_: (D,) names in the order of the output.
        spread_start_, spread_end_: standard deviation of the latents over rows, mean over columns
            and channels, before and after the training.
        n_features_in_, feature_names_in_: what ``fit`` saw.

    Raises:
        ValueError: parameters or tables that cannot be; names columns and rows.

    Warns:
        CollapseWarning: the spread has stayed below a tenth of its start; another
            ``random_state``, more epochs or a higher ``lr`` may help.
    """

    def __init__(
        self,
        epochs: int = 60,
        channels: int = 16,
        depth: int = 4,
        num_heads: int = 2,
        ffn_channels: int = 64,
        num_reg: int = 1,
        dropout: float = 0.00185,
        predictor_channels: int = 16,
        predictor_depth: int = 4,
        context_share: tuple[float, float] | None = None,
        target_share: tuple[float, float] | None = None,
        num_targets: int = 4,
        lr: float = 1e-3,
        batch_size: int = 512,
        numeric: Sequence[str] | None = None,
        categorical: Categorical | None = None,
        drop: Sequence[str] = (),
        num_scaler: str = 'standard',
        missing: str = 'raise',
        random_state: Any = 0,
        device: str | None = None,
        work_dir: str | None = None,
        verbose: bool = False,
    ) -> None:
        self.epochs = epochs
        self.channels = channels
        self.depth = depth
        self.num_heads = num_heads
        self.ffn_channels = ffn_channels
        self.num_reg = num_reg
        self.dropout = dropout
        self.predictor_channels = predictor_channels
        self.predictor_depth = predictor_depth
        self.context_share = context_share
        self.target_share = target_share
        self.num_targets = num_targets
        self.lr = lr
        self.batch_size = batch_size
        self.numeric = numeric
        self.categorical = categorical
        self.drop = drop
        self.num_scaler = num_scaler
        self.missing = missing
        self.random_state = random_state
        self.device = device
        self.work_dir = work_dir
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> TJEPATransformer:
        """Pre-train on the rows.

        Args:
            X: (N, D) table: DataFrame, or array with one type of column.
            y: ignored.
        """
        df = _frame(self, X, reset=True)
        for name in ('epochs', 'batch_size'):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f'{name} must be a whole number above 0, got {value!r}')
        if len(df) < 2:
            raise ValueError(f'a training needs at least 2 rows, got n_samples = {len(df)}')
        schema = TableSchema.infer(
            df, numeric=self.numeric, categorical=self.categorical, drop=list(self.drop)
        )
        if len(schema.columns) < 2:
            raise ValueError(
                'T-JEPA predicts columns from others and needs 2 at least; the table has '
                f'n_features = {len(schema.columns)}'
            )
        transform = TableTransform(schema, self.num_scaler, self.missing)  # type: ignore[arg-type]
        rows = transform.fit_transform(df)
        self.table_transform_ = transform
        done = pretrain(
            rows,
            self._encoder(),
            self._options(len(rows)),
            self._device(),
            self.work_dir,
            self.verbose,
        )
        self.encoder_ = done.encoder
        self.spread_start_, self.spread_end_ = done.spread_start, done.spread_end
        if self.spread_end_ < COLLAPSED * self.spread_start_:
            warnings.warn(
                f'the latents vary by {self.spread_end_:.2g} over the rows, by '
                f'{self.spread_start_:.2g} before the training: collapsed. Another random_state, '
                'more epochs or a higher lr may help; compare with the raw columns',
                CollapseWarning,
                stacklevel=2,
            )
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Latents of rows.

        Args:
            X: (N, D) table with the columns of ``fit``.

        Returns:
            (N, D * H) float32, column by column; named by :meth:`get_feature_names_out`.
        """
        check_is_fitted(self)
        df = _frame(self, X, reset=False)
        rows = torch.from_numpy(self.table_transform_.transform(df))
        return latents(self.encoder_, rows).flatten(1).numpy()

    @property
    def columns_(self) -> tuple[str, ...]:
        """(D,) names of the columns in the order of the output."""
        return self.table_transform_.columns

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """(D * H,) ``<column>_<channel>``.

        Args:
            input_features: must be the names that ``fit`` saw, if given.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        names = [f'{column}_{h}' for column in self.columns_ for h in range(self.channels)]
        return np.array(names, dtype=object)

    def save(self, path: str | Path) -> None:
        """Write the fitted transformer: ``transformer.json`` and ``model.safetensors``.

        Args:
            path: folder; made if need be.

        Raises:
            ValueError: a parameter that JSON cannot hold, such as a ``RandomState``.
        """
        from safetensors.torch import save_file

        check_is_fitted(self)
        state = dict(
            format=FORMAT,
            params=self.get_params(),
            transform=self.table_transform_.state_dict(),
            n_features_in=self.n_features_in_,
            feature_names_in=getattr(self, 'feature_names_in_', np.array([])).tolist() or None,
            spread=[self.spread_start_, self.spread_end_],
        )
        try:
            text = json.dumps(state, default=_plain)
        except TypeError as error:
            raise ValueError(
                f'a parameter cannot be saved: {error}; plain values only, such as an int for '
                'random_state'
            ) from None
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.cpu().contiguous() for k, v in self.encoder_.state_dict().items()}
        save_file(weights, folder / 'model.safetensors')
        (folder / 'transformer.json').write_text(text + '\n', encoding='utf-8')

    @classmethod
    def load(cls, path: str | Path, device: str | None = None) -> TJEPATransformer:
        """Read what :meth:`save` wrote; nothing pickled is executed.

        Args:
            path: the folder.
            device: for ``transform``; None: the GPU where there is one.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: not such files, or damaged ones.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(path)
        for name in ('transformer.json', 'model.safetensors'):
            if not (folder / name).is_file():
                raise FileNotFoundError(f'{folder / name}: no such file')
        try:
            state = json.loads((folder / 'transformer.json').read_text(encoding='utf-8'))
            weights = load_file(folder / 'model.safetensors')
        except (ValueError, SafetensorError) as error:
            raise ValueError(f'{folder} holds no saved TJEPATransformer: {error}') from None
        if not isinstance(state, dict) or state.get('format') != FORMAT:
            raise ValueError(f'{folder / "transformer.json"} is not of the format {FORMAT}')
        params = state['params']
        for name in ('context_share', 'target_share', 'drop'):
            params[name] = None if params[name] is None else tuple(params[name])
        out = cls(**params).set_params(device=device)
        out.table_transform_ = TableTransform.from_state(state['transform'])
        out.n_features_in_ = state['n_features_in']
        if state['feature_names_in']:
            out.feature_names_in_ = np.array(state['feature_names_in'], dtype=object)
        out.spread_start_, out.spread_end_ = state['spread']
        out.encoder_ = restore(out._encoder(), weights, out._device())
        return out

    def _device(self) -> torch.device:
        return torch.device(self.device or get_device())

    def _encoder(self) -> dict[str, Any]:
        names = ('channels', 'depth', 'num_heads', 'ffn_channels', 'num_reg', 'dropout')
        transform = self.table_transform_
        return dict(
            {name: getattr(self, name) for name in names},
            num_numeric=transform.num_numeric,
            cardinalities=list(transform.cardinalities),
        )

    def _options(self, count: int) -> dict[str, Any]:
        """Variables of the base config."""
        context, target = shares(len(self.columns_), self.context_share, self.target_share)
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        same = ('predictor_channels', 'predictor_depth', 'num_targets', 'lr')
        return dict(
            {name: getattr(self, name) for name in same},
            max_epochs=self.epochs,
            batch_size=min(self.batch_size, count),
            context_share=context,
            target_share=target,
            seed=int(seed),
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != 'raise'
        tags.input_tags.categorical = tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ['float32']
        tags.non_deterministic = not isinstance(self.random_state, Integral)
        return tags


def _plain(value: Any) -> Any:
    """numpy's numbers for JSON, such as a grid search gives."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f'{value!r} of type {type(value).__name__}')


def _frame(estimator: TJEPATransformer, X: Any, reset: bool) -> pd.DataFrame:
    """The input as a table with names as strings; also checks or sets what ``fit`` saw."""
    pd = import_pandas()
    if not isinstance(X, pd.DataFrame):
        X = check_array(X, dtype=None, ensure_all_finite=False)
    validate_data(estimator, X, reset=reset, skip_check_array=True)
    if isinstance(X, pd.DataFrame):
        df = X.set_axis([str(name) for name in X.columns], axis=1)
    else:
        df = pd.DataFrame(X, columns=[f'x{j}' for j in range(X.shape[1])]).infer_objects()
    if df.columns.duplicated().any():
        raise TableError(f'double column names in {list(df.columns)}')
    if not len(df) or not df.shape[1]:
        raise ValueError(
            f'Found array with {len(df)} sample(s) and {df.shape[1]} feature(s) while a minimum of '
            '1 is required by TJEPATransformer.'
        )
    return df
