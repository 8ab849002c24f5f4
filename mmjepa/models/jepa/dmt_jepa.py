"""DMT-JEPA: I-JEPA whose targets are made of similar neighbours."""

from typing import Any

import torch
from torch import Tensor, nn

from mmjepa.models.masks import BlockMasks
from mmjepa.models.targets import NeighbourTargets, TargetEncoder
from mmjepa.registry import MODELS

from .ijepa import IJEPA


@MODELS.register_module()
class DMTJEPA(IJEPA):
    """DMT-JEPA: Discriminative Masked Targets for Joint-Embedding Predictive Architecture.

    arXiv 2405.17995. As :class:`IJEPA`, but the target of a patch is what an aggregation head
    makes of its most similar neighbours, queried by the image's mean; a head of the same form,
    of which the target's is an EMA copy, mixes the context tokens before the predictor.

    Deviations from the released code, which cannot run (its MLP is undefined):
        * each image's own mean is the query (``neighbours.query='released'``: the mean of another
          image for nearly every patch, as tiled there);
        * neighbours end at the image's borders (``border='wrap'``: a torus, as released;
          ``'block'``: within the target block, as in the paper's figure);
        * heads are in the checkpoints;
        * keys and values are projected once a token, and only target patches are aggregated, with
          the same result.

    Args:
        neighbours: :class:`NeighbourTargets`.
        head: :class:`AggregationHead`; width and heads are the encoder's where not given. None:
            no head on either side (ablation; then ``neighbours.aggregate`` is 'mean' or 'max').
        context_head: use a head on the context, too; False is an ablation.
        **kwargs: of :class:`IJEPA`.

    Raises:
        ValueError: attention without a head, or a head that nothing uses.
    """

    def __init__(
        self,
        encoder: dict | nn.Module,
        target: dict | TargetEncoder,
        predictor: dict | nn.Module,
        neighbours: dict | NeighbourTargets,
        head: dict | nn.Module | None = None,
        context_head: bool = True,
        **kwargs: Any,
    ):
        encoder = MODELS.build(encoder) if isinstance(encoder, dict) else encoder
        if isinstance(head, dict):
            head = {**dict(dim=encoder.out_channels, num_heads=encoder.num_heads), **head}
        super().__init__(encoder, target, predictor, head=head, **kwargs)
        self.neighbours = MODELS.build(neighbours) if isinstance(neighbours, dict) else neighbours
        attention = self.neighbours.aggregate == 'attention'
        if attention and self.head is None:
            raise ValueError("neighbours.aggregate='attention' needs a head=dict(...)")
        if self.head is not None and not (attention or context_head):
            raise ValueError(
                'nothing uses the head: take it away, or set context_head=True or '
                "neighbours.aggregate='attention'"
            )
        self.context_head = context_head and self.head is not None
        if self.head is not None and not context_head:
            self.head.requires_grad_(False)  # nothing would train it

    def _context(self, images: Tensor, masks: BlockMasks) -> Tensor:
        context = super()._context(images, masks)
        return self.head(context) if self.context_head else context

    def _targets(self, images: Tensor, masks: BlockMasks, grid: tuple[int, int]) -> Tensor:
        tokens = self._target_tokens(images)
        head = self.head if self.target.head is None else self.target.head
        with torch.set_grad_enabled(self.target.lets_gradient_through):
            return self.neighbours(tokens, masks, grid, head)
