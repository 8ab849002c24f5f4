"""Vision transformer without class token, with timm's parameter names."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmjepa.models.layers.positions import resize_positions, rotary_table, sincos_positions
from mmjepa.models.layers.transformer import Block, init_transformer
from mmjepa.registry import MODELS

# width, depth, heads, width of the MLP
ARCHITECTURES = {
    'tiny': (192, 12, 3, 768),
    'small': (384, 12, 6, 1536),
    'base': (768, 12, 12, 3072),
    'large': (1024, 24, 16, 4096),
    'huge': (1280, 32, 16, 5120),
    'giant': (1408, 40, 16, 6144),
    'giant22': (1408, 40, 22, 6144),  # V-JEPA 2's
}


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


class PatchEmbed(nn.Module):
    """Linear embedding of patches; the parameters are those of a strided convolution.

    Args:
        patch_size: p, pixels.
        in_channels: C.
        dim: D.
    """

    def __init__(self, patch_size: int, in_channels: int, dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, images: Tensor, keep_ids: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, N or K, D), row by row; only the kept patches are embedded."""
        p = self.patch_size
        patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # B, C, h, p, w, p
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        if keep_ids is not None:
            patches = patches.gather(1, keep_ids[..., None].expand(-1, -1, patches.shape[2]))
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


@MODELS.register_module()
class JEPAViT(nn.Module):
    """ViT for JEPAs: no class token, no registers, any subset of the patches.

    Keys are timm's: ``pos_embed``, ``patch_embed.proj``, ``blocks.i.{norm1,attn.{qkv,proj},norm2,
    mlp.{fc1,fc2}}``, ``norm``. Initialised as I-JEPA's (arXiv 2301.08243).

    Args:
        arch: a name in ``ARCHITECTURES``, or (width, depth, heads, MLP width).
        img_size: native size in pixels, one number or (height, width); other sizes get
            interpolated positions.
        patch_size: p.
        in_channels: C.
        positions: ``'sincos'`` (fixed), ``'learned'``, or ``'rotary'`` (axial, in every block).
        drop_path_rate: of the last block; the others' rise to it linearly.
        checkpoint_blocks: recompute activations in the backward pass.
        final_norm: LayerNorm at the end.
        rescale_init: see :func:`.transformer.init_transformer`.

    Attributes:
        out_channels: D.
        grid: native rows and columns of patches.

    Raises:
        ValueError: unknown architecture or positions, or a size that isn't whole patches.
    """

    def __init__(
        self,
        arch: str | Sequence[int] = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        positions: str = 'sincos',
        drop_path_rate: float = 0.0,
        checkpoint_blocks: bool = False,
        final_norm: bool = True,
        rescale_init: bool = False,
    ):
        super().__init__()
        if isinstance(arch, str) and arch not in ARCHITECTURES:
            raise ValueError(f'arch must be one of {", ".join(ARCHITECTURES)}, got {arch!r}')
        if positions not in ('sincos', 'learned', 'rotary'):
            raise ValueError(
                f"positions must be 'sincos', 'learned' or 'rotary', got {positions!r}"
            )
        dim, depth, heads, mlp_dim = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        self.patch_size = patch_size
        self.img_size = _pair(img_size)
        self.grid = self.grid_of(*self.img_size)
        self.out_channels, self.num_heads = dim, heads
        self.positions = positions
        self.checkpoint_blocks = checkpoint_blocks
        self.patch_embed = PatchEmbed(patch_size, in_channels, dim)
        table = None
        if positions == 'sincos':
            self.register_buffer('pos_embed', sincos_positions(dim, *self.grid)[None])
        elif positions == 'learned':
            table = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], dim))
            self.pos_embed = table
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if final_norm else nn.Identity()
        init_transformer(self, rescale_init)
        if table is not None:
            nn.init.trunc_normal_(table, std=0.02)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in an image."""
        p = self.patch_size
        if height % p or width % p or not height or not width:
            raise ValueError(
                f'an image of {height} x {width} pixels is not whole {p} x {p} patches'
            )
        return height // p, width // p

    def _rope(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        rows, columns = (torch.arange(n, device=device) for n in grid)
        places = torch.cartesian_prod(rows, columns)
        return rotary_table(places, self.out_channels // self.num_heads)[None]

    def _tokens(self, images: Tensor, keep_ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embedded patches (B, K, D) with positions, and the table of rotary ones."""
        grid = self.grid_of(*images.shape[2:])
        tokens = self.patch_embed(images, keep_ids)
        if self.positions == 'rotary':
            table = self._rope(grid, images.device)
        else:
            table = resize_positions(self.pos_embed, self.grid, grid)
        if keep_ids is not None:
            table = table[0, keep_ids]
        if self.positions == 'rotary':
            return tokens, table
        return tokens + table.to(tokens.dtype), None

    def layers(
        self,
        images: Tensor,
        indices: Sequence[int],
        keep_ids: Tensor | None = None,
        norm: bool = True,
    ) -> list[Tensor]:
        """Tokens after some of the blocks.

        Args:
            images: (B, C, H, W).
            indices: of blocks, from 0; -1 is the last.
            keep_ids: (B, K) int64 patch numbers, row by row; None takes all.
            norm: put the final norm on each.

        Returns:
            A (B, N or K, D) tensor an index, in ascending order of the blocks.

        Raises:
            ValueError: an index out of range.
        """
        depth = len(self.blocks)
        wanted = sorted({i % depth for i in indices if -depth <= i < depth})
        if len(wanted) < len(indices):
            raise ValueError(f'indices {list(indices)}: equal ones, or none of {depth} blocks')
        x, rope = self._tokens(images, keep_ids)
        found = []
        for index, block in enumerate(self.blocks[: wanted[-1] + 1]):
            if self.checkpoint_blocks and torch.is_grad_enabled():
                x = checkpoint(block, x, rope, use_reentrant=False)
            else:
                x = block(x, rope)
            if index in wanted:
                found.append(self.norm(x) if norm else x)
        return found

    def forward(self, images: Tensor, keep_ids: Tensor | None = None) -> Tensor:
        """Embed patches.

        Args:
            images: (B, C, H, W), whole patches.
            keep_ids: (B, K) int64 patch numbers, row by row, in any order; None takes all.

        Returns:
            (B, K, D), in the order of ``keep_ids``.
        """
        return self.layers(images, (-1,), keep_ids)[0]

    def get_layer_depth(self, name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates.

        Args:
            name: of the parameter.
            prefix: of this module in the model, with its dot.

        Returns:
            0 for patches and positions, i + 1 for block i, depth + 1 for the rest; and depth + 2.
        """
        count = len(self.blocks) + 2
        name = name.removeprefix(prefix)
        if name.startswith(('patch_embed.', 'pos_embed')):
            return 0, count
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, count
        return count - 1, count
