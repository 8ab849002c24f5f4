"""Makes and inspects data: simulated KITTI frames, generated clips, mmdet3d's info files.

python tools/create_data.py sim-kitti --out data/kitti_sim --frames 600 --seed 0
python tools/create_data.py sim-video --out data/sim_video --clips 6000 [--classes left right ...]
python tools/create_data.py inspect data/my_sensor
python tools/create_data.py kitti --root data/kitti [--out data/kitti_infos]
python tools/create_data.py nuscenes --root data/nuscenes
python tools/create_data.py waymo --root data/waymo
python tools/create_data.py once --root data/once
python tools/create_data.py kitti|nuscenes|waymo|once --root data/X --verify-only
python tools/create_data.py subset --root data/kitti --fraction 0.05
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


def _add_sim_video(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'sim-video', help='make clips of moving sprites whose class is the motion'
    )
    parser.add_argument('--out', required=True, help='folder to make')
    parser.add_argument('--clips', type=int, required=True, help='of training and test together')
    parser.add_argument(
        '--classes', nargs='+', metavar='MOTION', help='such as left right up down (default: all)'
    )
    parser.add_argument('--frames', type=int, default=16)
    parser.add_argument('--size', type=int, default=64, help='side of the frames in pixels')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--drift', type=float, default=0.0, help='longest way of the ground, in sides of the frame'
    )
    parser.add_argument('--test-fraction', type=float, default=0.2, help='share in test.csv')
    parser.add_argument('--mp4', action='store_true', help='mp4 files (PyAV) instead of .npy')
    parser.add_argument('--device', default='cpu', help='that renders: cpu, cuda, ...')
    parser.add_argument('--batch-size', type=int, default=64, help='clips rendered at a time')
    parser.add_argument('--overwrite', action='store_true', help='replace generated clips in --out')
    parser.set_defaults(run=_sim_video)


def _sim_video(args: argparse.Namespace) -> None:
    from mmjepa.datasets.video_sim import MOTIONS, ClipSettings, write_clips
    from mmjepa.evaluation.progress import TerminalProgress

    settings = ClipSettings(
        clips=args.clips,
        classes=tuple(args.classes or MOTIONS),
        frames=args.frames,
        size=args.size,
        seed=args.seed,
        drift=args.drift,
        test_fraction=args.test_fraction,
        mp4=args.mp4,
    )
    result = write_clips(
        args.out, settings, args.device, args.overwrite, args.batch_size, TerminalProgress()
    )
    counts = ', '.join(f'{len(own)} {name}' for name, own in settings.splits().items())
    print(
        f'{args.out}: {args.clips} clips ({counts}) of {len(settings.classes)} classes, '
        f'{result["clips"]} written in {result["seconds"]:.1f} s '
        f'({result["clips_per_second"]:.1f} clips/s)'
    )


def _inspect(args: argparse.Namespace) -> None:
    from mmjepa.datasets.inspect_sweeps import inspect_folder

    print(inspect_folder(args.folder).text())


def _add_conversions(commands: argparse._SubParsersAction) -> None:
    about = {
        'kitti': "mmdet3d's info files for a KITTI object folder",
        'nuscenes': "mmdet3d's info files for nuScenes",
        'waymo': "commands that make mmdet3d's info files for Waymo, and a check of them",
        'once': "info files in mmdet3d's layout for ONCE",
    }
    parsers = {name: commands.add_parser(name, help=text) for name, text in about.items()}
    for name, parser in parsers.items():
        parser.add_argument('--root', required=True, help='the data set')
        parser.add_argument(
            '--out',
            help='write there, with links to the data, and nothing to --root (default: --root)',
        )
        parser.add_argument(
            '--verify-only', action='store_true', help='check the info files that are there'
        )
        parser.set_defaults(run=_verify_or_convert, name=name)
    parsers['kitti'].add_argument(
        '--val-fraction',
        type=float,
        help="with --out: make new image sets with this share in val (default: the root's own, "
        'or 0.2 where there are none)',
    )
    parsers['nuscenes'].add_argument(
        '--version', choices=('v1.0-trainval', 'v1.0-mini'), help='tables (default: what is there)'
    )
    parsers['nuscenes'].add_argument(
        '--max-sweeps', type=int, default=10, help='earlier sweeps listed per frame'
    )


def _verify_or_convert(args: argparse.Namespace) -> None:
    from mmjepa.datasets import mmdet3d_infos as infos
    from mmjepa.datasets.once import convert_once, verify_once

    if args.verify_only or args.name == 'waymo':
        verify = {
            'kitti': infos.verify_kitti,
            'nuscenes': infos.verify_nuscenes,
            'waymo': infos.verify_waymo,
            'once': verify_once,
        }[args.name]
        if args.name == 'waymo' and not args.verify_only:
            print(infos.waymo_commands(args.root, args.out), end='\n\n')
        print(verify(args.out or args.root).text())
        return
    if args.name == 'kitti':
        report = infos.convert_kitti(args.root, args.out, args.val_fraction)
    elif args.name == 'nuscenes':
        report = infos.convert_nuscenes(args.root, args.out, args.version, args.max_sweeps)
    else:
        report = convert_once(args.root, args.out)
    print(report.text())


def _add_subset(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        'subset', help='ground-truth database of just the first training frames'
    )
    parser.add_argument('--root', required=True, help='folder with info files and database')
    parser.add_argument('--out', help='write the lists there (default: --root)')
    parser.add_argument('--name', help='data set, where the folder holds info files of several')
    parser.add_argument('--every', type=int, default=1, help='of every n-th frame only')
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument('--count', type=int, help='number of frames')
    size.add_argument('--fraction', help='share of the frames, rounded down')
    parser.set_defaults(run=_subset)


def _subset(args: argparse.Namespace) -> None:
    from mmjepa.datasets.info_files import read_infos
    from mmjepa.datasets.mmdet3d_infos import find_database, fraction_count, write_subset

    dbinfos, infos = find_database(args.root, args.name)
    count = args.count
    if count is None:
        available = len(read_infos(infos)['data_list'][:: args.every])
        count = fraction_count(args.fraction, available)
    print(write_subset(dbinfos, infos, count, args.out, args.every).text())


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    _add_sim(commands)
    _add_sim_video(commands)
    inspect = commands.add_parser(
        'inspect', help='read an unknown LiDAR folder and suggest settings'
    )
    inspect.add_argument('folder')
    inspect.set_defaults(run=_inspect)
    _add_conversions(commands)
    _add_subset(commands)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            '\ninterrupted; nothing half-written is left under a final name. The same command '
            'again: sim-kitti and sim-video go on where they stopped, conversions start anew',
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
