"""Measures speed.

python tools/benchmark.py sparse --points FILE.bin --threads 1
    the sparse encoder (neighbour search, forward, backward) under each backend, and their ratio
python tools/benchmark.py train configs/adl_jepa/kitti.py --amp bf16 --cfg-options batch_size=16
    whole training steps: time, samples/s, peak memory, TFLOP/s, kernel table
python tools/benchmark.py train configs/ijepa/vit_base16_in1k.py --synthetic --amp bf16 --compile
    the same on random images, without a data set
python tools/benchmark.py flops configs/ijepa/vit_huge14_in1k.py --batch-size 64
    arithmetic of a step and of the run: encoder, predictor, target; weighs and computes nothing
python tools/benchmark.py images --data data/imagenet/val --workers 2
    images/s of the loader, and how much faster it is than a plain one on PIL
python tools/benchmark.py video --data data/videos --step-ms 150 --batch-size 24 --workers 8
    clips/s of each video backend, and the share of time that such a training would wait for data
"""

import argparse

import torch

from mmjepa.engine.config import OptionAction
from mmjepa.engine.errors import one_line_errors


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
    parser.add_argument('--synthetic', action='store_true', help='random images or clips, no data')
    parser.add_argument('--compile', action='store_true', help='compile the transformer blocks')
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
        args.synthetic,
        args.compile,
    )
    print(report.text())
    if args.json:
        report.write(args.json)


def add_flops(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('flops', help='FLOPs of a step and of the run of a config')
    parser.add_argument('config', help='pre-training config')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, metavar='KEY=VALUE')
    parser.add_argument('--batch-size', type=int, help="of a process (default: the config's)")
    parser.add_argument(
        '--convention',
        choices=['counted', 'paper'],
        default='counted',
        help='counted: products and attention over the tokens that are processed (default); '
        "paper: SALT's 6ND, for video",
    )
    parser.set_defaults(run=run_flops)


def run_flops(args: argparse.Namespace) -> None:
    from mmjepa.benchmark.flops import benchmark_flops

    options = dict(args.cfg_options or {})
    if args.batch_size:
        options['batch_size'] = args.batch_size
    print(benchmark_flops(args.config, options, args.convention).text())


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


def add_video(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser('video', help='the video backends, and the wait for data')
    parser.add_argument('--data', required=True, help='folder of videos, or a list of them')
    parser.add_argument(
        '--backends', nargs='+', metavar='NAME', help='default: every decoder that imports'
    )
    parser.add_argument('--frames', type=int, default=16, help='of a clip (default: 16)')
    parser.add_argument('--frame-step', type=int, default=4, help='between them (default: 4)')
    parser.add_argument('--size', type=int, default=224, help='side of the crops (default: 224)')
    parser.add_argument('--repeats', type=int, default=3, help='passes measured (default: 3)')
    parser.add_argument('--workers', type=int, default=8, help='of the training (default: 8)')
    parser.add_argument('--batch-size', type=int, default=24, help='of the training (default: 24)')
    parser.add_argument('--step-ms', type=float, default=150.0, help='of a step (default: 150)')
    parser.set_defaults(run=run_video)


def run_video(args: argparse.Namespace) -> None:
    from mmjepa.benchmark.video import CODECS, benchmark_video

    report = benchmark_video(
        args.data,
        args.backends or CODECS,
        args.frames,
        args.frame_step,
        args.size,
        args.repeats,
        args.workers,
        args.batch_size,
        args.step_ms,
    )
    print(report.text())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    add_sparse(commands)
    add_train(commands)
    add_flops(commands)
    add_images(commands)
    add_video(commands)
    args = parser.parse_args(argv)
    with one_line_errors():
        args.run(args)


if __name__ == '__main__':
    main()
