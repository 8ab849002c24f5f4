"""The parts of a table with labels, and what an encoder makes of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from mmjepa.apis.inference import init_model
from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import ConfigError
from mmjepa.evaluation.functional.linear import standardisation
from mmjepa.registry import DATASETS

from ..heads import Columns
from ..training import TargetScale, Task

PARTS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Table:
    """A table with labels in memory.

    Attributes:
        rows: part -> (N, D) float32: scaled numbers, then codes.
        targets: part -> (N,) int64 classes, or float32 standardised by the training part.
        columns: of the rows.
        names: (D,) of the columns.
        task: what the label is for.
        classes: number of them; 1 for a regression.
        scale: of the target of a regression.
    """

    rows: dict[str, Tensor]
    targets: dict[str, Tensor]
    columns: Columns
    names: tuple[str, ...]
    task: Task
    classes: int
    scale: TargetScale | None

    def counts(self) -> dict[str, int]:
        """Rows of each part."""
        return {part: len(rows) for part, rows in self.rows.items()}


def dataset_of(config: Config) -> Any:
    """The config's data set.

    Raises:
        ConfigError: it has no label, no validation or no test part.
    """
    with DefaultScope.overwrite_default_scope('mmjepa'):
        dataset = DATASETS.build(config.train_dataloader.dataset)
    missing = [part for part in PARTS if part not in dataset.part_rows]
    if missing or dataset.target is None or dataset.schema.task is None:
        what = f'parts {missing} of its split' if missing else 'target and task'
        raise ConfigError(
            f'{config.filename}: a benchmark needs {what}, such as split=dict(test=0.2, val=0.1)'
        )
    return dataset


def load_table(dataset: Any, device: str = 'cpu', checkpoint: str | Path | None = None) -> Table:
    """Rows and labels of a data set's parts, on the device.

    Args:
        dataset: with labels.
        device: where they go.
        checkpoint: of an encoder that will read the rows.

    Raises:
        ConfigError: the encoder was trained on rows that were scaled or coded otherwise.
    """
    if checkpoint is not None:
        _check_transform(dataset, checkpoint)
    task, regression = dataset.schema.task, dataset.schema.task == 'regression'
    names = () if regression else dataset.class_names
    parts = {part: dataset.with_part(part) for part in PARTS}
    labels = {
        part: torch.from_numpy(each.labels() if regression else each.labels(names))
        for part, each in parts.items()
    }
    scale = TargetScale.of(labels['train']) if regression else None
    if scale is not None:
        labels = {part: scale.standardise(each) for part, each in labels.items()}
    transform = dataset.transform
    return Table(
        {part: each.rows.to(device) for part, each in parts.items()},
        {part: each.to(device) for part, each in labels.items()},
        Columns(transform.num_numeric, tuple(transform.cardinalities)),
        tuple(transform.columns),
        task,
        1 if regression else len(names),
        scale,
    )


def _check_transform(dataset: Any, checkpoint: str | Path) -> None:
    meta = load_file(checkpoint).get('meta', {}).get('dataset_meta') or {}
    ours, theirs = dataset.transform.state_dict(), meta.get('transform', {})
    # JSON has no tuples
    wrong = [k for k in theirs if json.dumps(theirs[k]) != json.dumps(ours.get(k))]
    if wrong:
        raise ConfigError(
            f'{checkpoint} was trained on rows that were prepared otherwise ({", ".join(wrong)} of '
            'the transform differ): take the config, split and table of that training'
        )


def encoder_of(
    config: Config,
    checkpoint: str | Path | None,
    seed: int,
    device: str = 'cpu',
    features: str = 'context',
    keep_reg: bool | None = None,
) -> Any:
    """The model of a checkpoint, or with the weights from which a training of the seed starts.

    Args:
        config: of the pre-training.
        checkpoint: of a training; None: untrained.
        seed: of the untrained weights.
        device: where the model goes.
        features: which encoder, ``'context'`` or ``'target'``.
        keep_reg: [REG] tokens stay in the representation; None: as the config says.
    """
    # as the runner, which seeds and builds the model then
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = init_model(config, checkpoint, device)
    model.features = features
    if keep_reg is not None:
        model.keep_reg = keep_reg
    return model


@torch.no_grad()
def encode(model: Any, rows: Tensor, batch_size: int = 4096) -> Tensor:
    """Representation (N, T, H) float32 of whole rows (N, D)."""
    model.eval()
    return torch.cat(
        [model.extract_feat(dict(rows=part)).float() for part in rows.split(batch_size)]
    )


def standardised(tokens: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every coordinate of (N, T, H) with mean 0 and deviation 1 over the training rows.

    As raw columns are scaled, too; an untrained encoder's hardly vary otherwise, and heads with
    usual learning rates would tell scales apart instead of contents.
    """
    mean, std = standardisation(tokens['train'].flatten(1))
    return {part: ((each.flatten(1) - mean) / std).view_as(each) for part, each in tokens.items()}
