"""Cells of one arm and seed: one process, the representation computed once and kept in memory."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmjepa.benchmark.label_efficiency.results import (
    RESULT,
    claim,
    read_json,
    write_json,
)
from mmjepa.benchmark.salt.stages import read_options
from mmjepa.engine.config import load_config
from mmjepa.evaluation.progress import Progress, silent

from ..heads import NETS, TOKENISED, Columns, HeadSize, build_head, build_net, one_hot
from ..training import Budget, Task, metrics_of, outputs_of, predict, train
from ..trees import TREES, TreeBudget, fit_predict
from .choices import RAW, TJEPA
from .collapse import measure, state_of, trajectory
from .data import Table, dataset_of, encode, encoder_of, load_table, standardised
from .plan import STATE, Cell


def run_group(path: Path, progress: Progress = silent) -> None:
    """Fill the cells that a group file names; what is finished is left alone."""
    group: dict[str, Any] = read_json(path)
    cells = [
        Cell(
            group['dataset'],
            group['arm'],
            group['seed'],
            cell['model'],
            cell['projection'],
            Path(cell['folder']),
            cell['settings'],
        )
        for cell in group['cells']
    ]
    config = load_config(group['config'], read_options(group['options']))
    table = load_table(dataset_of(config), group['device'], group['checkpoint'])
    tokens = None if group['arm'] == RAW else represent(group, config, table, path.parent)
    for cell in cells:
        if cell.result() is not None:
            continue
        claim(cell.job)
        began = time.monotonic()
        name = '/'.join(filter(None, [cell.dataset, cell.arm, cell.model, cell.projection]))
        result = evaluate(cell, table, tokens, lambda *n, name=name: progress(name, *n))
        seconds = time.monotonic() - began
        result |= dict(hash=cell.job.hash, seconds=seconds, rows=table.counts())
        write_json(cell.folder / RESULT, result)
        figures = ', '.join(f'{key} {value:.4f}' for key, value in result['metrics'].items())
        print(f'{name}: {figures} ({seconds:.1f} s, {result["fit"]})', flush=True)


def represent(
    group: Mapping[str, Any], config: Any, table: Table, folder: Path
) -> dict[str, Tensor]:
    """Tokens (N, T, H) of each part; the collapse state of a trained encoder is written down."""
    how = dict(features=group['encoder'], keep_reg=group['keep_reg'])
    arm, seed, device = group['arm'], group['seed'], group['device']
    model = encoder_of(config, group['checkpoint'], seed, device, **how)
    tokens = {part: encode(model, rows) for part, rows in table.rows.items()}
    if arm == TJEPA:
        untrained = encoder_of(config, None, seed, device, **how)
        start = measure(encode(untrained, table.rows['val']))
        logged = trajectory(Path(group['checkpoint']).parent)
        state = state_of(start, measure(tokens['val']), logged)
        write_json(folder / STATE, state | dict(trajectory=logged))
    return standardised(tokens) if group['scale'] else tokens


def evaluate(
    cell: Cell, table: Table, tokens: Mapping[str, Tensor] | None, progress: Any = None
) -> dict[str, Any]:
    """Train on the training part, stop or choose on the validation part, measure on the test.

    Returns:
        ``metrics`` over the whole test part, ``fit``: what the training came to, ``parameters`` of
        a network.
    """
    torch.manual_seed(cell.seed)
    outputs: Any
    parameters = None
    if cell.model in NETS:
        net, rows = make_net(cell, table, tokens)
        budget = Budget(**cell.settings['budget'])
        fit = fit_net(cell, net, rows, table.targets, table.task, budget, progress)
        outputs, parameters = predict(net, rows['test']), sum(p.numel() for p in net.parameters())
    else:
        trees = TreeBudget(**cell.settings['budget']) if cell.model in TREES else TreeBudget()
        outputs, fit = fit_tables(cell, table, tokens, trees)
    targets = table.targets['test'].cpu()
    metrics = metrics_of(table.task, torch.as_tensor(outputs).cpu(), targets, table.scale)
    return dict(metrics=metrics, fit=fit, parameters=parameters)


def make_net(
    cell: Cell, table: Table, tokens: Mapping[str, Tensor] | None
) -> tuple[nn.Module, Mapping[str, Tensor]]:
    """An untrained network and what it reads, by part."""
    size, count = HeadSize(**cell.settings['size']), outputs_of(table.task, table.classes)
    if tokens is None:
        rows, columns = net_rows(cell.model, table)
        return build_net(cell.model, columns, count, size).to(rows['train'].device), rows
    shape = tokens['train'].shape[1], tokens['train'].shape[2]
    net = build_head(cell.model, cell.projection, shape, count, size)
    return net.to(tokens['train'].device), tokens


def fit_net(
    cell: Cell,
    net: nn.Module,
    rows: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    task: Task,
    budget: Budget,
    progress: Any = None,
) -> dict[str, Any]:
    """Train on ``train`` and stop on ``val``."""
    size = HeadSize(**cell.settings['size'])
    parts = rows['train'], targets['train'], rows['val'], targets['val']
    fit = train(net, task, *parts, size.lr, size.weight_decay, budget, cell.seed, progress)
    return asdict(fit)


def fit_tables(
    cell: Cell, table: Table, tokens: Mapping[str, Tensor] | None, budget: TreeBudget
) -> tuple[np.ndarray, dict[str, float]]:
    """Outputs of a tree or linear model for the test part, and what was chosen."""
    rows, columns = table_rows(cell, table, tokens)
    arrays = {part: each.cpu().numpy() for part, each in rows.items()}
    targets = {part: each.cpu().numpy() for part, each in table.targets.items()}
    parts = arrays['train'], targets['train'], arrays['val'], targets['val'], arrays['test']
    return fit_predict(cell.model, table.task, *parts, columns, budget, cell.seed)


def net_rows(model: str, table: Table) -> tuple[dict[str, Tensor], Columns]:
    """Raw columns for a network: one-hot, or as codes where it embeds categories."""
    if model in TOKENISED:
        return table.rows, table.columns
    rows = {part: one_hot(each, table.columns) for part, each in table.rows.items()}
    return rows, Columns(rows['train'].shape[1])


def table_rows(
    cell: Cell, table: Table, tokens: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], Columns | None]:
    """(N, numbers) for trees and linear models; CatBoost gets raw categories as codes."""
    if tokens is not None:
        flat = cell.projection == 'flatten'
        return {p: x.flatten(1) if flat else x.mean(1) for p, x in tokens.items()}, None
    if cell.model == 'catboost':
        return table.rows, table.columns
    return net_rows('mlp', table)[0], None
