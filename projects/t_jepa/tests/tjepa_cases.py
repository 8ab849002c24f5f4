"""How the tests build, feed and train T-JEPA."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np

# before the case is added: the parameters of the core's own tests are its own methods
import test_contract  # noqa: F401
import torch
from cases import CASES, Case
from mmengine.registry import init_default_scope
from torch import Tensor

import projects.t_jepa.t_jepa  # noqa: F401  (registers the parts)
from mmjepa.engine.config import load_config
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.registry import MODELS

CONFIGS = 'projects/t_jepa/configs'
# of the reference's learning tests
SHARES = dict(context_share=(0.1363, 0.3682), target_share=(0.1556, 0.6222))
SMALL = dict(channels=16, depth=2, num_heads=2, ffn_channels=32)


def build(num_numeric: int = 8, cardinalities: tuple = (), seed: int = 0, **options: Any) -> Any:
    """A small model in train mode; options ``encoder``, ``predictor``, ``masks``, ``target``."""
    torch.manual_seed(seed)
    encoder = dict(num_numeric=num_numeric, cardinalities=list(cardinalities), **SMALL)
    config = dict(
        type='TJEPA',
        encoder=dict(type='TabularEncoder', **encoder | options.pop('encoder', {})),
        target=dict(type='TargetEncoder', **options.pop('target', {})),
        predictor=dict(type='TabularPredictor', **SMALL | options.pop('predictor', {})),
        mask_generator=dict(type='FeatureSubsetMaskGenerator', **SHARES | options.pop('masks', {})),
        loss=dict(type='RegressionLoss', kind='mse'),
        data_preprocessor=dict(type='TabularPreprocessor'),
        **options,
    )
    model = MODELS.build(config)
    return model.train()


def batch(rows: Tensor, seed: int = 1000) -> dict:
    """Preprocessed inputs of rows (B, D)."""
    seeds = torch.arange(len(rows)) + seed
    return dict(rows=rows, seeds=seeds, batch_seed=int(seeds[0]))


@torch.no_grad()
def spread(encoder: Any, rows: Tensor) -> float:
    """Standard deviation over rows, a mean over tokens and channels."""
    return float(encoder(rows).std(0).mean())


def pretrain(
    model: Any, rows: Tensor, epochs: int, lr: float = 3e-3, size: int = 256, seed: int = 0
) -> list[tuple[float, float]]:
    """Train as the configs do; (mean loss, spread of the whole table) of each epoch."""
    target = model.encoder if model.target.encoder is None else model.target.encoder
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0
    )
    hook = TargetUpdateHook((0.996, 1.0))
    hook.attach(model, optimizer)
    rng, per_epoch = torch.Generator().manual_seed(seed), len(rows) // size
    total, warmup, history = per_epoch * epochs, 2 * per_epoch, []
    for epoch in range(epochs):
        order, losses = torch.randperm(len(rows), generator=rng), []
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            late = (step - warmup) / max(1, total - warmup)
            factor = min(step / warmup, 0.5 * (1 + math.cos(math.pi * late)) if late > 0 else 1)
            optimizer.param_groups[0]['lr'] = lr * factor
            chosen = order[i * size : (i + 1) * size]
            loss = model.loss(batch(rows[chosen], (seed * total + step) * size))
            optimizer.zero_grad()
            loss['loss_prediction'].backward()
            optimizer.step()
            if model.target.moves:
                hook.update(hook.momentum_at(step, total))
            losses.append(loss['loss_prediction'].detach())
        history.append((float(torch.stack(losses).mean()), spread(target, rows)))
    return history


def write_higgs(root: Path, rows: int = 120) -> Path:
    """A table with the columns, categories and split file of Higgs, and random values."""
    init_default_scope('mmjepa')
    cfg = load_config(Path(__file__).parents[1] / 'configs' / 'higgs.py')
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=rows).tolist() for name in cfg.numeric}
    table |= {name: rng.permutation(rows) % count for name, count in cfg.categorical.items()}
    table['label'] = rng.integers(0, 2, rows)
    root.mkdir()
    _write(root / 'higgs.csv', [list(table), *zip(*table.values(), strict=True)])
    np.savez(root / 'split.npz', train=np.arange(rows - 20), test=np.arange(rows - 20, rows))
    return root


def forget_labels(root: Path) -> None:
    """The table without its last column."""
    with open(root / 'higgs.csv', newline='') as file:
        lines = [line[:-1] for line in csv.reader(file)]
    _write(root / 'higgs.csv', lines)


def _write(path: Path, lines: list) -> None:
    with open(path, 'w', newline='') as file:
        csv.writer(file).writerows(lines)


def _some_of_each(model: Any, inputs: dict) -> bool:
    masks = model.inspect(inputs)['masks']
    pairs = zip(masks.context.tolist(), masks.targets.tolist(), strict=True)
    return all(c and all(t and not {*c} & {*t} for t in sets) for c, sets in pairs)


def _bad(**setting: Any) -> dict:
    return dict(**setting, num_features=28)


CASES['TJEPA'] = Case(
    config=f'{CONFIGS}/higgs.py',
    options=dict(
        batch_size=16,
        depth=2,
        predictor_depth=2,
        dropout=0.0,  # the rule about masks seeds the generator that dropout draws from
        predictor_dropout=0.0,
        max_iters=4,
        log_interval=2,
    ),
    make_data=write_higgs,
    remove_labels=forget_labels,
    hidden_and_visible=_some_of_each,
    host_reads=2,  # none of the device: sizes are drawn on the host until they fit
    impossible=[
        _bad(num_targets=0),
        _bad(context_share=(0.0, 0.4)),
        _bad(target_share=(0.01, 0.5)),
        _bad(context_share=(0.6, 0.8), target_share=(0.5, 0.6)),
        _bad(semantics='code'),
    ],
)
