"""Predicts the latents of hidden features."""

import torch
from torch import Tensor, nn

from mmjepa.registry import MODELS

from .encoder import PostNormStack
from .tokenizer import sincos_table


@MODELS.register_module()
class TabularPredictor(nn.Module):
    """Narrow transformer on context latents and position queries (T-JEPA, arXiv 2410.05016).

    Args:
        num_features: D.
        in_channels: H of the latents.
        channels: P, even.
        depth: blocks.
        num_heads: divides P.
        ffn_channels: hidden width of the blocks' MLP.
        dropout: in the blocks and behind them.
    """

    positions: Tensor

    def __init__(
        self,
        num_features: int,
        in_channels: int,
        channels: int = 16,
        depth: int = 16,
        num_heads: int = 4,
        ffn_channels: int = 256,
        dropout: float = 0.0,
    ):
        super().__init__()
        table = sincos_table(num_features, channels, 10_000.0, interleaved=False)
        self.register_buffer('positions', table, persistent=False)
        self.embed = nn.Linear(in_channels, channels)
        self.mask_token = nn.Parameter(torch.empty(1, 1, channels))
        self.stack = PostNormStack(channels, depth, num_heads, ffn_channels, dropout)
        self.norm = nn.LayerNorm(channels)
        self.proj = nn.Linear(channels, in_channels)
        for part in (self.embed, self.proj):
            nn.init.trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, context: Tensor, context_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Predict each set of targets by itself.

        Args:
            context: (B, n_c, H) latents of the visible features, without [REG].
            context_ids: (B, n_c) int64 their numbers.
            target_ids: (B, K, n_t) int64 features of K sets.

        Returns:
            (B, K, n_t, H).
        """
        batch, count, hidden = target_ids.shape
        seen = self.embed(context) + self.positions[context_ids]
        # the sets share the projected context; attention mixes it with each of them
        seen = seen[:, None].expand(-1, count, -1, -1)
        queries = (self.mask_token + self.positions[target_ids]).to(seen.dtype)
        x = self.stack(torch.cat([seen, queries], 2).flatten(0, 1))[:, -hidden:]
        return self.proj(self.norm(x)).unflatten(0, (batch, count))
