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
import shlex
import signal
import sys
from pathlib import Path

from mmjepa.benchmark.label_efficiency import budget, report
from mmjepa.benchmark.label_efficiency.arms import check_checkpoints, parse_arms
from mmjepa.benchmark.label_efficiency.choices import Choices, check_choices
from mmjepa.benchmark.label_efficiency.files import PlanError
from mmjepa.benchmark.label_efficiency.plan import Plan, make_plan
from mmjepa.benchmark.label_efficiency.preflight import ask
from mmjepa.benchmark.label_efficiency.preflight import check_folders as check_data
from mmjepa.benchmark.label_efficiency.processes import launcher
from mmjepa.benchmark.label_efficiency.progress import Clock
from mmjepa.benchmark.label_efficiency.results import check_folders, finished
from mmjepa.benchmark.label_efficiency.run import Outcome, PlanRun, commands, failures

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
    add('--config', help=f'of fine-tuning (default: {CONFIG})')
    add('--work-dir', default='work_dirs/label_efficiency', help='default: %(default)s')
    add('--pretrain-iters', type=int, metavar='N', help="default: the config's epochs")
    add(
        '--finetune-iters',
        nargs='+',
        type=int,
        metavar='N',
        help='one number, or one for each fraction; default: epochs x frames / batch with the '
        "config's epochs / fraction, at most four times as many",
    )
    add('--batch-size', type=int, metavar='B', help="of both stages (default: each config's)")
    add('--num-workers', type=int, metavar='W', help='of the loaders')
    add('--amp', nargs='?', const='bf16', choices=('bf16', 'fp16'), help='of tools/train.py')
    add('--long', type=float, default=2.0, metavar='X', help='see --no-long (default: 2)')
    add(
        '--no-long',
        dest='long',
        action='store_const',
        const=None,
        help='leave out the cells at the smallest fraction with X times the schedule, which show '
        'whether scratch only lacked iterations',
    )
    pairs = dict(nargs='+', default=[], metavar='KEY=VALUE')
    add('--grid', **pairs, help='for both stages: point_cloud_range=[...] voxel_size=[...]')
    add('--pretrain-options', **pairs, help='as --cfg-options of tools/train.py')
    add('--finetune-options', **pairs, help='as --cfg-options of tools/train.py')
    add('--jobs', type=int, default=1, metavar='J', help='runs at a time (default: 1)')
    add('--overwrite', action='store_true', help='remove runs of other settings in the work dir')
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        '--budget', action='store_true', help='time a few iterations, print how long it will take'
    )
    what.add_argument(
        '--print-commands',
        action='store_true',
        help='print the commands of what is left, for slurm or torchrun; afterwards the same call '
        'without it collects the results',
    )
    add('--budget-iters', type=int, default=12, metavar='N', help='timed (default: %(default)s)')
    return parser.parse_args(argv)


def choices_of(args: argparse.Namespace) -> Choices:
    """What the arguments ask for, fractions in ascending order."""
    fractions, iters = args.fractions, args.finetune_iters
    if iters and len(iters) == len(fractions):
        iters = [n for _, n in sorted(zip(fractions, iters, strict=True))]
    choices = Choices(
        data=Path(args.data).absolute(),
        fractions=tuple(sorted(fractions)),
        seeds=tuple(range(args.first_seed, args.first_seed + args.seeds)),
        arms=parse_arms(args.arms, ROOT),
        config=Path(args.config) if args.config else ROOT / CONFIG,
        work_dir=Path(args.work_dir).absolute(),
        grid=tuple(args.grid),
        pretrain_options=tuple(args.pretrain_options),
        finetune_options=tuple(args.finetune_options),
        pretrain_iters=args.pretrain_iters,
        finetune_iters=tuple(iters) if iters else None,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        amp=args.amp,
        long=args.long,
    )
    check_choices(choices)
    if args.jobs < 1 or args.budget_iters < 3:
        raise PlanError('--jobs is at least 1 and --budget-iters at least 3')
    return choices


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan, after all checks."""
    choices = choices_of(args)
    check_data(choices)
    fingerprints = check_checkpoints(choices.arms, choices.seeds)
    print('reading configs and data ...', file=sys.stderr)
    plan = make_plan(choices, ask(choices), fingerprints)
    for note in report.notes(plan):
        print(f'warning: {note}', file=sys.stderr)
    if not args.budget:
        check_folders(plan.jobs, args.overwrite)
    return plan


def print_budget(plan: Plan, args: argparse.Namespace) -> None:
    """Times and total."""
    check_folders(plan.jobs)
    rates = budget.measure(plan, ROOT / 'tools', launcher(args.jobs), args.budget_iters)
    results = {job.folder: r for job in plan.jobs if (r := finished(job)) is not None}
    print(budget.budget_text(plan, rates, results, args.jobs))


def run(plan: Plan, jobs: int) -> int:
    """Carry out the plan; exit code."""

    def on_result(outcome: Outcome) -> None:
        report.write_report(plan, outcome.results, outcome.failed)

    clock = Clock(budget.known_rates(plan))
    runs = PlanRun(plan.jobs, ROOT / 'tools', launcher(jobs), jobs, on_result, clock=clock)
    outcome = runs.run()
    paths = report.write_report(plan, outcome.results, outcome.failed)
    print(f'\n{paths[1].read_text()}')
    print(report.closing(plan, outcome.results))
    for path in paths:
        print(f'written: {path}')
    failed = failures(plan.jobs, outcome)
    if failed:
        print(f'\n{len(outcome.failed)} runs have no result:\n{failed}')
    return 1 if failed else 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    """Exit code."""
    args = parse_args(argv)
    sys.stdout.reconfigure(line_buffering=True)  # one line a cell, also into a file
    try:
        plan = plan_of(args)
        if args.budget:
            print_budget(plan, args)
        elif args.print_commands:
            for command in commands(plan.jobs, ROOT / 'tools'):
                print(f'python {shlex.join(command)}')
        else:
            signal.signal(signal.SIGTERM, _interrupt)
            return run(plan, args.jobs)
    except PlanError as error:
        raise SystemExit(f'error: {error}') from None
    except KeyboardInterrupt:
        raise SystemExit('stopped; the same command goes on') from None
    return 0


if __name__ == '__main__':
    sys.exit(main())
