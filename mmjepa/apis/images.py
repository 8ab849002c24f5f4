"""Tokens of an image file, or of pixels in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .sweeps import preprocess

Image = str | Path | NDArray[np.uint8]


def read_image(image: Image, size: int) -> Tensor:
    """The centre of an image: shorter side resized to ``size``, then cut to a square.

    Args:
        image: a file, or (H, W, 3) uint8, red first.
        size: pixels.

    Returns:
        (3, size, size) uint8.

    Raises:
        ValueError: an array of another kind; a file that can't be used (``BadSampleError``).
    """
    from mmjepa.datasets.transforms import ResizeCenterCrop

    view = ResizeCenterCrop(size, size)
    if isinstance(image, str | Path):
        return torch.from_numpy(view({'path': str(image)})['image'])
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'an image in memory is (H, W, 3) uint8, red first; got {image.shape} {image.dtype}'
        )
    return torch.from_numpy(view.cut(image[:, :, ::-1]))


def image_inputs(model: Any, image: Image, seed: int = 0) -> dict[str, Any]:
    """The ``inputs`` of ``extract_feat`` and ``inspect``: a batch of one image.

    Args:
        model: an image method from :func:`init_model`.
        image: see :func:`read_image`.
        seed: of the masks.

    Raises:
        TypeError: the model's encoder has no image size.
        ValueError: the image can't be used.
    """
    size = getattr(model.encoder, 'img_size', None)
    if size is None or size[0] != size[1]:
        raise TypeError(
            f'{type(model.encoder).__name__} takes no square images; for sweeps there is '
            'extract_bev'
        )
    packed = dict(
        inputs=dict(image=read_image(image, size[0])), data_samples=dict(sample_seed=seed)
    )
    return preprocess(model, [packed])


@torch.no_grad()
def extract_tokens(model: Any, image: Image) -> Tensor:
    """Patch tokens of a whole image.

    Args:
        model: from :func:`init_model`.
        image: a file, or (H, W, 3) uint8, red first; its centre is taken, see :func:`read_image`.

    Returns:
        (h, w, D) on the model's device.

    Example:
        >>> model = init_model('configs/ijepa/vit_base16_in1k.py', 'epoch_300.pth')
        >>> tokens = extract_tokens(model, 'cat.jpg')  # (14, 14, 768)
    """
    inputs = image_inputs(model, image)
    grid = model.encoder.grid_of(*inputs['images'].shape[2:])
    was_training = model.training
    model.eval()
    try:
        return model.extract_feat(inputs)[0].unflatten(0, grid)
    finally:
        model.train(was_training)
