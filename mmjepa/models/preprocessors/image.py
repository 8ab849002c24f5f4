"""Normalisation of images on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmjepa.registry import MODELS

from .jepa import JEPAPreprocessor


@MODELS.register_module()
class ImagePreprocessor(JEPAPreprocessor):
    """Bytes -> normalised floats, after the copy: a quarter of what floats would be to copy.

    Args:
        mean: of red, green and blue in [0, 255]. Default: ImageNet's.
        std: the same.
        non_blocking: overlap the copy with computation (needs pinned memory).

    Raises:
        ValueError: not three means and three positive standard deviations.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        non_blocking: bool = True,
    ):
        super().__init__(non_blocking=non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(
                f'mean and std take three numbers (red, green, blue), std above 0: {mean=}, {std=}'
            )
        self.register_buffer('mean', torch.tensor(mean).float().view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).float().view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Normalise ``inputs['image']``, (B, 3, S, S) uint8 or a list of (3, S, S).

        Returns:
            ``inputs``: ``images`` (B, 3, S, S) float32 on the device, and ``seeds`` (B,) int64,
            which stay on the CPU: masks of images are drawn by the host, and a seed that went to
            the device would have to come back.

        Raises:
            KeyError: no ``image`` among the inputs.
            ValueError: not uint8, not three channels, or images of different sizes.
        """
        inputs = dict(data['inputs'])
        if 'image' not in inputs:
            raise KeyError(
                f"ImagePreprocessor: no 'image' among the inputs {sorted(inputs)}; the pipeline "
                "ends with PackJEPAInputs(keys=['image'])"
            )
        pixels = _batch(inputs.pop('image'))
        samples = data['data_samples']
        inputs = dict(self.cast_data(inputs))
        # uint8 - float32 is one kernel, without a float copy of the bytes
        images = self.cast_data(pixels) - self.mean
        inputs['images'] = images.div_(self.std)
        inputs['seeds'] = torch.tensor([s['sample_seed'] for s in samples], dtype=torch.int64)
        return dict(inputs=inputs, data_samples=samples)


def _batch(images: Tensor | Sequence[Tensor]) -> Tensor:
    """(B, 3, S, S) uint8 on the host."""
    if not isinstance(images, Tensor):
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) != 1:
            raise ValueError(f'ImagePreprocessor: images of one shape, got {shapes}')
        images = torch.stack(list(images))
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(
            'ImagePreprocessor: images must be (B, 3, H, W) uint8, got '
            f'{tuple(images.shape)} {images.dtype}; it normalises them itself'
        )
    return images
