"""Attentive probes: attention over tokens and a linear head, several trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .heads import HeadSchedule, batch_order, cosine_factor
from .views import average_views

# (rows) -> (B, N, D) tokens and (B,) labels on the device of the probe
TokenReader = Callable[[Tensor], tuple[Tensor, Tensor]]
ROOM = 2**28  # numbers of activations that a step holds at a time, about


@dataclass(frozen=True)
class AttentiveSpec:
    """One probe of a joint training.

    Attributes:
        lr: Peak learning rate of AdamW.
        weight_decay: Of all weight matrices.
    """

    lr: float = 1e-3
    weight_decay: float = 0.01


def _scales(name: str) -> bool:
    return name.endswith('_scale')


def _decays(name: str) -> bool:
    return not name.endswith(('_scale', '_bias'))


def _shapes(dim: int, num_heads: int, num_classes: int, depth: int) -> dict[str, tuple[int, ...]]:
    """Of a probe's weights; what doesn't decay isn't random at first either."""
    each = dim // num_heads
    shapes: dict[str, tuple[int, ...]] = {
        'query': (num_heads, each),
        'key': (num_heads, each, dim),
        'value': (num_heads, dim, each),
        'value_bias': (dim,),
        'classes': (dim, num_classes),
        'classes_bias': (num_classes,),
    }
    linear = {'mlp_in': (dim, 4 * dim), 'mlp_out': (4 * dim, dim)}
    attention = {'qkv': (dim, 3 * dim), 'proj': (dim, dim)}
    blocks = {f'blocks.{i}.': {**attention, **linear} for i in range(depth - 1)}
    for block, layers in {**blocks, '': linear}.items():
        for name, shape in layers.items():
            shapes |= {f'{block}{name}': shape, f'{block}{name}_bias': shape[1:]}
        for norm in ('norm1', 'norm2'):
            shapes |= {f'{block}{norm}_scale': (dim,), f'{block}{norm}_bias': (dim,)}
    return shapes


class AttentiveHeads:
    """H probes with the same initial weights.

    A learned query looks at the normalised tokens (multi-head), followed by an MLP, both with
    residuals, and a linear classifier: V-JEPA's probe (arXiv 2404.08471), whose cross-attention has
    no projection of its output and which ends without a norm. With ``depth`` above 1 the tokens
    first pass ``depth - 1`` blocks of self-attention: the probe of V-JEPA 2 (2506.09985).

    With one query the keys need no projection of the tokens: q (W x) = (W^T q) x, and the values
    can be projected after the average. The result is the same for a fraction of the
    multiplications; a key's bias would change nothing.

    Args:
        specs: The probes.
        dim: D, channels of a token.
        num_heads: Attention heads; divides D.
        num_classes: C.
        depth: Blocks, the cross-attention included.
        seed: Of the initial weights.
        device: Where the weights lie.
        amp: Blocks of self-attention in bfloat16.

    Raises:
        ValueError: If ``num_heads`` doesn't divide ``dim``, or without a block.
    """

    def __init__(
        self,
        specs: Sequence[AttentiveSpec],
        dim: int,
        num_heads: int,
        num_classes: int,
        depth: int = 1,
        seed: int = 0,
        device: torch.device | str = 'cpu',
        amp: bool = False,
    ) -> None:
        if dim % num_heads:
            raise ValueError(f'{dim} channels cannot be split over {num_heads} attention heads')
        if depth < 1:
            raise ValueError(f'an attentive probe has one block at least, got depth {depth}')
        self.specs, self.num_heads, self.depth, self.amp = list(specs), num_heads, depth, amp
        self.weights: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, shape in _shapes(dim, num_heads, num_classes, depth).items():
            one = torch.ones(shape) if _scales(name) else torch.zeros(shape)
            if _decays(name):
                torch.nn.init.trunc_normal_(one, std=0.02, generator=generator)
            one = one.expand(len(specs), *shape).clone().to(device)
            self.weights[name] = one.requires_grad_()
        self._moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in self.weights.values()]
        self._lr = torch.tensor([s.lr for s in specs], device=device)
        self._decay = torch.tensor([s.weight_decay for s in specs], device=device)
        self._step = 0

    def _linear(self, x: Tensor, name: str) -> Tensor:
        """(H, M, D) to (H, M, D'), each probe's by its own weights."""
        return torch.baddbmm(self.weights[f'{name}_bias'][:, None], x, self.weights[name])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        found = F.layer_norm(x, x.shape[-1:])
        return (
            found * self.weights[f'{name}_scale'][:, None] + self.weights[f'{name}_bias'][:, None]
        )

    def _mlp(self, x: Tensor, block: str) -> Tensor:
        """The residual branch of (H, M, D)."""
        hidden = self._linear(self._norm(x, f'{block}norm2'), f'{block}mlp_in')
        return self._linear(F.gelu(hidden), f'{block}mlp_out')

    def _block(self, x: Tensor, block: str, count: int) -> Tensor:
        """Self-attention among ``count`` tokens each, and an MLP: (H, M, D) to the same."""
        qkv = self._linear(self._norm(x, f'{block}norm1'), f'{block}qkv')
        qkv = qkv.unflatten(1, (-1, count)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(1, 2)  # each (H * B, heads, N, D / heads)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self._linear(found.reshape(x.shape).to(x.dtype), f'{block}proj')
        return x + self._mlp(x, block)

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, N, D) tokens to (H, B, C)."""
        w, x, axes = self.weights, tokens.float(), 'bnc'
        if self.depth > 1:
            x, axes = x.expand(len(self.specs), *x.shape).flatten(1, 2), 'hbnc'
            for i in range(self.depth - 1):
                with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
                    x = self._block(x, f'blocks.{i}.', tokens.shape[1])
            x = x.float().unflatten(1, tokens.shape[:2])
        x = F.layer_norm(x, x.shape[-1:])
        lookup = torch.einsum('had,hadc->hac', w['query'], w['key']) * w['norm1_scale'][:, None]
        lookup = lookup / math.sqrt(w['query'].shape[-1])  # the norm's bias would change nothing
        attention = torch.einsum(f'{axes},hac->hban', x, lookup).softmax(-1)
        pooled = torch.einsum(f'hban,{axes}->hbac', attention, x)
        pooled = pooled * w['norm1_scale'][:, None, None] + w['norm1_bias'][:, None, None]
        found = torch.einsum('hbac,hacd->hbad', pooled, w['value']).flatten(2)  # (H, B, D)
        y = w['query'].flatten(1)[:, None] + found + w['value_bias'][:, None]
        return self._linear(y + self._mlp(y, ''), 'classes')

    def step(self, tokens: Tensor, labels: Tensor, factor: float) -> None:
        """One AdamW step of every probe on its own mean cross-entropy."""
        weights = list(self.weights.values())
        gradients: tuple[Tensor, ...] | None = None
        for part, truth in zip(
            *(x.split(self._room(tokens)) for x in (tokens, labels)), strict=True
        ):
            with torch.enable_grad():
                logits = self.logits(part)
                loss = F.cross_entropy(
                    logits.flatten(0, 1), truth.repeat(len(logits)), reduction='sum'
                ) / len(labels)  # a sum over the probes: none sees another's gradient
                found = torch.autograd.grad(loss, weights)
            if gradients is not None:
                found = tuple(a + b for a, b in zip(gradients, found, strict=True))
            gradients = found
        assert gradients is not None
        self._step += 1
        with torch.no_grad():
            for i, (name, value) in enumerate(self.weights.items()):
                self._adamw(i, value, gradients[i], factor, _decays(name))

    def _room(self, tokens: Tensor) -> int:
        """Samples whose activations are held at a time."""
        _, count, dim = tokens.shape
        each = count * (2 * dim + len(self.specs) * (self.num_heads + 20 * dim * (self.depth - 1)))
        return max(1, ROOM // each)

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
        """(H, len(rows)) int64 classes; -1 from a probe that diverged.

        ``read`` may give (B, V, N, D), V views of each sample: their softmaxes are averaged.
        """
        found = []
        for chunk in rows.split(batch_size):
            tokens = read(chunk)[0]
            views = tokens.shape[1] if tokens.ndim == 4 else 1
            tokens = tokens.flatten(0, -3)
            parts = [self.logits(part) for part in tokens.split(self._room(tokens))]
            logits = torch.cat(parts, dim=1).unflatten(1, (-1, views))
            scores = average_views(logits)
            found.append(torch.where(scores.isfinite().all(-1), scores.argmax(-1), -1))
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
    depth: int = 1,
    amp: bool = False,
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
        depth: Blocks of a probe.
        amp: Blocks of self-attention in bfloat16.

    Returns:
        The trained probes.

    Raises:
        ValueError: Without samples or probes, or if the heads don't divide the channels.

    Source: the attentive probes of V-JEPA (arXiv 2404.08471) and V-JEPA 2 (2506.09985), on any
    method's tokens.
    """
    if not len(rows) or not specs:
        raise ValueError(f'attentive probes: {len(rows)} samples and {len(specs)} probes')
    schedule = schedule or HeadSchedule(epochs=20)
    tokens, _ = read(rows[:1])
    heads = AttentiveHeads(
        specs, tokens.shape[-1], num_heads, num_classes, depth, seed, tokens.device, amp
    )
    steps = schedule.steps(len(rows))
    for step, places in enumerate(batch_order(len(rows), schedule, seed)):
        heads.step(*read(rows[places]), cosine_factor(step, steps))
        if told is not None:
            told(step + 1, steps)
    return heads
