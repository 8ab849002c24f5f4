"""Measures speed.

python tools/benchmark.py sparse --points FILE.bin --threads 1
    the sparse encoder (neighbour search, forward, backward) under each backend, and their ratio
"""

import argparse


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

    report = benchmark_sparse(
        args.points, args.threads, args.repeats, args.device, args.max_voxels
    )
    print(report.text())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_sparse(commands)
    args = parser.parse_args(argv)
    args.run(args)


if __name__ == '__main__':
    main()
