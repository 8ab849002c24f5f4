"""Figures of the deep linear study: each a PNG and a CSV, theory and simulation together.

python projects/linear_jepa/tools/run.py --figure order
python projects/linear_jepa/tools/run.py --figure all --out figures
"""

import os

# matrices of a few rows: threads would only wait for each other
os.environ.setdefault('OMP_NUM_THREADS', '1')

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # `projects` of this checkout

import torch

from mmjepa.engine.errors import one_line_errors
from projects.linear_jepa.linear_jepa.drawing import write_csv
from projects.linear_jepa.linear_jepa.figures import FIGURES


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--figure', required=True, choices=[*FIGURES, 'all'])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/linear_jepa'))
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='SEED',
        help='of bases, weights and samples; figures on exact moments, which all seeds repeat to '
        'the last digits, take the first one',
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        args.out.mkdir(parents=True, exist_ok=True)
        for name in FIGURES if args.figure == 'all' else [args.figure]:
            start = time.perf_counter()

            def say(text: str, name: str = name, start: float = start) -> None:
                print(f'[{name} {time.perf_counter() - start:5.1f} s] {text}', flush=True)

            write_csv(args.out / f'{name}.csv', FIGURES[name](args.out, args.seeds, say))
            say(f'{args.out / name}.png, .csv')


if __name__ == '__main__':
    main()
