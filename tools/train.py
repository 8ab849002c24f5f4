"""Train a config: pre-training here, fine-tuning through the downstream configs."""

import os

# read when torch is loaded: threads that wait by spinning starve each other on a busy machine
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import argparse
import tempfile
from pathlib import Path

import torch
from mmengine.config import Config

from mmjepa.engine.config import (
    ConfigError,
    OptionAction,
    check_config,
    default_work_dir,
    load_config,
)
from mmjepa.engine.errors import one_line_errors
from mmjepa.engine.finetune import (
    apply_label_fraction,
    check_info_files,
    check_jepa_checkpoint,
)
from mmjepa.engine.runner import build_runner


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, e.g. configs/adl_jepa/kitti.py')
    parser.add_argument('--work-dir', help='default: work_dirs/<path of the config below configs/>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='auto|FILE',
        help='go on from the newest checkpoint of the work dir, or from FILE',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='start anew in a work dir that holds checkpoints'
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='bf16',
        choices=['bf16', 'fp16'],
        help='mixed precision; sparse encoders and losses stay float32',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by batch / auto_scale_lr.base_batch_size',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionAction,
        metavar='KEY=VALUE',
        help='top-level variables (applied before the config runs) or dotted paths',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def check_work_dir(path: str, overwrite: bool = False) -> None:
    """Raise early where nothing can be written, or where another run's checkpoints lie."""
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f'cannot write into the work dir {path}: {error.strerror}; name another with --work-dir'
        ) from None
    left = [*Path(path).glob('iter_*.pth'), *Path(path).glob('epoch_*.pth')]
    if left and not overwrite:
        raise ConfigError(
            f'{path} holds the checkpoints of another run: --resume goes on with it, --work-dir '
            'names another folder, --overwrite gives it up'
        )


def set_amp(cfg: Config, amp: str) -> None:
    """Mixed precision in the terms of the config's optimizer wrapper."""
    wrapper = cfg.optim_wrapper
    if amp == 'bf16' and cfg.get('default_scope') == 'mmdet':
        raise ConfigError("--amp bf16: mmcv's RoIAlign has no such kernel; take --amp fp16 (CUDA)")
    if amp == 'fp16' and not torch.cuda.is_available():
        raise ConfigError('--amp fp16 needs CUDA; --amp bf16 runs everywhere')
    scope, _, kind = wrapper.get('type', 'OptimWrapper').rpartition('.')
    scope += '.' if scope else ''
    if not kind.startswith('JEPA'):  # a config of somebody else
        wrapper.type = 'AmpOptimWrapper'
        wrapper.dtype = 'bfloat16' if amp == 'bf16' else 'float16'
    elif amp == 'bf16':
        wrapper.type, wrapper.amp = f'{scope}JEPAOptimWrapper', 'bf16'
    else:
        wrapper.pop('amp', None)
        wrapper.type, wrapper.dtype = f'{scope}JEPAFp16OptimWrapper', 'float16'


def prepare(args: argparse.Namespace) -> Config:
    """Config of the run that the arguments ask for.

    Raises:
        ConfigError: something in the arguments or the config can't be; says what and the remedy.
    """
    cfg = load_config(args.config, args.cfg_options)
    if not cfg.get('optim_wrapper') or not cfg.get('train_dataloader'):
        raise ConfigError(
            f'{args.config} has no optim_wrapper or train_dataloader: nothing to train'
        )
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
    if args.amp:
        set_amp(cfg, args.amp)
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise ConfigError(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr=dict(base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume:
        auto = args.resume == 'auto'
        if not auto and not os.path.isfile(args.resume):
            raise ConfigError(
                f'--resume: no file {args.resume}; --resume alone takes the newest checkpoint of '
                f'{cfg.work_dir}'
            )
        cfg.resume, cfg.load_from = True, None if auto else args.resume
    check_config(cfg)
    check_info_files(cfg)
    if not args.resume:
        check_jepa_checkpoint(cfg)
    check_work_dir(cfg.work_dir, args.overwrite or bool(args.resume))
    apply_label_fraction(cfg)
    return cfg


def main(argv: list[str] | None = None) -> None:
    """Run."""
    args = parse_args(argv)
    with one_line_errors():
        build_runner(prepare(args)).train()


if __name__ == '__main__':
    main()
