"""Mixup and CutMix of a batch on its device, drawn from the samples' seeds."""

import math

import numpy as np
from torch import Tensor

from mmjepa.registry import MODELS


@MODELS.register_module()
class MixImages:
    """Mixes every image of a batch with the next one, all in the same way.

    Mixup blends two images with a weight of Beta(mixup, mixup); CutMix pastes a box of the next
    image, whose share of the area is of Beta(cutmix, cutmix) before it is cut at the border. Where
    both are on, a coin decides. What is drawn is a function of the seeds, and so of the run's seed,
    the iteration and the rank: a resumed run repeats it. (Ranks draw for themselves: the same
    global batch on more ranks is mixed in another way.)

    Args:
        mixup: alpha; 0 turns it off.
        cutmix: alpha; 0 turns it off.
        prob: share of the batches that are mixed.

    Raises:
        ValueError: both are off, or a number is out of its range.

    Source: Zhang et al. 2017 (1710.09412), Yun et al. 2019 (1905.04899).
    """

    def __init__(self, mixup: float = 0.8, cutmix: float = 1.0, prob: float = 1.0) -> None:
        if min(mixup, cutmix) < 0 or mixup + cutmix == 0 or not 0 < prob <= 1:
            raise ValueError(
                'mixup and cutmix must be at least 0 and not both 0, prob in (0, 1]; got '
                f'{mixup=}, {cutmix=}, {prob=} (mixing=None mixes nothing)'
            )
        self.mixup, self.cutmix, self.prob = mixup, cutmix, prob

    def __call__(self, images: Tensor, targets: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes images and targets.

        Args:
            images: (B, 3, H, W) floating.
            targets: (B, C) class probabilities.
            seeds: (B,) int64 of the samples, on the CPU.

        Returns:
            New images and targets of the same shapes; targets in the shares of the pixels.
        """
        rng = np.random.default_rng(seeds.tolist())
        if rng.random() >= self.prob:
            return images, targets
        cut = rng.random() < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))  # of the image itself
        if cut:
            images, share = paste_box(images, share, rng)
        else:
            images = images * share + images.roll(-1, 0) * (1 - share)
        return images, targets * share + targets.roll(-1, 0) * (1 - share)


def paste_box(images: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Pastes a box of the next image of the batch.

    Args:
        images: (B, 3, H, W).
        share: of the pixels that stay, before the box is cut at the border.
        rng: draws the centre of the box.

    Returns:
        New images, and the share of the pixels that did stay.
    """
    height, width = images.shape[2:]
    spans = []
    for size in (height, width):
        centre, half = int(rng.integers(size)), int(size * math.sqrt(1 - share)) // 2
        spans.append((max(0, centre - half), min(size, centre + half)))
    (top, bottom), (left, right) = spans
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.roll(-1, 0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
