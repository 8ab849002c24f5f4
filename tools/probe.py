"""Probe a frozen encoder: can a simple classifier read object classes from its features?

Examples:
    python tools/probe.py configs/adl_jepa/kitti.py work_dirs/adl_jepa/kitti/epoch_30.pth
    python tools/probe.py CONFIG CHECKPOINT --protocol knn linear --seeds 0 1 2
    python tools/probe.py CONFIG none --protocol linear --arms untrained handmade
    python tools/probe.py CONFIG CHECKPOINT --classes Car Pedestrian Cyclist Van --merge Truck=Van

Cells of the BEV grid that hold points are labelled by boxes (KITTI labels); training and
validation frames come from ImageSets. The table is printed, and written as JSON and CSV.
"""

import os

# read when torch is loaded: threads that wait by spinning starve each other on a busy machine
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import argparse
from pathlib import Path

from mmjepa.engine.config import OptionAction, default_work_dir, load_config
from mmjepa.engine.errors import one_line_errors
from mmjepa.evaluation.probes import (
    ARMS,
    PROTOCOLS,
    BEVProbeSettings,
    CellRule,
    ProtocolSettings,
    format_table,
    probe_bev_cells,
    write_results,
)
from mmjepa.evaluation.progress import TerminalProgress


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='pre-training config')
    parser.add_argument(
        'checkpoint',
        help="weights, or 'none' for the baselines alone; {seed} in the path is filled in for each "
        'seed (one pre-training run for each)',
    )
    parser.add_argument('--protocol', nargs='+', choices=[*PROTOCOLS, 'both'], default=['knn'])
    parser.add_argument(
        '--arms', nargs='+', choices=ARMS, default=['untrained', 'handmade', 'checkpoint']
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0], help='of untrained weights and chosen cells'
    )
    parser.add_argument('--data-root', help="labelled KITTI folder (default: the config's)")
    parser.add_argument('--train-split', default='train')
    parser.add_argument('--val-split', default='val')
    parser.add_argument('--max-train-frames', type=int)
    parser.add_argument('--max-val-frames', type=int)
    parser.add_argument('--classes', nargs='+', default=list(CellRule().classes))
    parser.add_argument(
        '--merge', nargs='+', default=[], metavar='TYPE=CLASS', help='such as Van=Car Truck=Car'
    )
    parser.add_argument('--purity', type=float, default=CellRule().purity)
    parser.add_argument('--min-box-points', type=int, default=1)
    parser.add_argument('--cells-per-class', type=int, default=10_000, help='at most, for training')
    parser.add_argument('--val-cells-per-class', type=int, default=10_000, help='at most')
    parser.add_argument(
        '--unbalanced', action='store_true', help='all cells; default: as many of every class'
    )
    parser.add_argument('--calibration-frames', type=int, default=200, help='at most')
    parser.add_argument('--k', type=int, default=20)
    parser.add_argument('--temperature', type=float, default=0.07)
    parser.add_argument(
        '--standardise', action='store_true', help='standardise the features of every arm for kNN'
    )
    parser.add_argument('--batch-size', type=int, default=2, help='sweeps at a time')
    parser.add_argument('--device', default='auto', help='auto (CUDA where it is), cpu, cuda, ...')
    parser.add_argument('--work-dir', help="for JSON and CSV (default: the checkpoint's folder)")
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    return parser.parse_args(argv)


def settings_of(args):
    pairs = [text.partition('=') for text in args.merge]
    if any(not (source and sign and target) for source, sign, target in pairs):
        raise SystemExit(f'--merge takes TYPE=CLASS, got {" ".join(args.merge)}')
    rule = CellRule(
        classes=tuple(args.classes),
        merge={source: target for source, _, target in pairs},
        purity=args.purity,
        min_box_points=args.min_box_points,
    )
    protocols = PROTOCOLS if 'both' in args.protocol else tuple(dict.fromkeys(args.protocol))
    return BEVProbeSettings(
        protocols=protocols,
        arms=tuple(dict.fromkeys(args.arms)),
        seeds=tuple(args.seeds),
        rule=rule,
        train_per_class=args.cells_per_class,
        val_per_class=args.val_cells_per_class,
        train_split=args.train_split,
        val_split=args.val_split,
        max_train_frames=args.max_train_frames,
        max_val_frames=args.max_val_frames,
        calibration_frames=args.calibration_frames,
        batch_size=args.batch_size,
        equal_classes=not args.unbalanced,
        standardise=args.standardise,
        protocol=ProtocolSettings(k=args.k, temperature=args.temperature),
    )


def output_dir(args):
    if args.work_dir:
        return Path(args.work_dir)
    if args.checkpoint != 'none':
        return Path(args.checkpoint.replace('{seed}', str(args.seeds[0]))).resolve().parent
    return Path(default_work_dir(args.config))


def main(argv=None):
    import torch

    args = parse_args(argv)
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with one_line_errors():
        results = probe_bev_cells(
            load_config(args.config, args.cfg_options),
            None if args.checkpoint == 'none' else args.checkpoint,
            settings_of(args),
            device=device,
            data_root=args.data_root,
            progress=TerminalProgress(),
        )
    print(format_table(results))
    for path in write_results(results, output_dir(args)):
        print(f'written: {path}')
    return results


if __name__ == '__main__':
    main()
