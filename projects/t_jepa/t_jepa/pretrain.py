"""A pre-training inside a program: rows in, encoder out; nothing is left behind."""

from __future__ import annotations

import logging
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer
from numpy.typing import NDArray
from torch import Tensor, nn

from mmjepa.engine.config import check_config, load_config
from mmjepa.engine.runner import build_runner, rng_state, set_rng_state

from .encoder import TabularEncoder

BASE = Path(__file__).resolve().parents[1] / 'configs' / '_base_' / 't_jepa.py'
CONTEXT, TARGET = (0.1363, 0.3682), (0.1556, 0.6222)  # shares of the published recipe
MEASURED = 4096  # rows at most that the spread is measured on
CHUNK = 4096  # rows that are encoded at a time

Share = tuple[float, float]


@dataclass(frozen=True)
class Pretrained:
    """What a training leaves.

    Attributes:
        encoder: in evaluation mode, without gradients.
        spread_start, spread_end: standard deviation of the latents over rows, mean over columns
            and channels, before and after.
    """

    encoder: TabularEncoder
    spread_start: float
    spread_end: float


def shares(count: int, context: Share | None, target: Share | None) -> tuple[Share, Share]:
    """Shares of ``count`` columns that are seen and predicted.

    Args:
        count: D.
        context, target: None: the published ones, raised to one column, and for the context to
            two sizes, where a narrow table needs it.
    """
    if context is None:
        low, high = (round(count * share) for share in CONTEXT)
        low = max(low, 1)
        context = (low / count, max(high, low + 1) / count)
    if target is None:
        low, high = (max(round(count * share), 1) for share in TARGET)
        target = (low / count, high / count)
    return context, target


def pretrain(
    rows: NDArray[np.float32],
    encoder: Mapping[str, Any],
    options: Mapping[str, Any],
    device: torch.device,
    work_dir: str | None = None,
    verbose: bool = False,
) -> Pretrained:
    """Train on rows with the project's base config, by mmjepa's runner.

    Args:
        rows: (N, D) float32, from :class:`TableTransform`.
        encoder: arguments of :class:`TabularEncoder`.
        options: variables of the base config.
        device: where the training runs.
        work_dir: keeps rows, log and checkpoints; None: nothing is kept.
        verbose: print the log.
    """
    with tempfile.TemporaryDirectory() as temporary, _left_alone():
        folder = Path(work_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / 'rows.npy', rows)
        cfg = _config(folder, encoder, options, work_dir is not None, verbose)
        runner = build_runner(cfg)
        model = runner.bare_model.to(device)
        some = torch.from_numpy(rows[:MEASURED])
        start = spread(model.encoder, some)
        runner.train()
        end = spread(model.encoder, some)
        # a fresh one: the trained one hangs in hooks and optimizers
        return Pretrained(restore(encoder, model.encoder.state_dict(), device), start, end)


def restore(
    encoder: Mapping[str, Any], weights: Mapping[str, Tensor], device: torch.device
) -> TabularEncoder:
    """An encoder with these weights, for use.

    Raises:
        ValueError: the weights are those of another encoder.
    """
    with torch.random.fork_rng(devices=[]):
        fresh = TabularEncoder(**encoder)
    try:
        fresh.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f'the weights are of another encoder: {error}') from None
    return fresh.to(device).eval().requires_grad_(False)


@torch.no_grad()
def latents(encoder: nn.Module, rows: Tensor) -> Tensor:
    """(N, D) -> (N, D, H) on the CPU, without [REG], in evaluation mode."""
    device, was_training = next(encoder.parameters()).device, encoder.training
    encoder.eval()
    parts = [encoder(part.to(device))[:, encoder.num_reg :].cpu() for part in rows.split(CHUNK)]
    encoder.train(was_training)
    return torch.cat(parts)


def spread(encoder: nn.Module, rows: Tensor) -> float:
    """Standard deviation of the latents over rows, mean over columns and channels."""
    return float(latents(encoder, rows).std(0).mean())


def _config(
    folder: Path,
    encoder: Mapping[str, Any],
    options: Mapping[str, Any],
    keep: bool,
    verbose: bool,
) -> Config:
    cfg = load_config(BASE, dict(options))
    cfg.model.encoder.update(encoder)
    cfg.train_dataloader.dataset = dict(type='RowFileDataset', file=str(folder / 'rows.npy'))
    cfg.work_dir = str(folder)
    cfg.experiment_name = f't_jepa_{uuid.uuid4().hex}'
    cfg.log_level = 'INFO' if verbose else 'ERROR'
    kept = [dict(type='LocalVisBackend')] if keep else []
    cfg.visualizer = dict(type='Visualizer', vis_backends=kept)
    if not keep:
        cfg.default_hooks.checkpoint = None
    # the host program's signals are its own
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'SaveOnSignalHook']
    # the host program's, too: how processes start, threads, cuDNN's search
    threads = sys.modules['cv2'].getNumThreads() if 'cv2' in sys.modules else 0
    method = torch.multiprocessing.get_start_method(allow_none=True)
    processes = dict(opencv_num_threads=threads) | (dict(mp_start_method=method) if method else {})
    cfg.env_cfg = dict(cudnn_benchmark=torch.backends.cudnn.benchmark, mp_cfg=processes)
    check_config(cfg)
    return cfg


@contextmanager
def _left_alone() -> Iterator[None]:
    """The host program's random numbers, scopes and loggers are afterwards as they were."""
    state = rng_state()
    managers = (MMLogger, MessageHub, Visualizer, DefaultScope)
    before = {manager: set(manager._instance_dict) for manager in managers}
    try:
        yield
    finally:
        set_rng_state(state)
        for manager, names in before.items():
            for name in set(manager._instance_dict) - names:
                instance = manager._instance_dict.pop(name)
                if isinstance(instance, logging.Logger):
                    for handler in instance.handlers[:]:
                        handler.close()
