r"""Raw columns, an untrained encoder and T-JEPA under the same heads, over data sets and seeds.

python projects/t_jepa/tools/benchmark.py --datasets adult california --arms raw random tjepa \
    --models mlp resnet ft_transformer xgboost --seeds 3 --jobs 2
    pre-trains what is needed with tools/train.py, then trains the heads; table.md, results.csv,
    results.json and spread.png in the work dir, anew after every run
python projects/t_jepa/tools/benchmark.py ... --budget
    how long that will take, from a few steps of everything on the actual data
python projects/t_jepa/tools/benchmark.py --datasets mine=my_config.py --models mlp catboost linear

The same command goes on after an interruption: finished cells are skipped, settings that differ
from those in the work dir are refused. All arms share split, heads and their budget.
"""

import argparse
import contextlib
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

# read when torch is loaded: threads that wait by spinning starve each other on a busy machine
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from mmjepa.benchmark.label_efficiency.results import check_folders
from mmjepa.engine.config import ConfigError
from mmjepa.engine.errors import one_line_errors
from mmjepa.evaluation.progress import TerminalProgress
from projects.t_jepa.t_jepa.benchmark.choices import ARMS, FLAT, MODELS, Asked
from projects.t_jepa.t_jepa.benchmark.estimate import estimate_text
from projects.t_jepa.t_jepa.benchmark.evaluate import run_group
from projects.t_jepa.t_jepa.benchmark.plan import Source, make_plan
from projects.t_jepa.t_jepa.benchmark.report import write_report
from projects.t_jepa.t_jepa.benchmark.run import BenchmarkRuns
from projects.t_jepa.t_jepa.heads import SIZES
from projects.t_jepa.t_jepa.projections import PROJECTIONS
from projects.t_jepa.t_jepa.training import Budget
from projects.t_jepa.t_jepa.trees import TreeBudget

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / 'projects/t_jepa/configs'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = 'names of configs in projects/t_jepa/configs, or NAME=CONFIG (default: both)'
    add('--datasets', nargs='+', default=['adult', 'california'], metavar='NAME', help=names)
    add('--arms', nargs='+', default=list(ARMS), choices=ARMS, metavar='ARM', help=f'of {ARMS}')
    models = f'of {" ".join(MODELS)} (linear: logistic or ridge regression)'
    add('--models', nargs='+', default=['mlp', 'resnet', 'xgboost'], metavar='MODEL', help=models)
    kinds = f'of {" ".join(PROJECTIONS)} (default: linear_flatten)'
    add('--projections', nargs='+', default=['linear_flatten'], metavar='KIND', help=kinds)
    flat = 'what trees and linear models see of the tokens: all of them, or their mean'
    add('--flat', choices=FLAT, default='flatten', help=f'{flat} (default: flatten)')
    add('--seeds', type=int, default=3, metavar='N', help='how many (default: 3)')
    add('--first-seed', type=int, default=0, metavar='S', help='they are S ... S + N - 1')
    root = "holds a folder for each data set, as data/ after create_data.py (default: the configs')"
    add('--data-root', type=Path, metavar='DIR', help=root)
    add('--epochs', type=int, help="of pre-training (default: the config's)")
    more = 'of pre-training, as in tools/train.py'
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=more)
    own = 'take these instead of pre-training; {seed} in a path is filled in'
    add('--checkpoints', nargs='+', default=[], metavar='NAME=PATH', help=own)
    add('--encoder', choices=('context', 'target'), default='context', help='(default: context)')
    reg = "representations hold [REG] (default: as the config's semantics say)"
    add('--keep-reg', action=argparse.BooleanOptionalAction, default=None, help=reg)
    scale = 'leave the scale of representations as it is'
    add('--no-scale', dest='scale', action='store_false', help=scale)
    add('--head-size', choices=SIZES, default='small', help='(default: small, for a CPU)')
    add('--head-epochs', type=int, default=Budget.max_epochs, help='at most (default: 200)')
    add('--patience', type=int, default=Budget.patience, help='of networks (default: 16)')
    add('--trees', type=int, default=TreeBudget.trees, help='at most (default: 1000)')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='of the heads')
    add('--jobs', type=int, default=1, metavar='J', help='runs at a time (default: 1)')
    add('--work-dir', type=Path, default=Path('work_dirs/t_jepa/benchmark'))
    add('--budget', action='store_true', help='print the time estimate and end')
    add('--overwrite', action='store_true', help='remove runs of other settings in the work dir')
    add('--group', type=Path, help=argparse.SUPPRESS)  # a run of this command: cells to fill
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error('--jobs is at least 1')
    return args


def configs_of(words: list[str]) -> dict[str, Path]:
    """Configs by name.

    Raises:
        ConfigError: no such config, or a name given twice.
    """
    configs: dict[str, Path] = {}
    for word in words:
        name, _, path = word.partition('=')
        if name in configs or not name.isidentifier():
            raise ConfigError(f'--datasets {word}: each needs a name of its own')
        configs[name] = Path(path).absolute() if path else CONFIGS / f'{name}.py'
        if not configs[name].is_file():
            known = ', '.join(sorted(p.stem for p in CONFIGS.glob('*.py')))
            raise ConfigError(f'--datasets {word}: no {configs[name]}; there are {known}')
    return configs


def asked_of(args: argparse.Namespace) -> Asked:
    """What the arguments ask for."""
    return Asked(
        configs_of(args.datasets),
        tuple(dict.fromkeys(args.arms)),
        tuple(dict.fromkeys(args.models)),
        range(args.first_seed, args.first_seed + args.seeds),
        args.work_dir.absolute(),
        ROOT / 'tools',
        Path(__file__).resolve(),
        None if args.data_root is None else args.data_root.absolute(),
        tuple(args.cfg_options),
        args.epochs,
        tuple(args.projections),
        args.flat,
        args.head_size,
        Budget(max_epochs=args.head_epochs, patience=args.patience),
        TreeBudget(trees=args.trees),
        args.encoder,
        args.keep_reg,
        args.scale,
        args.device,
        dict(word.partition('=')[::2] for word in args.checkpoints),
    )


def run(args: argparse.Namespace) -> int:
    """The comparison, or its estimate; exit code."""
    asked = asked_of(args)
    with contextlib.redirect_stdout(sys.stderr):  # what others print
        print('reading configs and data ...')
        sources = [Source(name, path, asked) for name, path in asked.configs.items()]
        plan = make_plan(sources, asked)
        folders: Any = [*plan.jobs, *(cell.job for cell in plan.cells)]
        check_folders(folders, args.overwrite)
        print('timing a few steps of what is left ...' if plan.jobs else 'nothing is left')
        estimate = estimate_text(asked, plan, sources, args.jobs) if plan.jobs else ''
    print(estimate)
    if args.budget:
        return 0
    plan.write_groups()
    runs = BenchmarkRuns(asked, plan, args.jobs)
    runs.run()
    table, *others = write_report(asked, plan, runs.failed)
    print(f'\n{table.read_text()}', *(f'written: {path}' for path in (table, *others)), sep='\n')
    return 1 if runs.failed else 0


def main(argv: list[str] | None = None) -> int:
    """Exit code."""
    args = parse_args(argv)
    stdout: Any = sys.stdout
    stdout.reconfigure(line_buffering=True)  # one line a run, also into a file
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with one_line_errors(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if args.group is not None:
                run_group(args.group, TerminalProgress(interval=10))
                return 0
            return run(args)
    except KeyboardInterrupt:
        raise SystemExit('stopped; the same command goes on') from None


if __name__ == '__main__':
    sys.exit(main())
