"""Measures speed.

python tools/benchmark.py sparse --points FILE.bin --threads 1
    the sparse encoder (neighbour search, forward, backward) under each backend, and their ratio
python tools/benchmark.py train configs/adl_jepa/kitti.py --amp bf16 --cfg-options batch_size=16
    whole training steps: time, samples/s, peak memory, kernel table
"""

import argparse

import torch

from mmjepa.engine.config import OptionAction


def add_sparse(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'sparse', help='the sparse encoder under each backend, and the ratio of their times'
    )
    parser.add_argument('--points', help='a sweep, e.g. KITTI .bin (default: a synthetic cloud)')
    parser.add_argument('--threads', type=int, help='torch threads (default: all)')
    parser.add_argument('--repeats', type=int, default=10, help='repetitions (default: 10)')
    parser.add_argument('--device', default='cpu', help='cpu or cuda (default: cpu)')
    parser.add_argument('--max-voxels', type=int, default=40000, help='cap (default: 40000)')
    parser.set_defaults(run=run_sparse)


def run_sparse(args: argparse.Namespace) -> None:
    from mmjepa.benchmark.sparse import benchmark_sparse

    report = benchmark_sparse(args.points, args.threads, args.repeats, args.device, args.max_voxels)
    print(report.text())


def add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('train', help='whole training steps of a config')
    parser.add_argument('config', help='pre-training config')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, metavar='KEY=VALUE')
    parser.add_argument('--amp', nargs='?', const='bf16', choices=['bf16'])
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--steps', type=int, default=30, help='steps measured (default: 30)')
    parser.add_argument('--warmup', type=int, default=10, help='steps before (default: 10)')
    parser.add_argument('--rows', type=int, default=15, help='kernels listed (default: 15)')
    parser.add_argument('--loader', action='store_true', help='also the share of data wait')
    parser.add_argument('--json', help='write the figures to this file')
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    from mmjepa.benchmark.train import benchmark_train

    report = benchmark_train(
        args.config,
        args.cfg_options,
        args.amp,
        args.device,
        args.steps,
        args.warmup,
        args.rows,
        args.loader,
    )
    print(report.text())
    if args.json:
        report.write(args.json)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_sparse(commands)
    add_train(commands)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == '__main__':
    main()
