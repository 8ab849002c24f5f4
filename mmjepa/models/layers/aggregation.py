"""DMT-JEPA's aggregation head: attention of one query over a set of tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS

from .transformer import Mlp, init_transformer


class ClassAttention(nn.Module):
    """Multi-head attention of one query with separate projections.

    Args:
        dim: D.
        num_heads: divides D.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'width {dim} is no multiple of {num_heads} heads')
        self.num_heads = num_heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
        """Attend.

        Args:
            query: (R, D), projected here.
            keys: (R, L, D), projected already.
            values: (R, L, D), projected already.
            seen: (R, L) bool, False is left out; None sees all.

        Returns:
            (R, D).
        """
        heads = (self.num_heads, -1)
        x = F.scaled_dot_product_attention(
            self.q(query)[:, None].unflatten(-1, heads).transpose(1, 2),
            keys.unflatten(-1, heads).transpose(1, 2),
            values.unflatten(-1, heads).transpose(1, 2),
            attn_mask=None if seen is None else seen[:, None, None],
        )
        return self.proj(x.transpose(1, 2).flatten(1))


class AggregationBlock(nn.Module):
    """Class attention and MLP, each behind a norm, with residuals.

    Args:
        dim: D.
        num_heads: of the attention.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = ClassAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, 4 * dim)

    def keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Projections of (..., D) tokens, which don't depend on who looks at them."""
        tokens = self.norm1(tokens)
        return self.attn.k(tokens), self.attn.v(tokens)

    def attend(
        self, query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """(R, D) of the query over itself and (R, L, D) projected tokens."""
        own_key, own_value = self.keys_and_values(query)
        if seen is not None:
            seen = F.pad(seen, (1, 0), value=True)
        keys = torch.cat([own_key[:, None], keys], 1)
        values = torch.cat([own_value[:, None], values], 1)
        return self.attn(self.norm1(query), keys, values, seen)

    def feed(self, x: Tensor) -> Tensor:
        """The MLP with its residual."""
        return x + self.mlp(self.norm2(x))


@MODELS.register_module()
class AggregationHead(nn.Module):
    """Two class-attention blocks and a norm (DMT-JEPA, arXiv 2405.17995), without positions.

    Args:
        dim: D.
        num_heads: the encoder's.
        depth: blocks.
    """

    def __init__(self, dim: int, num_heads: int, depth: int = 2):
        super().__init__()
        self.blocks: Any = nn.ModuleList(AggregationBlock(dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_transformer(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Context side: what the tokens' mean attends to is added to every token.

        Args:
            tokens: (B, K, D).

        Returns:
            (B, K, D).
        """
        for block in self.blocks:
            attended = block.attend(tokens.mean(1), *block.keys_and_values(tokens))
            tokens = block.feed(tokens + attended[:, None])
        return self.norm(tokens)

    def aggregate(self, query: Tensor, tokens: Tensor, ids: Tensor, seen: Tensor) -> Tensor:
        """Target side: a query for each row, over the row's own few tokens.

        Args:
            query: (R, D).
            tokens: (T, D) tokens of the batch; each is projected once, however many rows see it.
            ids: (R, k) int64 into ``tokens``.
            seen: (R, k) bool, False is left out.

        Returns:
            (R, D).
        """
        for block in self.blocks:
            keys, values = block.keys_and_values(tokens)
            query = block.feed(query + block.attend(query, keys[ids], values[ids], seen))
        return self.norm(query)
