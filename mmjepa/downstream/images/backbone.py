"""Our ViT as the backbone of mmdet's detectors and mmseg's segmentors."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmjepa.models.encoders.jepa_vit import JEPAViT
from mmjepa.registry import MODELS

from .vitdet_attention import GridAttention


@MODELS.register_module()
class JEPAViTBackbone(JEPAViT):
    """``JEPAViT`` that gives feature maps, optionally with ViTDet's attention (2203.16527).

    Keys are those of ``JEPAViT``; ``rel_pos`` adds ``blocks.i.attn.rel_pos_{h,w}``, zero at the
    start, where the network computes what the pre-trained one does.

    Args:
        out_indices: blocks whose outputs are given, from 0; -1 is the last.
        window_size: side of the attention windows in patches; 0: no windows.
        global_blocks: blocks that attend to the whole image all the same.
        rel_pos: decomposed relative positions in every block.
        frozen: always in eval mode and without gradients.
        **vit: of ``JEPAViT``. ``final_norm`` is put on every output.

    Raises:
        ValueError: ``global_blocks`` without windows or out of range, or windows or relative
            positions beside rotary ones; an encoder of clips.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (-1,),
        window_size: int = 0,
        global_blocks: Sequence[int] = (),
        rel_pos: bool = False,
        frozen: bool = False,
        **vit: Any,
    ):
        super().__init__(**vit)
        if self.num_frames is not None:
            raise ValueError('num_frames: feature maps are of images, leave it None')
        depth, everywhere = len(self.blocks), set(global_blocks)
        if not everywhere <= set(range(depth if window_size else 0)):
            raise ValueError(
                f'global_blocks={list(global_blocks)} must be among the {depth} blocks from 0, '
                'and need window_size > 0'
            )
        if self.rotary and (window_size or rel_pos):
            raise ValueError(
                "window_size and rel_pos need positions='sincos' or 'learned': rotary ones hold "
                'for whole images alone'
            )
        self.out_indices = tuple(out_indices)
        block: Any
        for index, block in enumerate(self.blocks):
            window = 0 if index in everywhere else window_size
            sides = (window, window) if window else (self.grid[0], self.grid[1])
            block.attn = GridAttention(block.attn, window, sides if rel_pos else None)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False).train()

    def _tokens(self, images: Tensor, keep_ids: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in ``JEPAViT``, on their grid: (B, h, w, D)."""
        if keep_ids is not None:
            raise ValueError('feature maps need all patches: keep_ids must be None')
        try:
            grid = self.grid_of(*images.shape[2:])
        except ValueError as error:
            raise ValueError(
                f'{str(error).partition(": ")[0]}: set pad_size_divisor (mmdet) or size_divisor '
                '(mmseg) in data_preprocessor to a multiple of the patch size'
            ) from None
        tokens, rope = super()._tokens(images, None)
        return tokens.unflatten(1, grid), rope

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Feature maps.

        Args:
            images: (B, C, H, W), whole patches, of any size.

        Returns:
            A (B, D, h, w) map for each of ``out_indices``, in ascending order of the blocks.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.layers(images, self.out_indices)
        return tuple(x.permute(0, 3, 1, 2).contiguous() for x in maps)

    def train(self, mode: bool = True) -> 'JEPAViTBackbone':
        """Set the mode; a frozen backbone stays in eval mode."""
        return super().train(mode and not self.frozen)
