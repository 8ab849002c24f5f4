"""Arithmetic of training steps: matrix products, convolutions and attention."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mmjepa.engine.config import ConfigError, check_config, load_config
from mmjepa.engine.runner import JEPARunner
from mmjepa.models.layers.sparse_ops import SparseConv3d, SubMConv3d
from mmjepa.registry import MODELS

from .synthetic import clips_per_sample, synthetic_batch

_aten = torch.ops.aten
_FORMULAS = dict(flop_registry)
# torch has formulas of the CUDA kernels only
_FORMULAS[_aten._scaled_dot_product_flash_attention_for_cpu] = flop_registry[
    _aten._scaled_dot_product_flash_attention
]
_WITH_ADDEND = (_aten.addmm, _aten.baddbmm)  # which costs no product

#: FLOPs of the forward and of the backward pass by slot (``encoder``, ``predictor``, ``target``)
Flops = dict[str, tuple[float, float]]


class _Counter(TorchDispatchMode):
    """Adds up the products made in each slot of a model.

    The backward pass is not run: a product costs as much again for each factor that wants a
    gradient. Whatever kernel computes them, attention counts as two products, and as four in the
    backward pass; a recomputation is no arithmetic of the model's.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.forward: dict[str, float] = defaultdict(float)
        self.backward: dict[str, float] = defaultdict(float)
        self._slots = {m: name.split('.')[0] for name, m in model.named_modules()}
        # modules at work, with the grad mode in which they were called
        self._stack: list[tuple[Any, bool]] = []

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append((module, torch.is_grad_enabled()))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, SubMConv3d | SparseConv3d):
            self._add_sparse(module, args[0])
        self._stack.pop()

    def __enter__(self) -> '_Counter':
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave),
        ]
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*args)

    def _add(self, flops: float, factors: Iterable[Any]) -> None:
        module, grad = self._stack[-1] if self._stack else (None, torch.is_grad_enabled())
        slot = self._slots.get(module) or 'rest'
        self.forward[slot] += flops
        if grad:
            self.backward[slot] += flops * sum(
                isinstance(f, Tensor) and f.requires_grad for f in factors
            )

    def _add_sparse(self, conv: Any, x: Any) -> None:
        """A sparse convolution, whose rulebook tells which products it takes."""
        key = (conv.indice_key, 'rulebook', conv.kernel_size, conv.stride, conv.padding)
        if not len(x.features):
            return
        _, (_, rules) = x.rules[key]
        pairs = sum(map(len, rules.inputs)) + (0 if rules.centre is None else rules.num_out)
        self._add(2 * pairs * conv.in_channels * conv.out_channels, (conv.weight, x.features))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        out = func(*args, **kwargs)
        inside = self._stack[-1][0] if self._stack else None
        if packet in _FORMULAS and not isinstance(inside, SubMConv3d | SparseConv3d):
            factors = args[1:3] if packet in _WITH_ADDEND else args[:2]
            self._add(_FORMULAS[packet](*args, **kwargs, out_val=out), factors)
        return out


@contextmanager
def _rulebook(model: nn.Module) -> Iterator[None]:
    """Sparse convolutions through the backend that tells its pairs."""
    convs = [m for m in model.modules() if isinstance(m, SubMConv3d | SparseConv3d)]
    before = [conv.backend for conv in convs]
    for conv in convs:
        conv.backend = 'rulebook'
    try:
        yield
    finally:
        for conv, backend in zip(convs, before, strict=True):
            conv.backend = backend


def count_loss(model: Any, inputs: dict) -> Flops:
    """FLOPs of ``model.loss`` on preprocessed inputs and of its backward pass.

    Args:
        model: a method, in train mode and not compiled; on ``'meta'`` nothing is computed.
        inputs: as its preprocessor gives them.

    Returns:
        By slot; what no part of the model computes is ``'rest'``.
    """
    with _rulebook(model), torch.enable_grad(), _Counter(model) as counter:
        model.loss(inputs)
    return {slot: (flops, counter.backward[slot]) for slot, flops in counter.forward.items()}


def counting_model(cfg: Any, device: str = 'cpu') -> Any:
    """The config's model without memory for weights; sparse convolutions need real ones.

    Args:
        cfg: of the training.
        device: of a model with sparse convolutions.
    """
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    if any(isinstance(m, SubMConv3d | SparseConv3d) for m in model.modules()):
        return MODELS.build(cfg.model).to(device).train()
    # autocast knows no 'meta'; masks are real, since their sizes decide over what is computed
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device='cpu')
    if hasattr(model, 'has_teacher'):
        model.has_teacher = True
    return model.train()


def count_batches(model: Any, batches: Iterable[dict]) -> Flops:
    """Mean over batches of the loader.

    Args:
        model: of :func:`counting_model`.
        batches: ``inputs`` and ``data_samples``.
    """
    counts = []
    for batch in batches:
        batch = dict(inputs=dict(batch['inputs']), data_samples=batch['data_samples'])
        counts.append(count_loss(model, model.data_preprocessor(batch, True)['inputs']))
    return {
        slot: (mean(c[slot][0] for c in counts), mean(c[slot][1] for c in counts))
        for slot in sorted(counts[0], key=lambda slot: (slot == 'rest', slot))
    }


def paper_flops(
    encoder: float,
    predictor: float,
    target: float,
    tokens: int,
    batch: int,
    masks: int = 2,
    visible: float = 0.1,
) -> Flops:
    """SALT's accounting of a step (arXiv 2509.24317, appendix).

    6 N D for a trained network of N parameters and D tokens, a third of it forward, and 2 N D for
    a target that is only run; attention is ignored, and the share of visible tokens is a constant.

    Args:
        encoder: parameters.
        predictor: parameters; or those of a decoder.
        target: parameters; 0 where targets are made of the data.
        tokens: of a whole clip.
        batch: clips.
        masks: of each clip.
        visible: share of the tokens that the encoder sees under each mask.
    """
    seen = tokens * batch
    trained = dict(encoder=encoder * visible * masks * seen, predictor=predictor * masks * seen)
    step = {slot: (2 * products, 4 * products) for slot, products in trained.items()}
    return step | dict(target=(2 * target * seen, 0.0))


def _paper(cfg: Any, model: Any) -> Flops:
    """:func:`paper_flops` of a config."""
    grid = getattr(model.encoder, 'grid', ())
    if len(grid) != 3:
        raise ConfigError(
            f"the paper's convention is SALT's, for video: not for {type(model).__name__}; take "
            '--convention counted'
        )

    def size(part: nn.Module | None) -> int:
        return 0 if part is None else sum(p.numel() for p in part.parameters())

    target = 0 if model.target.policy == 'data' else size(model.target.encoder or model.encoder)
    return paper_flops(
        size(model.encoder),
        size(model.predictor),
        target,
        math.prod(grid),
        cfg.train_dataloader.batch_size * clips_per_sample(cfg),
        model.mask_generator.num_masks,
    )


def _steps(cfg: Any) -> int | None:
    """Length of the run in iterations; None where it hangs on data that isn't here."""
    if cfg.train_cfg.get('max_iters'):
        return cfg.train_cfg.max_iters
    try:
        loader = JEPARunner.build_dataloader(cfg.train_dataloader, seed=cfg.seed)
    except FileNotFoundError:
        return None
    return cfg.train_cfg.max_epochs * len(loader)


@dataclass
class FlopReport:
    """FLOPs of a process's step, and of its run where the length is known."""

    config: str
    convention: str
    batch_size: int
    step: Flops
    steps: int | None

    @property
    def total(self) -> float:
        """Of a step."""
        return sum(map(sum, self.step.values()))

    def text(self) -> str:
        """The report as a table."""
        rows = {**self.step, 'total': tuple(map(sum, zip(*self.step.values(), strict=True)))}
        lines = [
            f'{self.config}  batch {self.batch_size}  convention {self.convention}',
            f'{"GFLOP":<12} {"forward":>12} {"backward":>12} {"step":>12}{"share":>8}'
            + (f'   run of {self.steps} steps' if self.steps else ''),
        ]
        for name, (forward, backward) in rows.items():
            both = forward + backward
            cells = ''.join(f' {x / 1e9:12.2f}' for x in (forward, backward, both))
            run = f'   {both * self.steps:.4g}' if self.steps else ''
            lines.append(f'{name:<12}{cells}{100 * both / self.total:7.1f}%{run}')
        if not self.steps:
            lines.append(
                'of a run: not known, the data that tell its length are not here; give them, or '
                '--cfg-options max_iters=N'
            )
        return '\n'.join(lines)


def benchmark_flops(
    config: str,
    options: dict[str, Any] | None = None,
    convention: str = 'counted',
    draws: int = 8,
) -> FlopReport:
    """FLOPs of a pre-training config.

    Args:
        config: path.
        options: as in ``--cfg-options``.
        convention: ``'counted'``: from the tokens that are processed, mean over batches whose masks
            differ; ``'paper'``: :func:`paper_flops`.
        draws: batches.

    Returns:
        The report.

    Raises:
        ConfigError: the paper's convention for anything but video.
        ValueError: unknown convention.
    """
    if convention not in ('counted', 'paper'):
        raise ValueError(f"convention must be 'counted' or 'paper', got {convention!r}")
    init_default_scope('mmjepa')
    cfg = load_config(config, options)
    check_config(cfg)
    model = counting_model(cfg)
    if convention == 'paper':
        step = _paper(cfg, model)
    elif isinstance(next(model.parameters()), FakeTensor):
        step = count_batches(model, (synthetic_batch(cfg, model, i) for i in range(draws)))
    else:
        loader = JEPARunner.build_dataloader(cfg.train_dataloader, seed=cfg.seed)
        step = count_batches(model, itertools.islice(loader, draws))
    return FlopReport(config, convention, cfg.train_dataloader.batch_size, step, _steps(cfg))
