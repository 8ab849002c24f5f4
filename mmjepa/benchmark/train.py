"""Time, memory, arithmetic and kernels of whole training steps."""

import itertools
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmjepa.apis.inference import init_quietly
from mmjepa.engine.compile import compile_blocks
from mmjepa.engine.config import ConfigError, check_config, load_config
from mmjepa.engine.hooks import TargetUpdateHook
from mmjepa.engine.runner import JEPARunner, provenance
from mmjepa.registry import MODELS

from .flops import count_batches, counting_model
from .kernels import PRODUCTS, profile_steps
from .synthetic import synthetic_batch


@dataclass
class TrainReport:
    """Figures of :func:`benchmark_train`; times in ms, memory in GiB, FLOPs of a step."""

    config: str
    batch_size: int
    amp: str | None
    compiled: bool
    synthetic: bool
    step_ms: float
    spread_ms: tuple[float, float]
    samples_per_s: float
    peak_gib: float
    data_wait: float | None
    voxels: float | None
    flops: float
    parts: dict[str, float] = field(default_factory=dict)
    kernels: list[tuple[str, float, int]] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def tflops_per_s(self) -> float:
        """Matrix products, convolutions and attention; recomputed ones don't count."""
        return self.flops / self.step_ms / 1e9

    @property
    def product_share(self) -> float:
        """Share of the step's time in which matrix products and attention run."""
        return self.parts.get(PRODUCTS, 0.0) / self.step_ms

    def text(self) -> str:
        """The report as a table."""
        env = self.environment
        low, high = self.spread_ms
        lines = [
            f'{self.config}  batch {self.batch_size}{" synthetic" if self.synthetic else ""}  '
            f'amp {self.amp or "off"}{"  compiled" if self.compiled else ""}  on {env["device"]}, '
            f'torch {env["packages"]["torch"]}',
            f'step {self.step_ms:.1f} ms (median; middle half {low:.1f} to {high:.1f})   '
            f'{self.samples_per_s:.2f} samples/s   peak {self.peak_gib:.2f} GiB',
            f'{self.flops / 1e12:.4g} TFLOP a step, {self.tflops_per_s:.4g} TFLOP/s   '
            f'{PRODUCTS}: {100 * self.product_share:.0f} % of the step',
        ]
        if self.voxels:
            lines.append(f'voxels a sample: {self.voxels:.0f}')
        if self.data_wait is not None:
            lines.append(
                f'with the loader: {100 * self.data_wait:.1f} % of the time waits for data'
            )
        total = sum(self.parts.values()) or 1.0
        lines += ['', f'{"share":>7} {"ms/step":>9}  category']
        lines += [
            f'{100 * ms / total:6.1f}% {ms:9.2f}  {name}'
            for name, ms in sorted(self.parts.items(), key=lambda p: -p[1])
        ]
        lines += ['', f'{"ms/step":>9} {"calls":>6}  kernel']
        lines += [f'{ms:9.2f} {calls:6d}  {name[:90]}' for name, ms, calls in self.kernels]
        return '\n'.join(lines)

    def write(self, path: str | Path) -> None:
        """Write the figures as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + '\n', encoding='utf-8')


class _Stepper:
    """Whole training steps outside the runner: forward, backward, clip, optimizer, target."""

    def __init__(self, cfg: Any, device: str):
        torch.manual_seed(cfg.seed)
        self.model: Any = MODELS.build(cfg.model)
        if hasattr(self.model, 'has_teacher'):  # random weights are as fast as a trained teacher's
            self.model.has_teacher, self.model.teacher_checkpoint = True, None
        init_quietly(self.model)
        self.model.to(device).train()
        self.max_iters = 1000
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.wrapper.initialize_count_status(self.model, 0, self.max_iters)
        self.hook = TargetUpdateHook()
        self.hook.attach(self.model, self.wrapper.optimizer)

    def __call__(self, batch: dict) -> None:
        self.model.train_step(batch, self.wrapper)
        if self.model.target.moves:
            self.hook.update(0.996)


def _on_device(batch: dict, device: str) -> dict:
    """Inputs moved once, so that the copy isn't part of the step."""

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device)
        if isinstance(value, list):
            return [move(v) for v in value]
        return {k: move(v) for k, v in value.items()} if isinstance(value, dict) else value

    return dict(inputs=move(batch['inputs']), data_samples=batch['data_samples'])


def _timed(step: _Stepper, batches: Iterator[dict], count: int, device: str) -> list[float]:
    times = []
    for _ in range(count):
        batch = next(batches)
        if device == 'cuda':
            torch.cuda.synchronize()
        start = time.perf_counter()
        step(batch)
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return times


def _data_wait(step: _Stepper, loader: Any, count: int, device: str) -> float:
    """Share of the time that whole iterations spend waiting for the loader."""
    batches = iter(loader)
    step(next(batches))
    waited, start = 0.0, time.perf_counter()
    for _ in range(count):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        step(batch)
    if device == 'cuda':
        torch.cuda.synchronize()
    return waited / (time.perf_counter() - start)


def _batches(cfg: Any, model: Any, synthetic: bool) -> tuple[list[dict], Any]:
    """A few batches, and the loader that they come from, if any."""
    if synthetic:
        return [synthetic_batch(cfg, model, seed) for seed in range(4)], None
    loader = JEPARunner.build_dataloader(cfg.train_dataloader, seed=cfg.seed)
    return list(itertools.islice(loader, 4)), loader


def benchmark_train(
    config: str,
    options: dict[str, Any] | None = None,
    amp: str | None = None,
    device: str = 'cpu',
    steps: int = 30,
    warmup: int = 10,
    rows: int = 15,
    with_loader: bool = False,
    synthetic: bool = False,
    compiled: bool = False,
) -> TrainReport:
    """Measure whole steps.

    Args:
        config: pre-training config.
        options: as in ``--cfg-options``.
        amp: None or ``'bf16'``.
        device: ``'cpu'`` or ``'cuda'``.
        steps: steps measured, of which the median is reported.
        warmup: steps before.
        rows: kernels listed.
        with_loader: also measure the share of time spent waiting for data.
        synthetic: random images or clips instead of the config's own data.
        compiled: compile the transformer blocks, as ``compile=True`` does.

    Returns:
        The report.

    Raises:
        ConfigError: synthetic batches for a method on point clouds, or with a loader.
    """
    if synthetic and with_loader:
        raise ConfigError('synthetic batches come from no loader: --loader or --synthetic')
    init_default_scope('mmjepa')
    cfg = load_config(config, options)
    check_config(cfg)
    if amp:
        cfg.optim_wrapper.amp = amp
    torch.backends.cudnn.benchmark = bool(cfg.get('env_cfg', {}).get('cudnn_benchmark'))
    counting = counting_model(cfg, device)
    few, loader = _batches(cfg, counting, synthetic)
    flops = sum(map(sum, count_batches(counting, few).values()))
    del counting
    step = _Stepper(cfg, device)
    if compiled or cfg.get('compile'):
        compile_blocks(step.model)
    on_device = [_on_device(batch, device) for batch in few]
    # the preprocessor takes the batch apart: hand out shallow copies
    fresh = (
        dict(inputs=dict(b['inputs']), data_samples=b['data_samples'])
        for b in itertools.cycle(on_device)
    )
    _timed(step, fresh, warmup, device)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    times = sorted(_timed(step, fresh, steps, device))
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if device == 'cuda'
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    parts, kernels = profile_steps(step, fresh, min(steps, 5), device, rows)
    prepared = step.model.data_preprocessor(next(fresh), True)['inputs']
    batch_size = len(few[0]['data_samples'])
    return TrainReport(
        config=config,
        batch_size=batch_size,
        amp=amp,
        compiled=bool(compiled or cfg.get('compile')),
        synthetic=synthetic,
        step_ms=median(times),
        spread_ms=(times[len(times) // 4], times[(3 * len(times)) // 4]),
        samples_per_s=1000 * batch_size / median(times),
        peak_gib=peak,
        data_wait=_data_wait(step, loader, steps, device) if with_loader else None,
        voxels=len(prepared['feats']) / batch_size if 'feats' in prepared else None,
        flops=flops,
        parts=parts,
        kernels=kernels,
        environment=provenance(),
    )
