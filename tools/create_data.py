"""Makes and inspects data: simulated KITTI frames, unknown LiDAR folders, mmdet3d's info files.

python tools/create_data.py sim-kitti --out data/kitti_sim --frames 600 --seed 0
python tools/create_data.py inspect data/my_sensor
python tools/create_data.py kitti --root data/kitti
"""

import argparse
import sys


def _add_sim(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'sim-kitti', help='simulate traffic scenes and write them as a KITTI object data set'
    )
    parser.add_argument('--out', required=True, help='folder to make')
    parser.add_argument('--frames', type=int, required=True, help='labelled frames (training/)')
    parser.add_argument(
        '--test-frames',
        type=int,
        default=1,
        help="unlabelled ones (testing/); mmdet3d's converter wants one at least",
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--val-fraction', type=float, default=0.2, help='share in val.txt')
    parser.add_argument(
        '--frustum-only', action='store_true', help='only the points that the camera sees'
    )
    parser.add_argument('--workers', type=int, help='processes (default: usable cores)')
    parser.add_argument('--caster', choices=('auto', 'open3d', 'torch'), default='auto')
    parser.add_argument('--device', default='auto', help='of the torch caster: cpu, cuda, ...')
    parser.add_argument(
        '--overwrite', action='store_true', help='replace a simulated data set in --out'
    )
    parser.set_defaults(run=_sim_kitti)


def _sim_kitti(args: argparse.Namespace) -> None:
    from mmjepa.datasets.lidar_sim import SimSettings, write_data_set

    settings = SimSettings(
        frames=args.frames,
        seed=args.seed,
        frustum_only=args.frustum_only,
        val_fraction=args.val_fraction,
        test_frames=args.test_frames,
    )
    result = write_data_set(
        args.out, settings, args.workers, args.caster, args.device, args.overwrite
    )
    splits = settings.splits()
    counts = ', '.join(f'{len(splits[name])} {name}' for name in ('train', 'val', 'test'))
    print(
        f'{args.out}: {result["frames"]} frames ({counts}), caster {result["caster"]}, '
        f'{result["seconds"]:.1f} s ({result["frames_per_second"]:.1f} frames/s)'
    )


def _inspect(args: argparse.Namespace) -> None:
    from mmjepa.datasets.inspect_sweeps import inspect_folder

    print(inspect_folder(args.folder).text())


def _kitti(args: argparse.Namespace) -> None:
    from mmjepa.datasets.mmdet3d_infos import convert_kitti

    print(convert_kitti(args.root, args.out).text())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_sim(commands)
    inspect = commands.add_parser(
        'inspect', help='read an unknown LiDAR folder and suggest settings'
    )
    inspect.add_argument('folder')
    inspect.set_defaults(run=_inspect)
    kitti = commands.add_parser('kitti', help="mmdet3d's info files for a KITTI object folder")
    kitti.add_argument('--root', required=True, help='KITTI object folder')
    kitti.add_argument('--out', help='write there, with links to the data (default: into --root)')
    kitti.set_defaults(run=_kitti)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on where it stopped', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
