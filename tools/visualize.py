r"""Pictures of what a pre-trained model makes of a sweep, and of a training run.

Examples:
    python tools/visualize.py configs/adl_jepa/kitti.py work_dirs/adl_jepa/kitti/epoch_30.pth \
        --input data/kitti/training/velodyne/000008.bin --out sweep.png
    python tools/visualize.py CONFIG none --input SWEEP      (untrained, for comparison)
    python tools/visualize.py --curves work_dirs/adl_jepa/kitti

The sweep's picture shows the cloud from above, the mask, the first three principal components of
the BEV embedding as colours, prediction against target over the masked cells, and the spectrum.
"""

import argparse
from pathlib import Path

from mmjepa.engine.config import OptionAction
from mmjepa.engine.errors import one_line_errors


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', help='pre-training config')
    parser.add_argument('checkpoint', nargs='?', help="weights, or 'none'")
    parser.add_argument('--input', help='a sweep')
    parser.add_argument('--out', help='picture (default: beside the checkpoint or run)')
    parser.add_argument('--curves', metavar='WORK_DIR', help='draw the curves of a training run')
    parser.add_argument('--seed', type=int, default=0, help='of the mask and untrained weights')
    parser.add_argument('--device', default='auto', help='auto (CUDA where it is), cpu, cuda, ...')
    parser.add_argument('--cfg-options', nargs='+', action=OptionAction, default={})
    args = parser.parse_args(argv)
    sweep = (args.config, args.checkpoint, args.input)
    if not all(sweep) and (any(sweep) or not args.curves):
        parser.error('give CONFIG CHECKPOINT --input FILE, or --curves WORK_DIR, or both')
    return args


def draw_sweep(args):
    import torch

    from mmjepa.apis import init_model
    from mmjepa.visualization import save_figure, sweep_figure, view_sweep

    torch.manual_seed(args.seed)
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    checkpoint = None if args.checkpoint == 'none' else args.checkpoint
    model = init_model(args.config, checkpoint, device, args.cfg_options)
    name = 'untrained' if checkpoint is None else checkpoint
    title = f'{type(model).__name__} ({name}) on {args.input}'
    folder = Path('.') if checkpoint is None else Path(checkpoint).parent
    out = args.out or folder / f'{Path(args.input).name.split(".")[0]}.png'
    return save_figure(sweep_figure(view_sweep(model, args.input, args.seed, title)), out)


def draw_curves(args, alone):
    from mmjepa.visualization import curves_figure, save_figure

    out = args.out if alone and args.out else Path(args.curves) / 'curves.png'
    return save_figure(curves_figure(args.curves), out)


def main(argv=None):
    args = parse_args(argv)
    written = []
    with one_line_errors():
        if args.input:
            written.append(draw_sweep(args))
        if args.curves:
            written.append(draw_curves(args, alone=not args.input))
    for path in written:
        print(f'written: {path}')
    return written


if __name__ == '__main__':
    main()
