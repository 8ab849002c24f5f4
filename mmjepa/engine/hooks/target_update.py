"""The only place where an EMA target moves."""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor

from mmjepa.engine.schedules import interpolate
from mmjepa.registry import HOOKS


def _paired(kind: str, target: Iterable, online: Iterable) -> tuple[list[Tensor], list[Tensor]]:
    target, online = dict(target), dict(online)
    if target.keys() != online.keys():
        raise ValueError(
            f'target and context encoder differ in {kind}: '
            f'{sorted(target.keys() ^ online.keys())[:5]}'
        )
    return list(target.values()), [online[name] for name in target]


@HOOKS.register_module()
class TargetUpdateHook(Hook):
    """target <- m * target + (1 - m) * context after each optimizer step that really happened.

    m is the weight of the OLD target, as in the papers (MMEngine's EMA inverts it), and a closed
    form of (iteration, max_iters): ``curve`` from ``momentum[0]`` at iteration 0 to
    ``momentum[1]`` at max_iters. Iterations that only accumulate gradients and steps that a loss
    scaler skipped don't move the target.

    Args:
        momentum: m at the start and at the end.
        curve: ``'linear'``, ``'cosine'`` or ``'constant'``.

    Raises:
        ValueError: m outside [0, 1].
    """

    priority = 'NORMAL'

    def __init__(self, momentum: tuple[float, float] = (0.996, 1.0), curve: str = 'linear'):
        if not all(0 <= m <= 1 for m in momentum):
            raise ValueError(f'momentum must lie in [0, 1], got {momentum}')
        interpolate(curve, momentum[0], momentum[1], 0.0)
        self.momentum = (momentum[0], momentum[1])
        self.curve = curve
        self._stepped = False

    def momentum_at(self, iteration: int, max_iters: int) -> float:
        """M used after iteration ``iteration`` (from 0)."""
        return interpolate(self.curve, self.momentum[0], self.momentum[1], iteration / max_iters)

    def attach(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Pair the parameters and watch the optimizer.

        Args:
            model: a method; nothing happens unless its target moves.
            optimizer: the optimizer whose steps count.

        Raises:
            ValueError: the target's parameters don't match the context encoder's.
        """
        target = model.target
        self._active = target.moves
        if not self._active:
            return
        self._buffer_policy = target.buffer_policy
        self._target, self._online = [], []
        self._target_buffers, self._online_buffers = [], []
        for copied, source in target.pairs(model.encoder, model.head):
            theirs, ours = _paired(
                'parameters', copied.named_parameters(), source.named_parameters()
            )
            self._target += theirs
            self._online += ours
            theirs, ours = _paired('buffers', copied.named_buffers(), source.named_buffers())
            self._target_buffers += theirs
            self._online_buffers += ours
        self._handle = optimizer.register_step_post_hook(self._on_step)
        target.has_updater = True

    def before_train(self, runner: Any) -> None:
        """Attach to the runner's model and optimizer."""
        self.attach(runner.bare_model, runner.optim_wrapper.optimizer)

    def after_train(self, runner: Any) -> None:
        """Let go: a later training needs a hook of its own."""
        if self._active:
            self._handle.remove()
            runner.bare_model.target.has_updater = False

    def _on_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # fused optimizers under a loss scaler are called even for a step that they then skip
        skipped = getattr(optimizer, 'found_inf', None)
        self._stepped = skipped is None or not bool(skipped)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """Move the target once."""
        torch._foreach_lerp_(self._target, self._online, 1 - momentum)
        for target, online in zip(self._target_buffers, self._online_buffers, strict=True):
            if self._buffer_policy == 'copy' or (
                self._buffer_policy == 'ema' and not target.is_floating_point()
            ):
                target.copy_(online)
            elif self._buffer_policy == 'ema':
                target.lerp_(online, 1 - momentum)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Move the target if the optimizer stepped."""
        if self._active and self._stepped:
            self._stepped = False
            self.update(self.momentum_at(runner.iter, runner.max_iters))
