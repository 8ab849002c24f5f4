"""Carry an encoder from one checkpoint format to another, checked tensor by tensor.

Examples:
    python tools/export_checkpoint.py work_dirs/adl_jepa/kitti/epoch_30.pth \
        --from mmjepa --to mmdet3d --detector second --out second_init.pth
    python tools/export_checkpoint.py released.pth --from openpcdet --to mmjepa --out encoder.pth
    python tools/export_checkpoint.py work_dirs/ijepa/epoch_300.pth \
        --from mmjepa --which target --to hf --out ijepa_hf
    python tools/export_checkpoint.py IN1K-vit.h.14-300e.pth.tar \
        --from ijepa --to mmseg --img-size 518 --out backbone.pth
    python tools/export_checkpoint.py vitl.pt --from vjepa2 --to hf_vjepa2 --out vjepa2_hf
"""

import argparse
import sys
from pathlib import Path

from mmjepa.adapters import (
    ALL_FORMATS,
    DETECTOR_PREFIXES,
    FORMATS,
    VIDEO_FORMATS,
    VIT_FORMATS,
    adjust_vit,
    read_encoder,
    write_encoder,
)
from mmjepa.adapters.sparse_encoder import KERNEL_LAYOUTS
from mmjepa.engine.checkpoint import CheckpointError


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('input', metavar='IN', help='checkpoint file, or a Hugging Face folder')
    parser.add_argument(
        '--from',
        dest='source',
        required=True,
        choices=[*ALL_FORMATS, 'auto'],
        help='its format; auto where only one fits, and it says which',
    )
    parser.add_argument(
        '--to',
        dest='target',
        required=True,
        choices=list(ALL_FORMATS),
        help=f'LiDAR encoders: {", ".join(FORMATS)}; ViTs of images: {", ".join(VIT_FORMATS)}; '
        f'of clips: {", ".join(VIDEO_FORMATS)}',
    )
    parser.add_argument(
        '--out',
        required=True,
        help='file to write; for --to hf and hf_vjepa2 a folder, unless it ends with .pth',
    )
    parser.add_argument(
        '--which',
        choices=['online', 'target'],
        help='encoder of an mmjepa (default: online) or an ijepa, vjepa or vjepa2 (default: '
        'target) checkpoint',
    )
    parser.add_argument('--from-prefix', help="prefix of the encoder's keys in IN")
    group = parser.add_mutually_exclusive_group()
    group.add_argument('--prefix', help="prefix of the encoder's keys in the file written")
    group.add_argument(
        '--detector',
        choices=list(DETECTOR_PREFIXES),
        help='the prefix that this mmdet3d detector asks for (default: second)',
    )
    parser.add_argument(
        '--kernel-layout',
        default='KRSC',
        choices=list(KERNEL_LAYOUTS),
        help='kernel axes in IN: KRSC spconv 2.2+, RSCK spconv 1 and mmcv, RSKC '
        'spconv 2.1; always KRSC in the file written',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        nargs='+',
        metavar='PIXELS',
        help='native size wanted of a ViT, one number or height and width: its positions are '
        'interpolated bicubically, those of clips trilinearly',
    )
    parser.add_argument(
        '--num-frames', type=int, help='native length of clips wanted of a ViT of clips'
    )
    parser.add_argument(
        '--patch-size', type=int, help="pixels of a ViT's patches wanted; kernels are resampled"
    )
    parser.add_argument('--heads', type=int, help='of a ViT, where IN does not tell them')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing OUT')
    args = parser.parse_args(argv)
    if args.detector and args.target != 'mmdet3d':
        parser.error('--detector goes with --to mmdet3d')
    if args.img_size and len(args.img_size) > 2:
        parser.error('--img-size takes one number, or height and width')
    return args


def main(argv=None):
    args = parse_args(argv)
    prefix = DETECTOR_PREFIXES[args.detector] if args.detector else args.prefix
    try:
        encoder = read_encoder(
            args.input,
            args.source,
            prefix=args.from_prefix,
            which=args.which,
            layout=args.kernel_layout,
        )
        size = args.img_size[0] if args.img_size and len(args.img_size) == 1 else args.img_size
        encoder = adjust_vit(encoder, size, args.heads, args.patch_size, args.num_frames)
        for note in encoder.notes:
            print(note)
        equal, total = write_encoder(
            encoder, args.out, args.target, prefix=prefix, overwrite=args.overwrite
        )
    except (CheckpointError, OSError, ValueError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(
        f'{equal}/{total} tensors ({encoder.family.label(encoder.meta)}) from {args.input} '
        f'[{encoder.prefix}*] in {args.out}, read back bit-equal'
    )
    for remark in ALL_FORMATS[args.target].remarks(encoder, Path(args.out)):
        print(remark)
    return 0


if __name__ == '__main__':
    sys.exit(main())
