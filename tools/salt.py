r"""SALT's two stages as one command, and its comparison with V-JEPA at equal FLOPs.

python tools/salt.py train --amp --cfg-options data_root=data/sim_video
    trains configs/salt/teacher_sim.py, checks its checkpoint, trains configs/salt/student_sim.py
    from it, and reports what each cost; again after an interruption: goes on
python tools/salt.py train --teacher configs/salt/teacher_vit_large.py --steps 240_000 \
    --student configs/salt/student_vit_huge.py --gpus 8 --amp --dry-run
    plan, commands and FLOPs of another pair; nothing is trained
python tools/salt.py compare --amp --seeds 3 --jobs 4 --cfg-options data_root=data/sim_video
    untrained, V-JEPA and SALT with several teachers at equal FLOPs, an attentive probe of each:
    table.md, results.csv, results.json and two pictures in the work dir, anew after every run

Every run is a tools/train.py or tools/probe.py job in a folder of its own; finished ones are
skipped, interrupted ones go on, settings that cannot be are refused before anything starts.
"""

import argparse
import contextlib
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from mmjepa.benchmark.label_efficiency.results import check_folders, write_json
from mmjepa.benchmark.salt.plan import (
    Comparison,
    chain,
    jobs_of,
    own_steps,
    parse_teachers,
    split_steps,
)
from mmjepa.benchmark.salt.report import (
    costs_text,
    rows_of,
    stage_costs,
    table_text,
    write_report,
)
from mmjepa.benchmark.salt.run import Runs
from mmjepa.benchmark.salt.stages import Common, Job, Stage, check_pair
from mmjepa.engine.config import default_work_dir
from mmjepa.engine.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {
    'teacher': 'configs/salt/teacher_sim.py',
    'student': 'configs/salt/student_sim.py',
    'vjepa': 'configs/vjepa/vit_tiny_sim.py',
}
METHODS = {'teacher': 'VPixel', 'student': 'SALT', 'vjepa': 'VJEPA'}
# less than, as much as and more than the student of student_sim.py
TEACHERS = ['half=[96,12,3,384]', 'tiny', 'small']


def fraction(text: str) -> Fraction:
    """``1/6`` or ``0.25``."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f'{text!r} is no share, give 1/6 or 0.25') from None


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND', dest='command')
    train = commands.add_parser('train', help='teacher, then student')
    _add_common(train, ('teacher', 'student'))
    train.add_argument('--steps', type=int, help="of both together (default: the configs' own)")
    train.add_argument('--seed', type=int, default=0, help='of both (default: 0)')
    train.set_defaults(run=run_train)
    compare = commands.add_parser('compare', help='untrained, V-JEPA and SALT at equal FLOPs')
    _add_common(compare, ('vjepa', 'teacher', 'student'))
    add = compare.add_argument
    budgets = 'steps of V-JEPA whose FLOPs each SALT run gets, too (default: those of its config)'
    add('--budgets', type=int, nargs='+', metavar='N', help=budgets)
    teachers = f'architectures of teachers, by name or NAME=ARCH (default: {" ".join(TEACHERS)})'
    add('--teachers', nargs='+', default=TEACHERS, metavar='ARCH', help=teachers)
    add('--seeds', type=int, default=3, metavar='N', help='how many (default: 3)')
    add('--first-seed', type=int, default=0, metavar='S', help='they are S ... S + N - 1')
    during = 'probes during each training, for the curves (default: 8; 0: none)'
    add('--measurements', type=int, default=8, metavar='K', help=during)
    probe = "more arguments of tools/probe.py, such as '--attentive-depth 4 --epochs 10'"
    add('--probe', default='', metavar='ARGUMENTS', help=probe)
    add('--jobs', type=int, default=1, metavar='J', help='runs at a time (default: 1)')
    compare.set_defaults(run=run_compare)
    args = parser.parse_args(argv)
    if args.gpus < 1 or getattr(args, 'jobs', 1) < 1:
        parser.error('--gpus and --jobs are at least 1')
    return args


def _add_common(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    add = parser.add_argument
    for name in names:
        add(f'--{name}', default=ROOT / CONFIGS[name], help=f'config (default: {CONFIGS[name]})')
        many = dict(nargs='+', default=[], metavar='KEY=VALUE', help=f'of its config alone: {name}')
        add(f'--{name}-options', **many)
    all_of_them = 'of all configs, as --cfg-options of tools/train.py'
    add('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=all_of_them)
    share = "teacher's share of SALT's steps (default: 1/6, the best of the paper's splits)"
    add('--teacher-fraction', type=fraction, default=Fraction(1, 6), metavar='F', help=share)
    add('--amp', nargs='?', const='bf16', choices=('bf16', 'fp16'), help='of tools/train.py')
    add('--gpus', type=int, default=1, help='processes of each training, on this machine')
    add('--work-dir', help='default: work_dirs/salt/<student>_<command>')
    add('--dry-run', action='store_true', help='print plan, commands and FLOPs; reads no data')
    add('--overwrite', action='store_true', help='remove runs of other settings in the work dir')


def stages_of(args: argparse.Namespace, names: Sequence[str]) -> list[Stage]:
    """The configs that the arguments name."""
    common = Common(ROOT / 'tools', tuple(args.cfg_options), args.amp, args.gpus)
    given = vars(args)
    return [
        Stage(
            name,
            Path(given[name]).absolute(),
            common,
            tuple(given[f'{name}_options']),
            METHODS[name],
        )
        for name in names
    ]


def work_dir(args: argparse.Namespace) -> Path:
    """Folder of the experiment."""
    default = f'{default_work_dir(Path(args.student).absolute())}_{args.command}'
    return Path(args.work_dir or default).absolute()


@contextlib.contextmanager
def _reading():
    """While configs and data are read: what others print goes to stderr."""
    print('reading configs and data ...', file=sys.stderr)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter('ignore')
        yield


def print_commands(jobs: Sequence[Job]) -> None:
    """What is left, as it will be run."""
    for job in jobs:
        left = '(finished) ' if job.product.is_file() else ''
        print(f'\n{left}{job.title}: python {shlex.join(job.command())}')


def run_train(args: argparse.Namespace) -> int:
    """Both stages; exit code."""
    folder = work_dir(args)
    with _reading():
        teacher, student = stages = stages_of(args, ('teacher', 'student'))
        total = own_steps(*stages) if args.steps is None else args.steps
        steps = split_steps(total, args.teacher_fraction)
        for stage in stages:
            stage.check(data=not args.dry_run)
        check_pair(teacher, student)
        jobs = chain(teacher, student, steps, folder, args.seed)
        costs = stage_costs(stages, steps)
    if args.teacher_fraction > Fraction(1, 2):
        print('warning: the paper never gives more than half of the steps to the teacher')
    if not args.dry_run:
        check_folders(jobs, args.overwrite)
        runs = Runs(jobs)
        runs.run()
        if runs.failed:
            return 1
        write_json(folder / 'flops.json', costs)
    print(f'\n{costs_text(costs)}')
    if args.dry_run:
        print_commands(jobs)
        return 0
    print(f'\nwritten: {jobs[1].product} (the student, what is kept), {folder / "flops.json"}')
    return 0


def run_compare(args: argparse.Namespace) -> int:
    """All arms; exit code."""
    folder = work_dir(args)
    with _reading():
        vjepa, teacher, student = stages_of(args, ('vjepa', 'teacher', 'student'))
        asked = Comparison(
            vjepa,
            teacher,
            student,
            parse_teachers(args.teachers),
            args.budgets or [own_steps(vjepa)],
            args.teacher_fraction,
            range(args.first_seed, args.first_seed + args.seeds),
            folder,
            args.measurements,
            args.probe,
        )
        asked.check(data=not args.dry_run)
        cells = asked.cells()
    jobs = jobs_of(cells)
    if args.dry_run:
        print(table_text(asked, cells, rows_of(cells), {}))
        print_commands(jobs)
        return 0
    check_folders(jobs, args.overwrite)
    runs = Runs(jobs, args.jobs)
    runs.after = lambda: write_report(asked, cells, runs.failed)
    runs.run()
    table, *others = write_report(asked, cells, runs.failed)
    print(f'\n{table.read_text()}', *(f'written: {path}' for path in (table, *others)), sep='\n')
    return 1 if runs.failed else 0


def main(argv: list[str] | None = None) -> int:
    """Exit code."""
    args = parse_args(argv)
    sys.stdout.reconfigure(line_buffering=True)  # one line a run, also into a file
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with one_line_errors():
            return args.run(args)
    except KeyboardInterrupt:
        raise SystemExit('stopped; the same command goes on') from None


if __name__ == '__main__':
    sys.exit(main())
