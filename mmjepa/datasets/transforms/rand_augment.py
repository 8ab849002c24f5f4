"""RandAugment, as MAE fine-tunes with it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mmjepa.registry import TRANSFORMS

# mean colour of ImageNet, for what moves into the image
_FILL = (124, 116, 104)


def _affine(image: Any, *matrix: float) -> Any:
    from PIL import Image

    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=_FILL
    )


def _enhance(name: str) -> Callable[[Any, float, int], Any]:
    def apply(image: Any, level: float, sign: int) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + sign * 0.9 * level)

    return apply


def _ops(name: str, argument: Callable[[float], tuple] = lambda level: ()) -> Callable:
    def apply(image: Any, level: float, sign: int) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image, *argument(level))

    return apply


def _solarize_add(image: Any, level: float, sign: int) -> Any:
    table = [min(255, value + int(110 * level)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def _rotate(image: Any, level: float, sign: int) -> Any:
    from PIL import Image

    return image.rotate(sign * 30 * level, Image.Resampling.BICUBIC, fillcolor=_FILL)


# (image, level in [0, 1], 1 or -1) -> image; all grow stronger with the level
OPERATIONS: dict[str, Callable[[Any, float, int], Any]] = {
    'autocontrast': _ops('autocontrast'),
    'equalize': _ops('equalize'),
    'invert': _ops('invert'),
    'rotate': _rotate,
    'posterize': _ops('posterize', lambda level: (max(1, 4 - int(4 * level)),)),
    'solarize': _ops('solarize', lambda level: (256 - int(256 * level),)),
    'solarize_add': _solarize_add,
    'color': _enhance('Color'),
    'contrast': _enhance('Contrast'),
    'brightness': _enhance('Brightness'),
    'sharpness': _enhance('Sharpness'),
    'shear_x': lambda image, level, sign: _affine(image, 1, sign * 0.3 * level, 0, 0, 1, 0),
    'shear_y': lambda image, level, sign: _affine(image, 1, 0, 0, sign * 0.3 * level, 1, 0),
    'translate_x': lambda image, level, sign: _affine(
        image, 1, 0, sign * 0.45 * level * image.width, 0, 1, 0
    ),
    'translate_y': lambda image, level, sign: _affine(
        image, 1, 0, 0, 0, 1, sign * 0.45 * level * image.height
    ),
}


@TRANSFORMS.register_module()
class RandAugmentImage:
    """Puts a few random operations on ``results['image']``, (3, H, W) uint8, red first.

    Each of ``num_ops`` draws an operation out of ``OPERATIONS`` (again possible), which acts with
    probability ``prob``, at a level of a normal distribution cut to [0, 10], half of the times in
    the other direction where it has one. The defaults are MAE's: magnitude 9, standard deviation
    .5, levels that all grow stronger. Draws from ``results['rng']`` only.

    Args:
        magnitude: mean of the level, 10 is the strongest.
        std: standard deviation of the level.
        num_ops: operations an image.
        prob: of each operation.

    Raises:
        ValueError: an argument is out of its range.

    Source: Cubuk et al. 2020 (1909.13719); numbers of MAE's recipe (2111.06377).
    """

    def __init__(
        self, magnitude: float = 9, std: float = 0.5, num_ops: int = 2, prob: float = 0.5
    ) -> None:
        if not 0 <= magnitude <= 10 or std < 0 or num_ops < 1 or not 0 <= prob <= 1:
            raise ValueError(
                'magnitude must lie in [0, 10], std be at least 0, num_ops at least 1, prob in '
                f'[0, 1]; got {magnitude=}, {std=}, {num_ops=}, {prob=}'
            )
        self.magnitude, self.std, self.num_ops, self.prob = magnitude, std, num_ops, prob

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Augments."""
        from PIL import Image

        rng: np.random.Generator = results['rng']
        names = list(OPERATIONS)
        image = Image.fromarray(np.ascontiguousarray(results['image'].transpose(1, 2, 0)))
        for _ in range(self.num_ops):
            name = names[rng.integers(len(names))]
            level = float(np.clip(rng.normal(self.magnitude, self.std), 0, 10)) / 10
            sign = 1 if rng.random() < 0.5 else -1
            if rng.random() < self.prob:
                image = OPERATIONS[name](image, level, sign)
        results['image'] = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
        return results
