"""Subsets of features: what a row shows and what is predicted."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_bits
from mmjepa.registry import MODELS

_STREAM = 31  # of counter_bits; others belong to other generators


@dataclass
class FeatureMasks:
    """Subsets of the features of each row; int64 numbers, in random order.

    Attributes:
        context: (B, n_c) visible features.
        targets: (B, K, n_t) features of each target set; sets may overlap.
    """

    context: Tensor
    targets: Tensor


@MODELS.register_module()
class FeatureSubsetMaskGenerator:
    """One context set and K target sets a row, drawn from the rest of its features.

    The sizes are shared by a batch (so that tensors are rectangular), the sets belong to the row.
    Everything is drawn on the device of the seeds, for all rows at once.

    Args:
        num_features: D.
        context_share: least and largest share of the features that is visible.
        target_share: least and largest share of the features in a target set.
        num_targets: K.
        semantics: ``'paper'``: K sets that differ; ``'released'``: K times the same one, as the
            released code shuffles one array in place.

    Raises:
        ValueError: a share that gives no feature, or sizes that never fit into the row.
    """

    def __init__(
        self,
        num_features: int,
        context_share: tuple[float, float] = (0.1363, 0.3682),
        target_share: tuple[float, float] = (0.1556, 0.6222),
        num_targets: int = 4,
        semantics: Literal['paper', 'released'] = 'paper',
    ):
        if num_targets < 1:
            raise ValueError(f'num_targets must be at least 1, got {num_targets}')
        if semantics not in ('paper', 'released'):
            raise ValueError(f"semantics must be 'paper' or 'released', got {semantics!r}")
        for name, (low, high) in (('context_share', context_share), ('target_share', target_share)):
            if not 0 < low <= high <= 1:
                raise ValueError(f'{name} must ascend within (0, 1], got {(low, high)}')
            if round(num_features * low) < 1:
                raise ValueError(
                    f'{name}: {low} of num_features={num_features} rounds to no feature; the '
                    f'least share is {0.5 / num_features:.4f}, exclusive'
                )
        self.num_features, self.num_targets = num_features, num_targets
        self.context_range = tuple(round(num_features * share) for share in context_share)
        self.target_range = tuple(round(num_features * share) for share in target_share)
        if self.context_range[0] == self.context_range[1]:
            raise ValueError(
                f'context_share: {context_share} of num_features={num_features} leaves one size, '
                f'{self.context_range[0]}; its ends must differ by a feature, such as '
                f'context_share={(1 / num_features, 2 / num_features)}'
            )
        if self.context_range[0] + self.target_range[0] > num_features:
            raise ValueError(
                f'context_share and target_share: {self.context_range[0]} visible and '
                f'{self.target_range[0]} predicted features at least, of num_features='
                f'{num_features}'
            )
        self.semantics = semantics

    def sizes(self, seed: int) -> tuple[int, int]:
        """n_c and n_t of a batch, drawn again until both fit into a row."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            drawn = torch.rand(2, generator=generator).tolist()
            context, target = (
                low + round((high - low) * share)
                for (low, high), share in zip(
                    (self.context_range, self.target_range), drawn, strict=True
                )
            )
            if context + target <= self.num_features:
                return context, target

    @torch.no_grad()
    def __call__(self, seeds: Tensor, batch_seed: int) -> FeatureMasks:
        """Draw the masks of a batch.

        Args:
            seeds: (B,) int64, one a row.
            batch_seed: decides over the sizes.

        Returns:
            The masks, on the device of ``seeds``.
        """
        n_context, n_target = self.sizes(batch_seed)
        features = torch.arange(self.num_features, device=seeds.device)
        order = counter_bits(seeds[:, None], features, _STREAM).argsort(1)
        rest = order[:, n_context:]
        count = 1 if self.semantics == 'released' else self.num_targets
        number = torch.arange(1, count + 1, device=seeds.device)[:, None] * self.num_features
        keys = counter_bits(seeds[:, None, None], number + features[n_context:], _STREAM)
        chosen = keys.argsort(2)[..., :n_target]
        targets = rest[:, None].expand(-1, count, -1).gather(2, chosen)
        return FeatureMasks(order[:, :n_context], targets.expand(-1, self.num_targets, -1))
