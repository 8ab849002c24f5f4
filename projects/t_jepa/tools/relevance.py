r"""Ranks the features of a table by a trained T-JEPA, without labels; CSV and bar plot.

python projects/t_jepa/tools/relevance.py projects/t_jepa/configs/california.py CHECKPOINT.pth
python projects/t_jepa/tools/relevance.py projects/t_jepa/configs/adult.py CHECKPOINT.pth \
    --reference xgboost    # Kendall's tau with the importances of XGBoost, which sees the labels

Measures: the variance of a feature's embedding over rows (the paper's); how much worse other
features are predicted when it is dropped from the context; how badly it is predicted itself, from
contexts as in training and from all the others; and what of the column itself is no longer in the
embedding of the row. Errors are relative to the variance of what is predicted: 1 is no better than
its mean.
"""

import argparse
import contextlib
import csv
import io
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import Tensor

from mmjepa.benchmark.label_efficiency.results import write_text
from mmjepa.engine.checkpoint import atomic_write
from mmjepa.engine.config import ConfigError, OptionAction, load_config
from mmjepa.engine.errors import one_line_errors
from projects.t_jepa.t_jepa.benchmark.data import Table, dataset_of, encoder_of, load_table
from projects.t_jepa.t_jepa.relevance import MEASURES, relevance
from projects.t_jepa.t_jepa.trees import importances, load


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='of the pre-training')
    add('checkpoint', help="of the pre-training; 'none': untrained weights")
    add('--seed', type=int, default=0, help='of untrained weights')
    add('--reference', choices=['xgboost'], help='compare with its importances; needs labels')
    add('--part', choices=('train', 'val', 'test'), default='val', help='rows (default: val)')
    add('--rows', type=int, default=2048, help='at most (default: 2048)')
    add('--draws', type=int, default=8, help='masks of each row (default: 8)')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--out', type=Path, help='folder (default: relevance beside the checkpoint)')
    add('--cfg-options', nargs='+', action=OptionAction, default={}, metavar='KEY=VALUE')
    args = parser.parse_args(argv)
    if args.rows < 2 or args.draws < 1:
        parser.error('--rows is at least 2, --draws at least 1')
    return args


def reference_of(table: Table) -> Tensor:
    """(D,) share of XGBoost's gain, categories added up."""
    return torch.from_numpy(
        importances(
            table.task,
            table.rows['train'].cpu(),
            table.targets['train'].cpu().numpy(),
            table.rows['val'].cpu(),
            table.targets['val'].cpu().numpy(),
            table.columns,
        )
    )


def csv_text(names: tuple[str, ...], found: dict[str, Tensor]) -> str:
    """A row a feature, by descending variance."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator='\n')
    writer.writerow(['feature', *found])
    for i in found['variance'].argsort(descending=True).tolist():
        writer.writerow([names[i], *(f'{values[i]:.6g}' for values in found.values())])
    return stream.getvalue()


def picture(names: tuple[str, ...], found: dict[str, Tensor]) -> Any:
    """A panel of bars a measure, features in the order of the first one."""
    from matplotlib.figure import Figure

    order = found['variance'].argsort().tolist()
    size = (3.6 * len(found) + 1.5, 1.2 + 0.28 * len(names))
    canvas = Figure(figsize=size, layout='constrained')
    axes = canvas.subplots(1, len(found), sharey=True)
    for index, (ax, (name, values)) in enumerate(zip(axes, found.items(), strict=True)):
        ax.barh([names[i] for i in order], values[order].numpy(), color=f'C{index}')
        title = MEASURES.get(name, f'{name}: importance, sees labels')
        ax.set_title(textwrap.fill(title, 36), fontsize=8)
        ax.set_axisbelow(True)
        ax.grid(axis='x', color='#d0d0d0', linewidth=0.5)
        ax.tick_params(labelsize=8)
    return canvas


def run(args: argparse.Namespace) -> None:
    """Measure, write, print."""
    checkpoint = None if args.checkpoint == 'none' else args.checkpoint
    if checkpoint is None and args.out is None:
        raise ConfigError('untrained weights have no folder: say where to write with --out')
    with contextlib.redirect_stdout(sys.stderr):  # what others print
        config = load_config(args.config, args.cfg_options)
        table = load_table(dataset_of(config), args.device, checkpoint)
        model = encoder_of(config, checkpoint, args.seed, args.device)
    if model.semantics != 'paper':
        raise ConfigError(f"{args.config}: relevance needs semantics='paper'")
    found = relevance(model, table.rows[args.part][: args.rows], args.draws)
    if args.reference:
        found[args.reference] = reference_of(table)
    text = csv_text(table.names, found)
    out = args.out or Path(args.checkpoint).parent / 'relevance'
    write_text(out / 'relevance.csv', text)
    draw = picture(table.names, found)
    atomic_write(out / 'relevance.png', partial(draw.savefig, format='png', dpi=110))
    print(text)
    if args.reference:
        for name in MEASURES:
            told = ~found[name].isnan()
            if told.sum() < 2:
                continue
            tau = load('scipy.stats').kendalltau(found[name][told], found[args.reference][told])
            print(
                f'{name}: Kendall tau {tau.statistic:+.2f} with {args.reference} '
                f'(p {tau.pvalue:.2g}, {int(told.sum())} features)'
            )
    print(f'written: {out / "relevance.csv"}, {out / "relevance.png"}')


def main(argv: list[str] | None = None) -> int:
    """Exit code."""
    args = parse_args(argv)
    with one_line_errors():
        run(args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
