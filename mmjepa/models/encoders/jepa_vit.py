"""Vision transformer of images and clips, without class token, with timm's parameter names."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.layers.positions import resize_positions, rotary_grid, sincos_positions
from mmjepa.models.layers.transformer import Block, init_transformer, run_block
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
    'gigantic': (1664, 48, 16, 8192),
}
POSITIONS = ('sincos', 'learned', 'rotary', 'rotary_vjepa2')


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


class PatchEmbed(nn.Module):
    """Linear embedding of patches; the parameters are those of a strided convolution.

    Args:
        patch_size: p, pixels.
        in_channels: C.
        dim: D.
        tubelet_size: frames of a patch of a clip; None: patches of images.
    """

    def __init__(
        self, patch_size: int, in_channels: int, dim: int, tubelet_size: int | None = None
    ):
        super().__init__()
        self.proj: nn.Conv2d | nn.Conv3d
        if tubelet_size is None:
            self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        else:
            size = (tubelet_size, patch_size, patch_size)
            self.proj = nn.Conv3d(in_channels, dim, size, size)

    def forward(self, images: Tensor, keep_ids: Tensor | None = None) -> Tensor:
        """(B, C, [T,] H, W) -> (B, N or K, D), row by row; only kept patches are embedded."""
        sides = self.proj.kernel_size
        patches = images
        for axis in reversed(range(len(sides))):
            patches = patches.unflatten(2 + axis, (-1, sides[axis]))
        places = range(2, patches.ndim, 2)
        patches = patches.permute(0, *places, 1, *(axis + 1 for axis in places))
        patches = patches.flatten(1, len(sides)).flatten(2)
        if keep_ids is not None:
            patches = patches.gather(1, keep_ids[..., None].expand(-1, -1, patches.shape[2]))
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


@MODELS.register_module()
class JEPAViT(nn.Module):
    """ViT for JEPAs of images and video: no class token, no registers, any subset of the patches.

    Keys are timm's: ``pos_embed``, ``patch_embed.proj``, ``blocks.i.{norm1,attn.{qkv,proj},norm2,
    mlp.{fc1,fc2}}``, ``norm``. Initialised as I-JEPA's (arXiv 2301.08243). With ``num_frames`` it
    is that of V-JEPA (2404.08471) or, with rotary positions, of V-JEPA 2 (2506.09985): the patches
    are tubelets, numbered time by time and row by row, and a still image is a clip of equal frames.

    Args:
        arch: a name in ``ARCHITECTURES``, or (width, depth, heads, MLP width).
        img_size: native size in pixels, one number or (height, width); other sizes get
            interpolated positions.
        patch_size: p.
        in_channels: C.
        positions: ``'sincos'`` (fixed), ``'learned'``, ``'rotary'`` (axial, in every block), or
            ``'rotary_vjepa2'``, the form that V-JEPA 2's released weights need, which is no
            rotation (see :func:`.positions.rotary_table`).
        drop_path_rate: of the last block; the others' rise to it linearly.
        checkpoint_blocks: recompute activations in the backward pass.
        final_norm: LayerNorm at the end.
        rescale_init: see :func:`.transformer.init_transformer`.
        num_frames: T, native length of clips; None: the encoder takes images.
        tubelet_size: frames of a tubelet.
        uniform_power: shares of 3D sine-cosine positions, see :func:`.positions.sincos_positions`.
        row_first: order of 2D ones, see there.

    Attributes:
        out_channels: D.
        grid: native rows and columns of patches; for clips, times, rows and columns of tubelets.
        rotary: whether positions turn queries and keys.

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
        num_frames: int | None = None,
        tubelet_size: int = 2,
        uniform_power: bool = True,
        row_first: bool = False,
    ):
        super().__init__()
        if isinstance(arch, str) and arch not in ARCHITECTURES:
            raise ValueError(f'arch must be one of {", ".join(ARCHITECTURES)}, got {arch!r}')
        if positions not in POSITIONS:
            raise ValueError(f'positions must be one of {", ".join(POSITIONS)}, got {positions!r}')
        dim, depth, heads, mlp_dim = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        self.patch_size = patch_size
        self.img_size = _pair(img_size)
        self.num_frames, self.tubelet_size = num_frames, tubelet_size
        self.grid = self.grid_of(*([num_frames] if num_frames else []), *self.img_size)
        self.out_channels, self.num_heads = dim, heads
        self.positions = positions
        self.rotary = positions.startswith('rotary')
        self.checkpoint_blocks = checkpoint_blocks
        tubelet = None if num_frames is None else tubelet_size
        self.patch_embed = PatchEmbed(patch_size, in_channels, dim, tubelet)
        table = None
        if positions == 'sincos':
            fixed = sincos_positions(
                dim, *self.grid, uniform_power=uniform_power, row_first=row_first
            )
            self.register_buffer('pos_embed', fixed[None])
        elif positions == 'learned':
            table = nn.Parameter(torch.empty(1, math.prod(self.grid), dim))
            self.pos_embed = table
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6) if final_norm else nn.Identity()
        init_transformer(self, rescale_init)
        if table is not None:
            nn.init.trunc_normal_(table, std=0.02)

    def grid_of(self, *sizes: int) -> tuple[int, ...]:
        """Patches along every axis.

        Args:
            *sizes: (H, W) of images, or (T, H, W) of clips; an encoder of clips takes (H, W) for
                a still image, which lasts ``num_frames``.

        Returns:
            Rows and columns; for an encoder of clips, times, rows and columns.

        Raises:
            ValueError: not whole patches, or clips for an encoder of images.
        """
        p, t = self.patch_size, self.tubelet_size
        *frames, height, width = sizes
        if height % p or width % p or not height or not width:
            raise ValueError(
                f'an image of {height} x {width} pixels is not whole {p} x {p} patches: img_size '
                'must be a multiple of patch_size'
            )
        if self.num_frames is None:
            if frames:
                raise ValueError('an encoder of images got clips: give it num_frames')
            return height // p, width // p
        length = frames[0] if frames else self.num_frames
        if length % t or not length:
            raise ValueError(
                f'a clip of {length} frames is not whole tubelets of {t} frames: num_frames must '
                'be a multiple of tubelet_size'
            )
        return length // t, height // p, width // p

    def _tokens(self, images: Tensor, keep_ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embedded patches (B, K, D) with positions, and the table of rotary ones."""
        grid = self.grid_of(*images.shape[2:])
        if self.num_frames is not None and images.ndim == 4:
            images = images[:, :, None].expand(-1, -1, self.num_frames, -1, -1)
        tokens = self.patch_embed(images, keep_ids)
        if self.rotary:
            head = self.out_channels // self.num_heads
            tiled = self.positions == 'rotary_vjepa2'
            table = rotary_grid(grid, head, tiled, images.device)[None]
        else:
            table = resize_positions(self.pos_embed, self.grid, grid)
        if keep_ids is not None:
            table = table[0, keep_ids]
        if self.rotary:
            return tokens, table
        return tokens + table.to(tokens.dtype), None

    def layers(
        self,
        images: Tensor,
        indices: Sequence[int],
        keep_ids: Tensor | None = None,
        norm: bool = True,
        valid: Tensor | None = None,
    ) -> list[Tensor]:
        """Tokens after some of the blocks.

        Args:
            images: (B, C, H, W), or clips (B, C, T, H, W).
            indices: of blocks, from 0; -1 is the last.
            keep_ids: (B, K) int64 patch numbers, time by time, row by row; None takes all.
            norm: put the final norm on each.
            valid: as in :meth:`forward`.

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
            x = run_block(block, x, rope, self.checkpoint_blocks, valid)
            if index in wanted:
                found.append(self.norm(x) if norm else x)
        return found

    def forward(
        self, images: Tensor, keep_ids: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """Embed patches.

        Args:
            images: (B, C, H, W), or clips (B, C, T, H, W), whole patches.
            keep_ids: (B, K) int64 patch numbers, time by time, row by row, in any order; None
                takes all.
            valid: (B, K) bool, False for kept patches that the others must not see; None: all
                are seen.

        Returns:
            (B, K, D), in the order of ``keep_ids``.
        """
        return self.layers(images, (-1,), keep_ids, valid=valid)[0]

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
