"""Target policies shared by all methods."""

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmjepa.registry import MODELS

Policy = Literal['ema', 'frozen', 'stop_grad', 'data', 'online_grad']


@MODELS.register_module()
class TargetEncoder(nn.Module):
    """Produces the targets of a JEPA.

    Args:
        policy: ``'ema'``: a copy of the context encoder, moved by ``TargetUpdateHook`` alone;
            ``'frozen'``: a copy, or an encoder of its own, that never moves; ``'stop_grad'``: the
            context encoder itself without gradient; ``'data'``: no encoder, targets are made from
            the inputs by ``transform`` (pixels, occupancy, raw features); ``'online_grad'``: the
            context encoder with gradient, a negative control that collapses.
        mode: mode the copy keeps whatever ``model.train()`` is called with. ``'train'`` makes its
            BatchNorm use batch statistics: right for AD-L-JEPA, whose target buffers never follow
            the context encoder's (arXiv 2501.04969). ``'eval'`` for encoders without BatchNorm.
        buffers: what ``TargetUpdateHook`` does with buffers of an EMA copy: ``'keep'`` leaves the
            copy's own, ``'copy'`` takes the context encoder's, ``'ema'`` averages them.
        encoder: for ``'frozen'``: config of an encoder of its own; None copies the context encoder.
        transform: config or callable applied to the targets (required for ``'data'``).

    Raises:
        ValueError: unknown policy or mode, or an option that the policy can't use.
    """

    def __init__(
        self,
        policy: Policy = 'ema',
        mode: Literal['train', 'eval'] = 'eval',
        buffers: Literal['keep', 'copy', 'ema'] = 'keep',
        encoder: dict | nn.Module | None = None,
        transform: dict | Callable | None = None,
    ):
        super().__init__()
        for name, value, allowed in (
            ('policy', policy, ('ema', 'frozen', 'stop_grad', 'data', 'online_grad')),
            ('mode', mode, ('train', 'eval')),
            ('buffers', buffers, ('keep', 'copy', 'ema')),
        ):
            if value not in allowed:
                raise ValueError(f'{name} must be one of {allowed}, got {value!r}')
        if encoder is not None and policy != 'frozen':
            raise ValueError(f"an encoder of its own needs policy='frozen', not {policy!r}")
        if policy == 'data' and transform is None:
            raise ValueError("policy='data' needs a transform that makes targets from the inputs")
        if policy == 'online_grad':
            warnings.warn(
                "policy='online_grad' lets the gradient through the target: a negative control "
                'that collapses, not a way to train',
                stacklevel=2,
            )
        self.policy = policy
        self.mode = mode
        self.buffer_policy = buffers
        self.encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        self.transform = MODELS.build(transform) if isinstance(transform, dict) else transform
        self.head: nn.Module | None = None
        self._is_copy = False
        self.has_updater = False  # set by TargetUpdateHook while it is at work

    @property
    def moves(self) -> bool:
        """Whether the target needs ``TargetUpdateHook``."""
        return self.policy == 'ema'

    @property
    def lets_gradient_through(self) -> bool:
        """Whether targets are made with gradient."""
        return self.policy == 'online_grad' and torch.is_grad_enabled()

    def attach(self, online: nn.Module, head: nn.Module | None = None) -> None:
        """Copy the initialised context encoder, and its head, where the policy wants a copy."""
        if self.policy in ('ema', 'frozen') and self.encoder is None:
            self.encoder, self.head = copy.deepcopy(online), copy.deepcopy(head)
            self._is_copy = True
        for part in self._parts():
            part.requires_grad_(False)
        self.train(self.training)

    def _parts(self) -> list[nn.Module]:
        return [part for part in (self.encoder, self.head) if part is not None]

    def pairs(self, online: nn.Module, head: nn.Module | None) -> list[tuple[nn.Module, nn.Module]]:
        """Each copy with its original.

        Raises:
            ValueError: there is a head on one side only.
        """
        if (self.head is None) != (head is None):
            raise ValueError('the target and the model differ: only one of them has a head')
        both = ((self.encoder, online), (self.head, head))
        return [
            (copied, source) for copied, source in both if copied is not None and source is not None
        ]

    def sync(self, online: nn.Module, head: nn.Module | None = None) -> None:
        """Take over the context encoder's weights and buffers (before the first step)."""
        if self._is_copy:
            for copied, source in self.pairs(online, head):
                copied.load_state_dict(source.state_dict())

    def train(self, mode: bool = True) -> 'TargetEncoder':
        """Set the mode of everything but the copies, which keep ``self.mode``."""
        super().train(mode)
        for part in self._parts():
            part.train(self.mode == 'train')
        return self

    def forward(
        self, online: nn.Module, *args: Any, method: str = 'forward', **kwargs: Any
    ) -> Tensor | Any:
        """Make targets; without gradient unless the policy is ``'online_grad'``.

        Args:
            online: the context encoder.
            *args: inputs of the encoder, or of the transform for ``'data'``.
            method: method of the encoder to call.
            **kwargs: passed on with ``args``.
        """
        with torch.set_grad_enabled(self.lets_gradient_through):
            if self.policy == 'data':
                assert self.transform is not None
                return self.transform(*args, **kwargs)
            encoder = online if self.encoder is None else self.encoder
            out = getattr(encoder, method)(*args, **kwargs)
            return out if self.transform is None else self.transform(out)
