r"""A detector's AP against the share of labels, from scratch and pre-trained, as one command.

python tools/label_efficiency.py --data data/kitti_sim --fractions 0.05 1.0 --seeds 3 \
    --arms scratch adl_jepa --budget          # how long will it take?
python tools/label_efficiency.py --data data/kitti_sim --fractions 0.05 1.0 --seeds 3 \
    --arms scratch adl_jepa                   # run it; again after an interruption: goes on

Pre-trains every arm once a seed on the sweeps of ImageSets/train.txt, fine-tunes a detector from it
at every fraction with the same iterations for all arms, validates, and writes results.csv, table.md
and curve.png into the work dir after every cell. Every run is a tools/train.py job in a folder of
its own; finished ones are skipped, one that fails leaves the others alone.

Arms: scratch, adl_jepa, occupancy_mae, bev_mae, NAME=pretraining_config.py, or
NAME=checkpoint_{seed}.pth of a pre-training done elsewhere.
"""

import argparse
import contextlib
import dataclasses
import shlex
import signal
import sys
import warnings
from pathlib import Path

from mmjepa.benchmark.label_efficiency.budget import budget_text
from mmjepa.benchmark.label_efficiency.choices import Choices, check_choices, parse_arms
from mmjepa.benchmark.label_efficiency.examine import examine
from mmjepa.benchmark.label_efficiency.plan import make_plan
from mmjepa.benchmark.label_efficiency.report import write_report
from mmjepa.benchmark.label_efficiency.results import check_folders
from mmjepa.benchmark.label_efficiency.run import PlanRun, commands
from mmjepa.engine.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/downstream/mmdet3d/second_kitti_paper.py'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--data', required=True, help="KITTI-format folder with mmdet3d's info files")
    add('--fractions', nargs='+', type=float, default=[0.05, 1.0], help='of the labels')
    add('--seeds', type=int, default=3, metavar='N', help='how many (default: %(default)s)')
    add('--first-seed', type=int, default=0, metavar='S', help='they are S ... S + N - 1')
    add('--arms', nargs='+', default=['scratch', 'adl_jepa'], metavar='ARM', help='see above')
    add('--config', default=ROOT / CONFIG, help=f'of fine-tuning (default: {CONFIG})')
    add('--work-dir', default='work_dirs/label_efficiency', help='default: %(default)s')
    add('--pretrain-iters', type=int, metavar='N', help="default: the config's epochs")
    iters = "one number, or one a fraction; default: the config's epochs / fraction, at most x 4"
    add('--finetune-iters', nargs='+', type=int, metavar='N', help=iters)
    add('--batch-size', type=int, metavar='B', help="of both stages (default: each config's)")
    add('--num-workers', type=int, metavar='W', help='of the loaders')
    add('--amp', nargs='?', const='bf16', choices=('bf16', 'fp16'), help='of tools/train.py')
    long = 'cells with X times the schedule at the smallest fraction, too (default: 2): they show '
    add('--long', type=float, default=2.0, metavar='X', help=f'{long}if scratch lacked iterations')
    add('--no-long', dest='long', action='store_const', const=None, help='without these cells')
    pairs = dict(nargs='+', default=[], metavar='KEY=VALUE')
    add('--grid', **pairs, help='for both stages: point_cloud_range=[...] voxel_size=[...]')
    add('--pretrain-options', **pairs, help='as --cfg-options of tools/train.py')
    add('--finetune-options', **pairs, help='as --cfg-options of tools/train.py')
    add('--jobs', type=int, default=1, metavar='J', help='runs at a time (default: 1)')
    add('--overwrite', action='store_true', help='remove runs of other settings in the work dir')
    what = parser.add_mutually_exclusive_group()
    budget = 'time a few iterations, print how long it will take'
    what.add_argument('--budget', action='store_true', help=budget)
    printed = 'print what is left, for slurm or torchrun; without it the same call collects results'
    what.add_argument('--print-commands', action='store_true', help=printed)
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error('--jobs is at least 1')
    return args


def choices_of(args: argparse.Namespace) -> Choices:
    """What the arguments ask for, fractions in ascending order."""
    given = vars(args) | dict(tools=ROOT / 'tools', arms=parse_arms(args.arms, ROOT))
    if args.finetune_iters and len(args.finetune_iters) == len(args.fractions):
        order = sorted(zip(args.fractions, args.finetune_iters, strict=True))
        given['finetune_iters'] = [n for _, n in order]
    given['fractions'] = sorted(args.fractions)
    given['seeds'] = range(args.first_seed, args.first_seed + args.seeds)
    given |= {name: Path(given[name]).absolute() for name in ('data', 'config', 'work_dir')}
    choices = Choices(**{field.name: given[field.name] for field in dataclasses.fields(Choices)})
    check_choices(choices)
    return choices


def main(argv: list[str] | None = None) -> int:
    """Exit code."""
    args = parse_args(argv)
    sys.stdout.reconfigure(line_buffering=True)  # one line a cell, also into a file
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with one_line_errors():
            return carry_out(args)
    except KeyboardInterrupt:
        raise SystemExit('stopped; the same command goes on') from None


def carry_out(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; exit code."""
    choices = choices_of(args)
    print('reading configs and data ...', file=sys.stderr)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter('ignore')  # of other packages, when they are imported
        plan = make_plan(choices, examine(choices))
    for note in plan.found.notes:
        print(f'warning: {note}', file=sys.stderr)
    check_folders(plan.jobs, args.overwrite and not args.budget)
    if args.budget:
        print(budget_text(plan, args.jobs))
        return 0
    if args.print_commands:
        for words in commands(plan):
            print(f'python {shlex.join(words)}')
        return 0
    runs = PlanRun(plan, args.jobs)
    runs.run()
    table, *others = write_report(plan, runs.results, runs.failed)
    print(f'\n{table.read_text()}', *(f'written: {path}' for path in (table, *others)), sep='\n')
    if runs.failed:
        print(f'{len(runs.failed)} runs have no result, see above')
    return 1 if runs.failed else 0


if __name__ == '__main__':
    sys.exit(main())
