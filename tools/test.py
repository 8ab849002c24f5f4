"""Evaluate a checkpoint on the test set of a config, with the config's metrics.

Fine-tuned models have a test set and metrics; a pre-trained encoder is probed instead
(tools/probe.py).
"""

import argparse
import os

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import (
    ConfigError,
    OptionAction,
    check_config,
    default_work_dir,
    load_config,
)
from mmjepa.engine.errors import one_line_errors
from mmjepa.engine.finetune import check_info_files
from mmjepa.engine.runner import build_runner
from mmjepa.engine.trained_with import check_detector


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config with test_dataloader and test_evaluator')
    parser.add_argument('checkpoint', help='weights, loaded completely or not at all')
    parser.add_argument('--work-dir', help='default: work_dirs/<path of the config below configs/>')
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


def main(argv: list[str] | None = None) -> dict:
    """Run; returns the metrics."""
    args = parse_args(argv)
    with one_line_errors():
        cfg = load_config(args.config, args.cfg_options)
        if not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
            raise ConfigError(
                f'{args.config} has no test set: probe its encoder with '
                f'python tools/probe.py {args.config} {args.checkpoint}'
            )
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or default_work_dir(args.config)
        cfg.load_from, cfg.resume = args.checkpoint, False
        cfg.runner_type = 'mmjepa.JEPARunner'  # MMEngine's own would load what fits and go on
        check_config(cfg)
        check_info_files(cfg, splits=['test'])
        check_detector(load_file(args.checkpoint), cfg, args.checkpoint)
        return build_runner(cfg).test()


if __name__ == '__main__':
    main()
