"""Narrow transformer that predicts the embeddings, or the pixels, of hidden patches."""

import torch
from torch import Tensor, nn

from mmjepa.models.layers.positions import resize_positions, rotary_grid, sincos_positions
from mmjepa.models.layers.transformer import Block, init_transformer, run_block
from mmjepa.registry import MODELS


@MODELS.register_module()
class ViTPredictor(nn.Module):
    """Predicts target patches from the context and their positions, each set of them by itself.

    I-JEPA (arXiv 2301.08243) gives several sets an image for one context, V-JEPA (2404.08471) one
    for each context.

    Args:
        grid: native rows and columns of patches; for clips, times, rows and columns.
        in_channels: D of the context tokens.
        out_channels: of the predictions; None: ``in_channels``.
        channels: width.
        depth: blocks.
        num_heads: I-JEPA and V-JEPA take the encoder's number.
        rescale_init: see :func:`mmjepa.models.layers.transformer.init_transformer`.
        positions: ``'sincos'`` (added), ``'rotary'`` or ``'rotary_vjepa2'``, see
            :class:`.JEPAViT`.
        uniform_power: see :func:`mmjepa.models.layers.positions.sincos_positions`.
        row_first: see there.
        mask_tokens: number of learned queries to choose from; V-JEPA has one a mask generator.
        mask_token_std: of their truncated normal start; 0: zeros, as V-JEPA's.
        checkpoint_blocks: recompute activations in the backward pass.

    Raises:
        ValueError: unknown positions, or no mask token.
    """

    pos_embed: Tensor

    def __init__(
        self,
        grid: tuple[int, ...],
        in_channels: int,
        out_channels: int | None = None,
        channels: int = 384,
        depth: int = 6,
        num_heads: int = 12,
        rescale_init: bool = False,
        positions: str = 'sincos',
        uniform_power: bool = True,
        row_first: bool = False,
        mask_tokens: int = 1,
        mask_token_std: float = 0.02,
        checkpoint_blocks: bool = False,
    ):
        super().__init__()
        if positions not in ('sincos', 'rotary', 'rotary_vjepa2'):
            raise ValueError(
                f"positions must be 'sincos', 'rotary' or 'rotary_vjepa2', got {positions!r}"
            )
        if mask_tokens < 1:
            raise ValueError(f'mask_tokens must be 1 or more, got {mask_tokens}')
        self.grid = tuple(grid)
        self.positions, self.head_dim = positions, channels // num_heads
        self.checkpoint_blocks = checkpoint_blocks
        self.embed = nn.Linear(in_channels, channels)
        self.mask_token = nn.Parameter(torch.zeros(mask_tokens, 1, channels))
        if positions == 'sincos':
            table = sincos_positions(
                channels, *self.grid, uniform_power=uniform_power, row_first=row_first
            )
            self.register_buffer('pos_embed', table[None])
        self.blocks = nn.ModuleList(Block(channels, num_heads, 4 * channels) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.proj = nn.Linear(channels, out_channels or in_channels)
        init_transformer(self, rescale_init)
        if mask_token_std:
            nn.init.trunc_normal_(self.mask_token, std=mask_token_std)

    def forward(
        self,
        context: Tensor,
        context_ids: Tensor,
        target_ids: Tensor,
        grid: tuple[int, ...] | None = None,
        mask_index: int = 0,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Predict.

        Args:
            context: (B, K_c, D) tokens of the visible patches.
            context_ids: (B, K_c) int64 their numbers.
            target_ids: (B, M, K_t) int64 patches of M sets, or (B, K_t) of one.
            grid: of this batch, as in the constructor; None: the native one.
            mask_index: which mask token asks.
            valid: (B, K_c + K_t) bool, False for tokens of context and set that the others must
                not see; None: all are seen.

        Returns:
            (B, M, K_t, D_out), or (B, K_t, D_out) for one set.

        Raises:
            ValueError: there is no such mask token, or ``valid`` for several sets.
        """
        if not 0 <= mask_index < len(self.mask_token):
            raise ValueError(f'mask_index {mask_index}: there are {len(self.mask_token)} tokens')
        if valid is not None and target_ids.ndim == 3:
            raise ValueError('valid needs target_ids of one set, (B, K_t)')
        sets = target_ids if target_ids.ndim == 3 else target_ids[:, None]
        batch, count, hidden = sets.shape
        grid = tuple(grid or self.grid)
        x, queries = self.embed(context), self.mask_token[mask_index]
        rope = None
        if self.positions == 'sincos':
            table = resize_positions(self.pos_embed, self.grid, grid)[0]
            x = x + table[context_ids].to(x.dtype)
            queries = queries + table[sets]
        else:
            tiled = self.positions == 'rotary_vjepa2'
            rope = rotary_grid(grid, self.head_dim, tiled, x.device)
            ids = torch.cat([context_ids[:, None].expand(-1, count, -1), sets], 2)
            rope = rope[ids.flatten(0, 1)]
        x = x[:, None].expand(-1, count, -1, -1)
        queries = queries.to(x.dtype).expand(batch, count, hidden, -1)
        x = torch.cat([x, queries], 2).flatten(0, 1)
        for block in self.blocks:
            x = run_block(block, x, rope, self.checkpoint_blocks, valid)
        x = self.proj(self.norm(x[:, -hidden:]))
        return x.unflatten(0, (batch, count)) if target_ids.ndim == 3 else x
