"""Train a config: pre-training here, fine-tuning through the downstream configs."""

import argparse
import os

from mmengine.config import Config, DictAction

from mmjepa.engine.config import ConfigError, check_config, default_work_dir, load_config
from mmjepa.engine.runner import build_runner


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, e.g. configs/adl_jepa/kitti.py')
    parser.add_argument('--work-dir', help='default: work_dirs/<path of the config below configs/>')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='auto|FILE',
                        help='go on from the newest checkpoint of the work dir, or from FILE')
    parser.add_argument('--amp', nargs='?', const='bf16', choices=['bf16', 'fp16'],
                        help='mixed precision; sparse encoders and losses stay float32')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate by batch / auto_scale_lr.base_batch_size')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='top-level variables (applied before the config runs) or dotted paths')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def prepare(args: argparse.Namespace) -> Config:
    """Config of the run that the arguments ask for."""
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    if args.amp == 'bf16':
        cfg.optim_wrapper.amp = 'bf16'
    elif args.amp == 'fp16':
        cfg.optim_wrapper.type = 'JEPAFp16OptimWrapper'
        cfg.optim_wrapper.dtype = 'float16'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
            raise ConfigError(f'--auto-scale-lr: {args.config} has no auto_scale_lr')
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif args.resume:
        cfg.resume, cfg.load_from = True, args.resume
    return cfg


def main(argv: list[str] | None = None) -> None:
    """Run."""
    args = parse_args(argv)
    try:
        cfg = prepare(args)
        check_config(cfg)
    except ConfigError as error:
        raise SystemExit(f'error: {error}') from None
    build_runner(cfg).train()


if __name__ == '__main__':
    main()
