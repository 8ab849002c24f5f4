"""Pre-norm transformer blocks with timm's parameter names."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .positions import rotate


def init_transformer(module: Any, rescale: bool = False) -> None:
    """Truncated normal of 0.02 for linear and convolution weights, zero biases, unit norms.

    Args:
        module: ``nn.Module``, initialised in place, its ``blocks`` included.
        rescale: divide the output projections of block i (from 1) by sqrt(2 i). I-JEPA's code
            asks for it and then undoes it; V-JEPA's keeps it.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    if rescale:
        for number, block in enumerate(module.blocks, 1):
            for projection in (block.attn.proj, block.mlp.fc2):
                projection.weight.data.div_(math.sqrt(2 * number))


class Mlp(nn.Module):
    """Two linear layers with exact GELU; (..., D) -> (..., D)."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, each (..., N, d), through ``scaled_dot_product_attention``.

    ``keys``: (..., 1, N) bool, False for those that nobody sees.

    But for bfloat16 on CPU, where the fused kernel's backward pass takes several times as long as
    plain products (docs/benchmarks.md).
    """
    if q.device.type == 'cpu' and q.dtype == torch.bfloat16:
        logits = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        if keys is not None:
            logits = logits.masked_fill(~keys, float('-inf'))
        return logits.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys)


class Attention(nn.Module):
    """Multi-head self-attention, see :func:`attend`.

    Args:
        dim: D.
        num_heads: divides D.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'width {dim} is no multiple of {num_heads} heads')
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D).

        Args:
            x: (B, N, D).
            rope: as in :func:`.positions.rotate`.
            valid: (B, N) bool, False for tokens that no other may see; None: all are seen.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        if rope is None:  # unbound before it is turned: one copy of the gradient, not two
            q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        else:
            qk, v = qkv.permute(2, 0, 3, 1, 4).split((2, 1))
            (q, k), v = rotate(qk, rope), v.squeeze(0)
        x = attend(q, k, v, None if valid is None else valid[:, None, None])
        return self.proj(x.transpose(1, 2).flatten(2))


class DropPath(nn.Module):
    """Leaves out a residual branch for a share of the samples (stochastic depth, 1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.rate or not self.training:
            return x
        keep = 1 - self.rate
        drawn = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < keep
        return x * (drawn / keep).to(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    Args:
        dim: D.
        num_heads: of the attention.
        mlp_dim: hidden width of the MLP.
        drop_path: rate of stochastic depth.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, drop_path: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rope: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), see :class:`Attention`."""
        x = x + self.drop_path(self.attn(self.norm1(x), rope, valid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def run_block(
    block: nn.Module,
    x: Tensor,
    rope: Tensor | None,
    recompute: bool,
    valid: Tensor | None = None,
) -> Tensor:
    """``block(x, rope, valid)``, its activations recomputed in the backward pass on demand."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(block, x, rope, valid, use_reentrant=False)
    return block(x, rope, valid)
