"""Narrow transformer that predicts the embeddings of hidden patches."""

import torch
from torch import Tensor, nn

from mmjepa.models.layers.positions import resize_positions, sincos_positions
from mmjepa.models.layers.transformer import Block, init_transformer
from mmjepa.registry import MODELS


@MODELS.register_module()
class ViTPredictor(nn.Module):
    """Predicts every target block by itself, from the context and its positions (I-JEPA).

    Args:
        grid: native rows and columns of patches.
        in_channels: D of the context tokens.
        out_channels: of the predictions; None: ``in_channels``.
        channels: width.
        depth: blocks.
        num_heads: I-JEPA takes the encoder's number.
        rescale_init: see :func:`mmjepa.models.layers.transformer.init_transformer`.
    """

    pos_embed: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        in_channels: int,
        out_channels: int | None = None,
        channels: int = 384,
        depth: int = 6,
        num_heads: int = 12,
        rescale_init: bool = False,
    ):
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.embed = nn.Linear(in_channels, channels)
        self.mask_token = nn.Parameter(torch.empty(1, 1, channels))
        self.register_buffer('pos_embed', sincos_positions(channels, *self.grid)[None])
        self.blocks = nn.ModuleList(Block(channels, num_heads, 4 * channels) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.proj = nn.Linear(channels, out_channels or in_channels)
        init_transformer(self, rescale_init)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            context: (B, K_c, D) tokens of the visible patches.
            context_ids: (B, K_c) int64 their numbers.
            target_ids: (B, M, K_t) int64 patches of M blocks.
            grid: rows and columns of this batch; None: the native ones.

        Returns:
            (B, M, K_t, D_out).
        """
        batch, blocks, hidden = target_ids.shape
        table = resize_positions(self.pos_embed, self.grid, grid or self.grid)[0]
        x = self.embed(context)
        x = x + table[context_ids].to(x.dtype)
        queries = (self.mask_token + table[target_ids]).to(x.dtype)
        x = x[:, None].expand(-1, blocks, -1, -1)
        x = torch.cat([x, queries], 2).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        x = self.proj(self.norm(x[:, -hidden:]))
        return x.unflatten(0, (batch, blocks))
