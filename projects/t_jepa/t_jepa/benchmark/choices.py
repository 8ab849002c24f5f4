"""What the user asks of a comparison, and whether it can be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmjepa.benchmark.label_efficiency.choices import key_of
from mmjepa.engine.config import ConfigError

from ..heads import NETS, SIZES, rtdl
from ..projections import PROJECTIONS
from ..training import Budget
from ..trees import LINEAR, TREES, TreeBudget, load

RAW, RANDOM, TJEPA = ARMS = ('raw', 'random', 'tjepa')
MODELS = (*NETS, *TREES, *LINEAR)
FLAT = ('flatten', 'mean')  # what trees and linear models see of (T, H)
MANAGED = {
    'seed': '--seeds',
    'max_iters': '--epochs',
    'max_epochs': '--epochs',
    'data_root': '--data-root',
}
PACKAGES = {'xgboost': 'xgboost', 'catboost': 'catboost', 'linear': 'sklearn.linear_model'}


@dataclass(frozen=True)
class Asked:
    """What the user asks for; see the command line's help.

    Raises:
        ConfigError: something that cannot be, or a model's package is missing.
    """

    configs: dict[str, Path]  # by name of the data set
    arms: Sequence[str]
    models: Sequence[str]
    seeds: Sequence[int]
    folder: Path
    tools: Path  # folder of the repository's train.py
    script: Path  # tools/benchmark.py, which the jobs run
    data_root: Path | None = None  # holds a folder for each data set
    options: tuple[str, ...] = ()  # KEY=VALUE of pre-training
    epochs: int | None = None  # of pre-training; None: the config's
    projections: Sequence[str] = ('linear_flatten',)
    flat: str = 'flatten'
    head_size: str = 'small'
    budget: Budget = field(default_factory=Budget)
    trees: TreeBudget = field(default_factory=TreeBudget)
    encoder: str = 'context'
    keep_reg: bool | None = None
    scale: bool = True  # representations are standardised
    device: str = 'cpu'
    checkpoints: dict[str, str] = field(default_factory=dict)  # instead of pre-training

    def __post_init__(self) -> None:
        for flag, given, known in (
            ('--arms', self.arms, ARMS),
            ('--models', self.models, MODELS),
            ('--projections', self.projections, PROJECTIONS),
            ('--head-size', [self.head_size], SIZES),
        ):
            for name in given:
                if name not in known:
                    raise ConfigError(f'{flag}: no {name!r}; there are {", ".join(known)}')
        for pair in self.options:
            if '=' not in pair or key_of(pair) in MANAGED:
                why = MANAGED.get(key_of(pair), 'KEY=VALUE')
                raise ConfigError(f'--cfg-options {pair}: give {why} instead')
        if not self.seeds or (self.epochs is not None and self.epochs < 1):
            raise ConfigError('--seeds and --epochs are at least 1')
        for name in self.checkpoints:
            if name not in self.configs:
                raise ConfigError(f'--checkpoints {name}: it is not among --datasets')
        self._check_packages()

    def _check_packages(self) -> None:
        try:
            for name in self.models:
                if name in PACKAGES:
                    load(PACKAGES[name])
                elif name in ('mlp', 'resnet', 'ft_transformer'):
                    rtdl()
        except ImportError as error:
            raise ConfigError(f'--models {name}: {error}') from None
