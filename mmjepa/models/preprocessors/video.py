"""Flips and normalisation of clips on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_uniform
from mmjepa.registry import MODELS

from .image import ImagePreprocessor

FLIP_STREAM = 32  # of random numbers; masks have lower ones


@MODELS.register_module()
class VideoPreprocessor(ImagePreprocessor):
    """Bytes of clips -> normalised floats, some clips mirrored, after the copy to the device.

    Args:
        mean: of red, green and blue in [0, 255]. Default: ImageNet's.
        std: the same.
        flip_prob: share of the clips whose frames are all mirrored left to right; in training only.
        non_blocking: overlap the copy with computation (needs pinned memory).

    Raises:
        ValueError: not three means and three positive standard deviations, or no probability.
    """

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        flip_prob: float = 0.5,
        non_blocking: bool = True,
    ):
        super().__init__(mean, std, non_blocking)
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob must lie in [0, 1], got {flip_prob}')
        self.flip_prob = flip_prob

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Normalise ``inputs['video']``, (B, n, T, H, W, 3) uint8 or a list of (n, T, H, W, 3).

        Returns:
            ``inputs``: ``videos`` (B * n, 3, T, H, W) float32 on the device (in memory the colours
            of a pixel stay neighbours); ``seeds`` (B * n,) int64 on the CPU, that of a sample for
            each of its n clips, which so share their masks; and ``clips_per_sample``, n.

        Raises:
            KeyError: no ``video`` among the inputs.
            ValueError: not uint8, not three colours, or clips of different sizes.
        """
        inputs = dict(data['inputs'])
        if 'video' not in inputs:
            raise KeyError(
                f"VideoPreprocessor: no 'video' among the inputs {sorted(inputs)}; the pipeline "
                "ends with PackJEPAInputs(keys=['video'])"
            )
        pixels = _batch(inputs.pop('video'))
        samples, clips = data['data_samples'], pixels.shape[1]
        seeds = torch.tensor([s['sample_seed'] for s in samples], dtype=torch.int64)
        inputs = dict(self.cast_data(inputs))
        pixels = self.cast_data(pixels)
        if training and self.flip_prob:
            drawn = counter_uniform(seeds[:, None], torch.arange(clips), stream=FLIP_STREAM)
            flip = self.cast_data(drawn < self.flip_prob)
            # of bytes, before they become floats
            pixels = torch.where(flip[..., None, None, None, None], pixels.flip(-2), pixels)
        videos = pixels.flatten(0, 1).permute(0, 4, 1, 2, 3) - self.mean[..., None]
        inputs['videos'] = videos.div_(self.std[..., None])
        inputs['seeds'] = seeds.repeat_interleave(clips)
        inputs['clips_per_sample'] = clips
        return dict(inputs=inputs, data_samples=samples)


def _batch(videos: Tensor | Sequence[Tensor]) -> Tensor:
    """(B, n, T, H, W, 3) uint8 on the host."""
    if not isinstance(videos, Tensor):
        shapes = sorted({tuple(video.shape) for video in videos})
        if len(shapes) != 1:
            raise ValueError(f'VideoPreprocessor: clips of one shape, got {shapes}')
        videos = torch.stack(list(videos))
    if videos.ndim != 6 or videos.shape[-1] != 3 or videos.dtype != torch.uint8:
        raise ValueError(
            'VideoPreprocessor: video must be (B, n, T, H, W, 3) uint8, got '
            f'{tuple(videos.shape)} {videos.dtype}; it normalises clips itself'
        )
    return videos
