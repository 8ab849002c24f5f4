"""Frozen features of whole samples, of any method whose ``extract_feat`` asks its encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmjepa.evaluation.progress import Progress, silent

from .feature_cache import Maker

# of the two encoders of a method; 'auto' is the one that its paper evaluates
ENCODERS = ('auto', 'target', 'online')
# 'tokens' (N, T, D) as they are, 'pooled' (N, D) averaged over the tokens
KINDS = ('tokens', 'pooled')


def depth_of(encoder: Any) -> int:
    """How many layers an encoder gives singly by ``layers(inputs, indices)``; 0: it cannot."""
    return len(encoder.blocks) if hasattr(encoder, 'layers') else 0


class LastLayers(nn.Module):
    """Stands in for an encoder and gives its last layers side by side, the last one last.

    Args:
        encoder: Has ``blocks`` and ``layers(inputs, indices)``, as :class:`JEPAViT`.
        count: How many layers.

    Raises:
        ValueError: If the encoder gives no single layers, or has fewer.
    """

    def __init__(self, encoder: nn.Module, count: int) -> None:
        super().__init__()
        if not depth_of(encoder):
            raise ValueError(
                f'{type(encoder).__name__} gives no single layers (it has no .layers()): probe its '
                'last one with --layers 1'
            )
        blocks = depth_of(encoder)
        if count > blocks:
            raise ValueError(f'the last {count} layers of an encoder of {blocks}: use --layers 1')
        self.encoder: Any = encoder
        self.indices = range(-count, 0)
        self.num_heads = getattr(encoder, 'num_heads', 1)

    def forward(self, *args: Any) -> Tensor:
        """As the encoder, (..., count * D)."""
        return torch.cat(self.encoder.layers(*args, self.indices), dim=-1)


def exported_encoder_alone(checkpoint: str | Path | None) -> bool:
    """Whether a file holds an encoder and neither target nor predictor."""
    from mmjepa.engine.checkpoint import find_state_dict, load_file

    if checkpoint is None:
        return False
    state, _ = find_state_dict(load_file(checkpoint))
    return all(key.startswith('encoder.') for key in state)


def choose_encoder(model: Any, which: str, exported: bool = False) -> str:
    """Put the encoder to probe into the model's ``encoder`` slot, where ``extract_feat`` looks.

    Args:
        model: From ``init_model``; changed for good, so made for the probe alone.
        which: Of ``ENCODERS``. 'auto': the EMA target where there is one, as the papers evaluate,
            else the online encoder (a frozen target, SALT's teacher, only by name).
        exported: The weights came from an exported encoder; the model's target has none.

    Returns:
        'target', 'online' or 'exported'.

    Raises:
        ValueError: If there is no such encoder.
    """
    if exported:
        if which != 'auto':
            raise ValueError(
                f'the file holds one exported encoder, there is no telling which: leave out '
                f'--which {which}, or probe the training checkpoint'
            )
        return 'exported'
    policy = getattr(model.target, 'policy', None)
    if which == 'target' or (which == 'auto' and policy == 'ema'):
        if policy not in ('ema', 'frozen'):
            raise ValueError(
                f'--which target: the target of {type(model).__name__} is {policy!r}, only an EMA '
                'or a frozen one is an encoder of its own; use --which online'
            )
        model.encoder = model.target.encoder
        return 'target'
    return 'online'


def weights_hash(model: Any) -> str:
    """A hash of the probed encoder's weights and buffers, and of its class."""
    digest = hashlib.sha256(type(model.encoder).__qualname__.encode())
    for key, value in sorted(model.encoder.state_dict().items()):
        digest.update(f'{key} {value.dtype} {tuple(value.shape)}'.encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_tokens(feats: Tensor) -> Tensor:
    """(B, D), (B, T, D) or a map (B, D, ...) to (B, T, D)."""
    if feats.ndim == 2:
        return feats[:, None]
    return feats if feats.ndim == 3 else feats.flatten(2).transpose(1, 2)


def with_layers(model: Any, count: int) -> Any:
    """The model, whose ``extract_feat`` now gives its last ``count`` layers side by side."""
    encoder = model.encoder.encoder if isinstance(model.encoder, LastLayers) else model.encoder
    model.encoder = encoder if count == 1 else LastLayers(encoder, count)
    return model


@torch.no_grad()
def _forward(model: Any, batch: Mapping[str, Any], amp: bool, views: int) -> Tensor:
    """(B, V, T, D), T the tokens of all clips of a view."""
    inputs = model.data_preprocessor(batch, training=False)['inputs']
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=amp):
        feats = model.extract_feat(inputs)
    tokens = as_tokens(feats.float())
    tokens = tokens.unflatten(0, (-1, inputs.get('clips_per_sample', 1)))
    return tokens.unflatten(1, (views, -1)).flatten(2, 3)


def _half(feats: Tensor) -> NDArray[np.float16]:
    if not bool(feats.isfinite().all()):
        raise ValueError('the encoder gave features with NaN or Inf; check the checkpoint')
    if float(feats.abs().max()) > np.finfo(np.float16).max:
        raise ValueError(
            f'the encoder gave features up to {float(feats.abs().max()):.3g}, beyond half '
            'precision (65,504), in which features are kept: its final norm is missing'
        )
    return feats.half().cpu().numpy()


class _Filler:
    """An array of samples that is filled batch by batch."""

    def __init__(self, count: int, make: Maker, what: str) -> None:
        self.count, self.make, self.what = count, make, what
        self.out: NDArray[np.float16] | None = None
        self.done = 0

    def add(self, feats: NDArray[np.float16]) -> None:
        if self.out is None:
            self.out = self.make((self.count, *feats.shape[1:]), np.float16)
        if feats.shape[1:] != self.out.shape[1:] or self.done + len(feats) > self.count:
            raise ValueError(
                f'{self.what}: {len(feats)} samples of shape {feats.shape[1:]} at number '
                f'{self.done} of {self.count}, expected {self.out.shape[1:]}: probes need samples '
                'of one size'
            )
        self.out[self.done : self.done + len(feats)] = feats
        self.done += len(feats)

    def finished(self) -> NDArray[np.float16]:
        if self.out is None or self.done < self.count:
            raise ValueError(f'{self.what}: the loader gave {self.done} of {self.count} samples')
        return self.out


def extract_features(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    count: int,
    wanted: Mapping[str, int],
    makers: Mapping[str, Maker] | None = None,
    amp: bool = False,
    progress: Progress = silent,
    what: str = 'features',
    views: int = 1,
) -> dict[str, NDArray[np.float16]]:
    """Features of all samples, in their order, from one pass.

    Args:
        model: In eval mode; see :func:`choose_encoder`.
        batches: What the model's preprocessor takes, ``count`` samples in all.
        count: N.
        wanted: Of ``KINDS``, each with how many of the last layers it holds.
        makers: Makes the arrays that are filled: ``make(shape, dtype)``. Default: in memory.
        amp: Forward in bfloat16; averages are taken in float32.
        progress: Called with (what, done, total).
        what: Shown as progress.
        views: V, crops of each sample: the first part of its clips is the first view's, and so on.

    Returns:
        Kind -> (N, layers * D) or (N, T, layers * D) float16, with several views (N, V, T, ...)
        tokens, T being those of all clips of a view.

    Raises:
        ValueError: If features aren't finite or are beyond half precision, if samples give
            different numbers of tokens, or if the batches don't hold ``count`` samples.
    """
    depth = max(wanted.values())
    with_layers(model, depth)
    fillers = {kind: _Filler(count, (makers or {}).get(kind, np.empty), what) for kind in wanted}
    done = 0
    for batch in batches:
        tokens = _forward(model, batch, amp, views)
        for kind, layers in wanted.items():
            feats = tokens[..., -(tokens.shape[-1] // depth) * layers :]
            if kind == 'pooled':
                feats = feats.mean((1, 2))
            elif views == 1:
                feats = feats[:, 0]
            fillers[kind].add(_half(feats))
        done += len(tokens)
        progress(what, done, count)
    return {kind: filler.finished() for kind, filler in fillers.items()}
