r"""Probe an encoder: can a simple classifier read classes from its features, frozen or fine-tuned?

Examples:
    python tools/probe.py configs/adl_jepa/kitti.py work_dirs/adl_jepa/kitti/epoch_30.pth
    python tools/probe.py CONFIG CHECKPOINT --protocol knn linear --seeds 0 1 2
    python tools/probe.py CONFIG none --protocol linear --arms untrained handmade
    python tools/probe.py CONFIG CHECKPOINT --classes Car Pedestrian Cyclist Van --merge Truck=Van
    python tools/probe.py configs/ijepa/vit_tiny4_cifar10.py runs/{seed}/last.pth --seeds 0 1 2
    python tools/probe.py CONFIG CHECKPOINT --protocol knn linear attentive --which online --amp
    python tools/probe.py CONFIG CHECKPOINT --protocol finetune --epochs 20 --lr 1e-3 --amp
    python tools/probe.py configs/vjepa/vit_large16_224.py CHECKPOINT --data-root data/ssv2 \
        --protocol attentive --attentive-depth 4 --clips 2 --views 3 --amp

What the config's model eats decides what is classified. LiDAR: cells of the BEV grid that hold
points, labelled by boxes (KITTI labels); training and validation frames come from ImageSets.
Images: whole images, <data_root>/{train,test or val}/<class>/<image>; k, heads and learning
rates are chosen on a tenth of the training images, never on test ones; fine-tuning chooses
nothing and scores its last epoch. Videos: whole videos, <data_root>/{train,test or val}.csv with
lines `<path> <label>`, names of the classes in classes.txt; or images in class folders, as still
clips. The table is printed, and written as JSON and CSV.
"""

import os

# read when torch is loaded: threads that wait by spinning starve each other on a busy machine
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import argparse
from pathlib import Path

from mmjepa.engine.config import ConfigError, OptionAction, default_work_dir, load_config
from mmjepa.engine.errors import one_line_errors
from mmjepa.evaluation.functional.heads import HeadSchedule
from mmjepa.evaluation.probes import (
    ARMS,
    ENCODERS,
    PROTOCOLS,
    SAMPLE_PROTOCOLS,
    BEVProbeSettings,
    CellRule,
    FinetuneSettings,
    ProtocolSettings,
    SampleProbeSettings,
    SampleProtocolSettings,
    format_samples,
    format_table,
    input_kind,
    probe_bev_cells,
    probe_samples,
    write_results,
    write_samples,
)
from mmjepa.evaluation.progress import TerminalProgress


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('config', help='pre-training config')
    add(
        'checkpoint',
        help="weights, or 'none' for the baselines alone; {seed} in the path is filled in for each "
        'seed (one pre-training run for each)',
    )
    add(
        '--protocol',
        nargs='+',
        choices=[*SAMPLE_PROTOCOLS, 'both'],
        default=['knn'],
        help="'both' is knn and linear; attentive: images and videos; finetune: images",
    )
    add(
        '--arms',
        nargs='+',
        choices=ARMS,
        help='default: untrained, checkpoint, and handmade for LiDAR, which alone has it',
    )
    add(
        '--seeds',
        nargs='+',
        type=int,
        default=[0],
        help='of untrained weights, chosen cells, held-out samples, and their order',
    )
    add('--data-root', help="labelled folder (default: the config's)")
    add('--train-split', default='train')
    add(
        '--val-split',
        '--test-split',
        help='default: val for LiDAR; of images and videos, whichever of test and val is there',
    )
    add('--max-train-frames', '--max-train-samples', type=int)
    add('--max-val-frames', '--max-test-samples', type=int)
    add(
        '--k', type=int, nargs='+', help='default: 20; images and videos: chosen from 10 20 100 200'
    )
    add('--temperature', type=float, default=0.07)
    add(
        '--batch-size',
        type=int,
        help="sweeps (default 2), images, videos (default: the config's; 256 in fine-tuning)",
    )
    add('--device', default='auto', help='auto (CUDA where it is), cpu, cuda, ...')
    add('--work-dir', help="for JSON and CSV (default: the checkpoint's folder)")
    add('--cfg-options', nargs='+', action=OptionAction, default={})
    groups = {
        ('points',): _lidar_options,
        ('images', 'videos'): _sample_options,
        ('videos',): _video_options,
    }
    parser.set_defaults(own={kinds: options(parser) for kinds, options in groups.items()})
    return parser.parse_args(argv)


def _lidar_options(parser):
    """Options that only BEV cells have; name -> default."""
    group = parser.add_argument_group('LiDAR')
    add = group.add_argument
    add('--classes', nargs='+', default=list(CellRule().classes))
    add('--merge', nargs='+', default=[], metavar='TYPE=CLASS', help='such as Van=Car Truck=Car')
    add('--purity', type=float, default=CellRule().purity)
    add('--min-box-points', type=int, default=1)
    add('--cells-per-class', type=int, default=10_000, help='at most, for training')
    add('--val-cells-per-class', type=int, default=10_000, help='at most')
    add('--unbalanced', action='store_true', help='all cells; default: as many of every class')
    add('--calibration-frames', type=int, default=200, help='at most')
    add('--standardise', action='store_true', help='standardise features of every arm for kNN')
    return {action.dest: action.default for action in group._group_actions}


def _sample_options(parser):
    """Options that only whole samples have; name -> default."""
    group = parser.add_argument_group('images and videos')
    add = group.add_argument
    add(
        '--which',
        choices=ENCODERS,
        default='auto',
        help='encoder; auto: the EMA target where there is one, as the papers evaluate',
    )
    add(
        '--layers',
        nargs='+',
        type=int,
        choices=(1, 4),
        help='last layers to read; with both (the default) linear heads choose, others read one',
    )
    add('--amp', action='store_true', help='features, self-attention, fine-tuning in bfloat16')
    add('--epochs', type=int, help='of linear (default 50), attentive (20), fine-tuning (20)')
    add(
        '--attentive-depth',
        type=int,
        default=1,
        choices=(1, 2, 3, 4),
        help="blocks of attentive probes: 1 is V-JEPA's, 4 (3 of self-attention) V-JEPA 2's",
    )
    add('--attentive-heads', type=int, help="attention heads of theirs (default: the encoder's)")
    add('--attentive-lrs', nargs='+', type=float, help='chosen from (default 3e-4 ... 1e-2)')
    add('--attentive-wds', nargs='+', type=float, help='chosen from (default 0.01 0.1)')
    add('--lr', type=float, help='of fine-tuning, the peak (default 1e-3)')
    add('--layer-decay', type=float, help='of fine-tuning, from block to block (default 0.75)')
    add('--cache-dir', help='for features (default: features/ in the work dir)')
    add('--no-cache', action='store_true', help='keep no features on disk')
    return {action.dest: action.default for action in group._group_actions}


def _video_options(parser):
    """Options that only videos have; name -> default."""
    group = parser.add_argument_group('videos')
    add = group.add_argument
    add('--clips', type=int, default=1, help='of each video; a probe reads the tokens of all')
    add(
        '--views',
        type=int,
        default=1,
        choices=(1, 3),
        help='crops of a test video (or still) along its longer side; predictions are averaged',
    )
    return {action.dest: action.default for action in group._group_actions}


def refuse_foreign(args, kind):
    """An option of the other kind of input would do nothing."""
    for kinds, options in args.own.items():
        given = [name for name, default in options.items() if getattr(args, name) != default]
        if kind not in kinds and given:
            option = '--' + given[0].replace('_', '-')
            raise ConfigError(
                f'{option} is for {" and ".join(kinds)}; {args.config} reads {kind}: leave it out'
            )
    finetune = 'finetune' in args.protocol
    if finetune and kind != 'images':
        remedy = {'points': 'fine-tune with the configs in configs/downstream/mmdet3d'}
        raise ConfigError(
            f'--protocol finetune is for images; {args.config} reads {kind}: '
            f'{remedy.get(kind, "leave it out")}'
        )
    if not finetune and (args.lr is not None or args.layer_decay is not None):
        raise ConfigError('--lr and --layer-decay are for --protocol finetune: leave them out')


def protocols_of(args):
    named = [PROTOCOLS if name == 'both' else (name,) for name in args.protocol]
    return tuple(dict.fromkeys(name for names in named for name in names))


def settings_of(args):
    """For BEV cells."""
    pairs = [text.partition('=') for text in args.merge]
    if any(not (source and sign and target) for source, sign, target in pairs):
        raise SystemExit(f'--merge takes TYPE=CLASS, got {" ".join(args.merge)}')
    if args.k and len(args.k) > 1:
        raise SystemExit(f'--k takes one number for LiDAR, got {" ".join(map(str, args.k))}')
    rule = CellRule(
        classes=tuple(args.classes),
        merge={source: target for source, _, target in pairs},
        purity=args.purity,
        min_box_points=args.min_box_points,
    )
    return BEVProbeSettings(
        protocols=protocols_of(args),
        arms=tuple(dict.fromkeys(args.arms or ['untrained', 'handmade', 'checkpoint'])),
        seeds=tuple(args.seeds),
        rule=rule,
        train_per_class=args.cells_per_class,
        val_per_class=args.val_cells_per_class,
        train_split=args.train_split,
        val_split=args.val_split or 'val',
        max_train_frames=args.max_train_frames,
        max_val_frames=args.max_val_frames,
        calibration_frames=args.calibration_frames,
        batch_size=2 if args.batch_size is None else args.batch_size,
        equal_classes=not args.unbalanced,
        standardise=args.standardise,
        protocol=ProtocolSettings(k=args.k[0] if args.k else 20, temperature=args.temperature),
    )


def sample_settings_of(args):
    """For whole samples."""
    numbers = dict(temperature=args.temperature)
    if args.k:
        numbers['ks'] = tuple(dict.fromkeys(args.k))
    if args.epochs is not None:
        numbers['linear'] = numbers['attentive'] = HeadSchedule(epochs=args.epochs)
    numbers['attentive_depth'] = args.attentive_depth
    numbers['attentive_heads'] = args.attentive_heads
    for name, given in (
        ('attentive_lrs', args.attentive_lrs),
        ('attentive_weight_decays', args.attentive_wds),
    ):
        if given:
            numbers[name] = tuple(dict.fromkeys(given))
    tuning = dict(epochs=args.epochs, lr=args.lr, layer_decay=args.layer_decay)
    return SampleProbeSettings(
        protocols=protocols_of(args),
        arms=tuple(dict.fromkeys(args.arms or ['untrained', 'checkpoint'])),
        seeds=tuple(args.seeds),
        which=args.which,
        layers=None if args.layers is None else tuple(sorted(set(args.layers))),
        train_split=args.train_split,
        test_split=args.val_split,
        max_train=args.max_train_frames,
        max_test=args.max_val_frames,
        batch_size=args.batch_size,
        amp=args.amp,
        clips=args.clips,
        views=args.views,
        protocol=SampleProtocolSettings(**numbers),
        finetune=FinetuneSettings(**{k: v for k, v in tuning.items() if v is not None}),
    )


def output_dir(args):
    if args.work_dir:
        return Path(args.work_dir)
    if args.checkpoint != 'none':
        return Path(args.checkpoint.replace('{seed}', str(args.seeds[0]))).resolve().parent
    return Path(default_work_dir(args.config))


def cache_dir(args):
    if args.no_cache:
        return None
    return Path(args.cache_dir) if args.cache_dir else output_dir(args) / 'features'


def main(argv=None):
    import torch

    args = parse_args(argv)
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    checkpoint = None if args.checkpoint == 'none' else args.checkpoint
    common = dict(device=device, data_root=args.data_root, progress=TerminalProgress())
    with one_line_errors(instead_of_skip='take it out of the data'):
        cfg = load_config(args.config, args.cfg_options)
        kind = input_kind(cfg)
        refuse_foreign(args, kind)
        if kind == 'points':
            results = probe_bev_cells(cfg, checkpoint, settings_of(args), **common)
            table, write = format_table, write_results
        else:
            settings, folder = sample_settings_of(args), cache_dir(args)
            results = probe_samples(cfg, checkpoint, settings, cache_dir=folder, **common)
            table, write = format_samples, write_samples
    print(table(results))
    for path in write(results, output_dir(args)):
        print(f'written: {path}')
    return results


if __name__ == '__main__':
    main()
