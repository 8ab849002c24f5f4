"""Measures speed.

python tools/benchmark.py sparse --points FILE.bin --threads 1
    the sparse encoder (neighbour search, forward, backward) under each backend, and their ratio
python tools/benchmark.py train configs/adl_jepa/kitti.py --amp bf16 --cfg-options batch_size=16
    whole training steps: time, samples/s, peak memory, kernel table
python tools/benchmark.py images --data data/imagenet/val --workers 2
    images/s of the loader, and how much faster it is than a plain one on PIL
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


def add_images(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('images', help='the image loader beside a plain one on PIL')
    parser.add_argument('--data', required=True, help='folder of JPEG or PNG images')
    parser.add_argument('--workers', type=int, default=0, help='processes (default: 0, this one)')
    parser.add_argument('--size', type=int, default=224, help='side of the crops (default: 224)')
    parser.add_argument('--repeats', type=int, default=5, help='passes measured (default: 5)')
    parser.add_argument('--images', type=int, default=320, help='images a pass (default: 320)')
    parser.set_defaults(run=run_images)


def run_images(args: argparse.Namespace) -> None:
    from mmjepa.benchmark.images import benchmark_images

    report = benchmark_images(args.data, args.workers, args.size, args.repeats, args.images)
    print(report.text())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_sparse(commands)
    add_train(commands)
    add_images(commands)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == '__main__':
    main()
