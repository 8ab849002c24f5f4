r"""Pictures of a sweep or an image as a model sees it, and of a training run.

Examples:
    python tools/visualize.py configs/adl_jepa/kitti.py work_dirs/adl_jepa/kitti/epoch_30.pth \
        --input data/kitti/training/velodyne/000008.bin --output sweep.png
    python tools/visualize.py CONFIG none --input SWEEP      (untrained, for comparison)
    python tools/visualize.py configs/ijepa/vit_base16_in1k.py epoch_300.pth --input cat.jpg
    python tools/visualize.py --curves work_dirs/adl_jepa/kitti
    python tools/visualize.py configs/downstream/mmdet3d/second_kitti.py scratch/epoch_80.pth \
        --compare adl_jepa/epoch_80.pth --names scratch AD-L-JEPA --input SWEEP [--viewer]

Pre-training on sweeps: the cloud from above, the mask, the first three principal components of the
BEV embedding as colours, prediction against target over the masked cells, and the spectrum.
Pre-training on images: the target blocks, the context, principal components of the patch tokens,
the predictions as nearest patches, their agreement with the targets, and the spectrum.
Detection configs: detections and ground truth from above, two detectors beside each other with
--compare. Ground truth is that of the info files of the config's data sets.
"""

import argparse
from pathlib import Path

from mmjepa.engine.config import ConfigError, OptionAction
from mmjepa.engine.errors import one_line_errors

DETECTION_OPTIONS = ('compare', 'names', 'no_labels', 'score_threshold', 'min_iou', 'viewer')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='pre-training or detection config')
    parser.add_argument('checkpoint', nargs='?', help="weights, or 'none'")
    parser.add_argument('--input', help='a sweep or an image')
    parser.add_argument(
        '--output', '--out', dest='out', help='(default: INPUT_CHECKPOINT.png beside CHECKPOINT)'
    )
    parser.add_argument('--curves', metavar='WORK_DIR', help='draw the curves of a training run')
    parser.add_argument('--seed', type=int, default=0, help='of the mask and untrained weights')
    parser.add_argument('--device', default='auto', help='auto (CUDA where it is), cpu, cuda, ...')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    group = parser.add_argument_group('detection configs')
    group.add_argument(
        '--compare', metavar='CHECKPOINT2', help='a second panel with its detections'
    )
    group.add_argument('--names', nargs='+', metavar='NAME', help='of the detectors, in the titles')
    group.add_argument(
        '--no-labels', action='store_true', default=None, help='detections without ground truth'
    )
    group.add_argument('--score-threshold', type=float, help='lowest score shown (default: 0.3)')
    group.add_argument(
        '--min-iou', type=float, help="3D IoU of a right detection (default: KITTI's, else 0.5)"
    )
    group.add_argument(
        '--viewer',
        action='store_true',
        default=None,
        help='also a window, where there is a display',
    )
    args = parser.parse_args(argv)
    sweep = (args.config, args.checkpoint, args.input)
    if not all(sweep) and (any(sweep) or not args.curves):
        parser.error('give CONFIG CHECKPOINT --input FILE, or --curves WORK_DIR, or both')
    count = 2 if args.compare else 1
    if args.names and len(set(args.names)) != count:
        parser.error(f'--names takes {count} different names here, one for each checkpoint')
    return args


def draw_input(args):
    import torch

    from mmjepa.apis.detection import has_detector, load_detection_config

    torch.manual_seed(args.seed)
    if args.device == 'auto':
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    cfg = load_detection_config(args.config, args.cfg_options)
    if has_detector(cfg):
        return draw_detections(args, cfg)
    given = [name for name in DETECTION_OPTIONS if getattr(args, name) is not None]
    if given:
        raise ConfigError(
            f'--{given[0].replace("_", "-")} is for detection configs, {args.config} has no '
            'detector: take one of configs/downstream/mmdet3d, or leave the option out'
        )
    return draw_features(args, cfg)


def picture_path(args, ending=''):
    """Beside the checkpoint, and named after it: two of them keep their own pictures."""
    weights = Path('untrained' if args.checkpoint == 'none' else args.checkpoint)
    name = Path(args.input).name.split('.')[0]
    return args.out or weights.with_name(f'{name}_{weights.stem}{ending}.png')


def draw_features(args, cfg):
    from mmjepa.apis import init_model
    from mmjepa.models import ImagePreprocessor
    from mmjepa.visualization import (
        image_figure,
        save_figure,
        sweep_figure,
        view_image,
        view_sweep,
    )

    checkpoint = None if args.checkpoint == 'none' else args.checkpoint
    model = init_model(cfg, checkpoint, args.device)
    name = 'untrained' if checkpoint is None else checkpoint
    title = f'{type(model).__name__} ({name}) on {args.input}'
    if isinstance(model.data_preprocessor, ImagePreprocessor):
        figure = image_figure(view_image(model, args.input, args.seed, title))
    else:
        figure = sweep_figure(view_sweep(model, args.input, args.seed, title))
    return save_figure(figure, picture_path(args))


def draw_detections(args, cfg):
    from mmjepa.apis import detect, init_detector
    from mmjepa.visualization import compare_detections, detections_figure, save_figure
    from mmjepa.visualization.matching import min_ious, read_ground_truth

    threshold = 0.3 if args.score_threshold is None else args.score_threshold
    checkpoints = [args.checkpoint, *([args.compare] if args.compare else [])]
    names = args.names or [c if c != 'none' else 'untrained' for c in checkpoints]
    if len(set(names)) < len(names):
        names = [f'{name} ({i})' for i, name in enumerate(names, 1)]
    found = {}
    for name, checkpoint in zip(names, checkpoints, strict=True):
        weights = None if checkpoint == 'none' else checkpoint
        model = init_detector(cfg, weights, args.device)
        found[name] = detect(model, args.input)
    truth = None if args.no_labels else read_ground_truth(cfg, args.input)
    if truth is None and not args.no_labels:
        print(
            f'no ground truth: no info file of the config lists {args.input} with labels (is '
            'data_root that of the sweep? tools/create_data.py makes info files)'
        )
    views = compare_detections(
        found,
        truth,
        model.sweep_input.point_cloud_range,
        min_ious(model.sweep_input.classes, args.min_iou),
        threshold,
        f'{args.input}, detections with a score of at least {threshold:g}',
    )
    for panel in views.panels:
        print(panel.summary)
    ending = '_compare' if args.compare else ''
    written = save_figure(detections_figure(views), picture_path(args, ending), dpi=150)
    if args.viewer:
        open_windows(views)
    return written


def open_windows(views):
    from mmjepa.visualization.viewer import panel_boxes, show

    for panel in views.panels:
        reason = show(views.points, panel_boxes(views, panel), panel.summary)
        if reason is not None:
            print(f'no window, only the picture: {reason}')
            return


def draw_curves(args, alone):
    from mmjepa.visualization import curves_figure, save_figure

    out = args.out if alone and args.out else Path(args.curves) / 'curves.png'
    return save_figure(curves_figure(args.curves), out)


def main(argv=None):
    args = parse_args(argv)
    written = []
    with one_line_errors(instead_of_skip='give another file'):
        if args.input:
            written.append(draw_input(args))
        if args.curves:
            written.append(draw_curves(args, alone=not args.input))
    for path in written:
        print(f'written: {path}')
    return written


if __name__ == '__main__':
    main()
