"""Attentive probes: one cross-attention block and a linear head, several trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import HeadSchedule, batch_order, cosine_factor

# (rows) -> (B, N, D) tokens and (B,) labels on the device of the probe
TokenReader = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class AttentiveSpec:
    """One probe of a joint training.

    Attributes:
        lr: Peak learning rate of AdamW.
        weight_decay: Of all weight matrices.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01


class AttentiveHeads:
    """H probes with the same initial weights.

    A learned query looks at the normalised tokens (multi-head), followed by an MLP, both with
    residuals, then LayerNorm and a linear classifier. With one query the keys need no projection
    of the tokens: q (W x) = (W^T q) x, and the values can be projected after the average. The
    result is the same for a fraction of the multiplications; a key's bias would change nothing.

    Args:
        specs: The probes.
        dim: D, channels of a token.
        num_heads: Attention heads; divides D.
        num_classes: C.
        seed: Of the initial weights.
        device: Where the weights lie.

    Raises:
        ValueError: If ``num_heads`` doesn't divide ``dim``.
    """

    def __init__(
        self,
        specs: Sequence[AttentiveSpec],
        dim: int,
        num_heads: int,
        num_classes: int,
        seed: int = 0,
        device: torch.device | str = 'cpu',
    ) -> None:
        if dim % num_heads:
            raise ValueError(f'{dim} channels cannot be split over {num_heads} attention heads')
        self.specs, self.num_heads = list(specs), num_heads
        generator = torch.Generator().manual_seed(seed)
        each = dim // num_heads
        shapes = {
            'query': (num_heads, each),
            'key': (num_heads, each, dim),
            'value': (num_heads, dim, each),
            'proj': (dim, dim),
            'mlp_in': (dim, 4 * dim),
            'mlp_out': (4 * dim, dim),
            'classes': (dim, num_classes),
        }
        biases = {'proj_bias': dim, 'mlp_in_bias': 4 * dim, 'mlp_out_bias': dim}
        self.weights: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            one = torch.empty(shape)
            torch.nn.init.trunc_normal_(one, std=0.02, generator=generator)
            self.weights[name] = one
        for name, size in (*biases.items(), ('classes_bias', num_classes)):
            self.weights[name] = torch.zeros(size)
        self.weights = {
            name: one.expand(len(specs), *one.shape).clone().to(device).requires_grad_()
            for name, one in self.weights.items()
        }
        self._moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in self.weights.values()]
        self._lr = torch.tensor([s.lr for s in specs], device=device)
        self._decay = torch.tensor([s.weight_decay for s in specs], device=device)
        self._step = 0

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, N, D) tokens to (H, B, C)."""
        w = self.weights
        x = F.layer_norm(tokens.float(), tokens.shape[-1:])
        scale = math.sqrt(w['query'].shape[-1])
        lookup = torch.einsum('had,hadc->hac', w['query'], w['key']) / scale
        attention = torch.einsum('bnc,hac->hban', x, lookup).softmax(-1)
        pooled = torch.einsum('hban,bnc->hbac', attention, x)
        found = torch.einsum('hbac,hacd->hbad', pooled, w['value']).flatten(2)  # (H, B, D)
        y = w['query'].flatten(1)[:, None] + found @ w['proj'] + w['proj_bias'][:, None]
        hidden = F.layer_norm(y, y.shape[-1:]) @ w['mlp_in'] + w['mlp_in_bias'][:, None]
        y = y + F.gelu(hidden) @ w['mlp_out'] + w['mlp_out_bias'][:, None]
        y = F.layer_norm(y, y.shape[-1:])
        return y @ w['classes'] + w['classes_bias'][:, None]

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """One AdamW step of every probe on its own mean cross-entropy."""
        with torch.enable_grad():
            logits = self.logits(tokens)
            loss = F.cross_entropy(
                logits.flatten(0, 1), labels.repeat(len(logits)), reduction='sum'
            ) / len(labels)  # a sum over the probes: none sees another's gradient
            gradients = torch.autograd.grad(loss, list(self.weights.values()))
        self._step += 1
        with torch.no_grad():
            for i, (name, value) in enumerate(self.weights.items()):
                self._adamw(i, value, gradients[i], factor, decays='bias' not in name)

    def _adamw(self, i: int, value: Tensor, gradient: Tensor, factor: float, decays: bool) -> None:
        """torch.optim.AdamW with a rate for each probe."""
        shape = (-1, *[1] * (value.ndim - 1))
        lr = (factor * self._lr).view(shape)
        first, second = self._moments[i]
        first.lerp_(gradient, 0.1)
        second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        if decays:
            value.mul_(1 - lr * self._decay.view(shape))
        root = (second / (1 - 0.999**self._step)).sqrt_().add_(1e-8)
        value.sub_(lr / (1 - 0.9**self._step) * first / root)

    @torch.no_grad()
    def predict(self, read: TokenReader, rows: Tensor, batch_size: int = 256) -> Tensor:
        """(H, len(rows)) int64 classes; -1 from a probe that diverged."""
        found = []
        for chunk in rows.split(batch_size):
            logits = self.logits(read(chunk)[0])
            found.append(torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1))
        return torch.cat(found, dim=1)


def fit_attentive(
    read: TokenReader,
    rows: Tensor,
    num_classes: int,
    specs: Sequence[AttentiveSpec],
    num_heads: int,
    schedule: HeadSchedule | None = None,
    seed: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> AttentiveHeads:
    """Train attentive probes jointly with AdamW; each comes out as if it were trained alone.

    Args:
        read: Gives tokens and labels of rows.
        rows: (N,) int64 numbers of the training samples.
        num_classes: C.
        specs: The probes.
        num_heads: Attention heads.
        schedule: Epochs and batch size (no warm-up; cosine to 0).
        seed: Of the initial weights and of the order of the samples.
        told: Called with (steps done, steps).

    Returns:
        The trained probes.

    Raises:
        ValueError: Without samples or probes, or if the heads don't divide the channels.

    Source: the attentive probe of V-JEPA (arXiv 2404.08471), on any method's tokens.
    """
    if not len(rows) or not specs:
        raise ValueError(f'attentive probes: {len(rows)} samples and {len(specs)} probes')
    schedule = schedule or HeadSchedule(epochs=20)
    tokens, _ = read(rows[:1])
    heads = AttentiveHeads(specs, tokens.shape[-1], num_heads, num_classes, seed, tokens.device)
    steps = schedule.steps(len(rows))
    for step, places in enumerate(batch_order(len(rows), schedule, seed)):
        heads.step(*read(rows[places]), cosine_factor(step, steps))
        if told is not None:
            told(step + 1, steps)
    return heads
