"""A model and data set of a few numbers: the engine's rules without any method's cost."""

import itertools
import logging
import os
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import Dataset

from mmjepa.engine.config import load_config
from mmjepa.engine.runner import build_runner
from mmjepa.registry import DATASETS, METRICS, MODELS

_NUMBER = itertools.count()


@DATASETS.register_module()
class ToyRows(Dataset):
    """Rows drawn from the sample's seed; remembers what this process was asked for."""

    def __init__(self, length=12, bad_at=None):
        self.length = length
        self.bad_at = bad_at
        self.metainfo = {'name': 'toy', 'length': length}
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.asked.append(index)
        index, seed = index if isinstance(index, tuple) else (index, index)
        x = torch.rand(4, generator=torch.Generator().manual_seed(seed % 2**60)) + index
        return {'x': x, 'index': index, 'seed': seed}


@MODELS.register_module()
class ToyNet(BaseModel):
    """A frozen part, a BatchNorm and a dropout, whose draws come from the global generator.

    A sample of index ``bad_index`` makes the loss NaN; ``bad_gradient``: only the gradient.
    """

    def __init__(self, bad_index=None, bad_gradient=False):
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.body = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)
        self.bad_index = bad_index
        self.bad_gradient = bad_gradient
        self.seen = []

    def forward(self, x, index, seed, mode='tensor'):
        x = torch.stack(list(x))
        self.seen.append([int(s) for s in seed])
        hidden = nn.functional.dropout(self.norm(self.body(self.frozen(x))), 0.3, self.training)
        out = self.head(hidden)
        if mode != 'loss':
            return [out]
        size = out.square().mean()
        if self.bad_index is not None and self.bad_index in [int(i) for i in index]:
            size = (size * 0).sqrt() if self.bad_gradient else size * float('nan')
        return {
            'loss_size': size,
            'loss_shift': (out - 1).abs().mean(),
            'mean': out.mean().detach(),
        }


@METRICS.register_module()
class ToyMetric(BaseMetric):
    """Counts rows."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples[0]))

    def compute_metrics(self, results):
        return {'rows': sum(results)}


TEXT = """
_base_ = ['{base}/default_runtime.py']
length = 12
batch_size = 2
num_workers = 0
max_epochs = None
max_iters = 6
seed = 0
accumulate = 1
log_interval = 2
lr = 0.1
model = dict(type='ToyNet')
train_dataloader = dict(
    batch_size=batch_size, num_workers=num_workers, pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(type='ToyRows', length=length))
optim_wrapper = dict(
    type='JEPAOptimWrapper', constructor='JEPAOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=lr, betas=(0.9, 0.99), weight_decay=0.1, fused=True),
    clip_grad=dict(max_norm=1.0), accumulative_counts=accumulate)
param_scheduler = [
    dict(type='PhasedScheduler', param_name='lr', phases=[
        dict(until=0.5, start=0.2, stop=1.0), dict(until=1.0, start=1.0, stop=0.0)]),
    dict(type='PhasedScheduler', param_name='beta1', phases=[
        dict(until=1.0, start=0.95, stop=0.85, curve='linear')]),
    dict(type='PhasedScheduler', param_name='weight_decay', phases=[
        dict(until=1.0, start=1.0, stop=4.0, curve='linear')]),
]
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)
default_hooks = dict(
    runtime_info=dict(interval=log_interval), logger=dict(interval=log_interval),
    checkpoint=dict(by_epoch=max_iters is None, interval=1))
custom_hooks = [dict(type='LossGuardHook'), dict(type='SaveOnSignalHook')]
log_processor = dict(by_epoch=max_iters is None, window_size=4)
visualizer = dict(_delete_=True, type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'WARNING'
"""


def write_config(folder: Path, repo: Path) -> Path:
    """The toy's config; MMEngine keeps loggers by the file's name, so every name is new."""
    path = folder / f'toy_{os.getpid()}_{next(_NUMBER)}.py'
    path.write_text(TEXT.format(base=repo / 'configs' / '_base_'))
    return path


def toy_runner(
    repo: Path,
    work_dir: Path,
    resume: bool | str = False,
    val: bool = False,
    launcher: str = 'none',
    **options,
):
    """A runner of the toy; ``resume``: True for auto, or a file; ``val``: with a validation."""
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg = load_config(write_config(work_dir.parent, repo), options)
    cfg.work_dir, cfg.launcher = str(work_dir), launcher
    if val:
        cfg.val_cfg = dict(type='ValLoop')
        cfg.val_evaluator = dict(type='ToyMetric')
        cfg.val_dataloader = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='ToyRows', length=4),
        )
    cfg.resume = bool(resume)
    cfg.load_from = str(resume) if isinstance(resume, (str, Path)) else None
    return build_runner(cfg)


def everything(runner) -> dict:
    """What an exact resume must restore, in comparable form."""
    hub = runner.message_hub
    scalars = {
        name: buffer.data[0].tolist()
        for name, buffer in hub.log_scalars.items()
        if not any(word in name for word in ('time', 'per_s', 'wait', 'rss'))
    }
    return {
        'iter': runner.iter,
        'weights': runner.bare_model.state_dict(),
        'optimizer': runner.optim_wrapper.state_dict(),
        'schedules': [s.state_dict() for s in runner.param_schedulers],
        'values': [s.get_last_value() for s in runner.param_schedulers],
        'torch_rng': torch.get_rng_state(),
        'scalars': scalars,
    }


class Log(logging.Handler):
    """Messages of a runner's logger from ``level`` on."""

    def __init__(self, runner, level=logging.WARNING):
        super().__init__(level)
        self.texts = []
        runner.logger.setLevel(min(level, runner.logger.level))
        runner.logger.addHandler(self)

    def emit(self, record):
        self.texts.append(record.getMessage())


class StopAt(Hook):
    """Ends the run after some iterations, as if the job's time were over."""

    priority = 'LOWEST'

    def __init__(self, stop):
        self.stop = stop

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.train_loop.stop_training |= runner.iter + 1 == self.stop


def assert_same(a, b, place=''):
    """Bit for bit."""
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), place
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (place, a.keys() ^ b.keys())
        for key in a:
            assert_same(a[key], b[key], f'{place}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f'{place}.{i}')
    else:
        assert a == b, (place, a, b)
