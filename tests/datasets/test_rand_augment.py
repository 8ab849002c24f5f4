"""RandAugment: every operation does what its name says, and the seed decides all."""

import numpy as np
import pytest
from image_scenes import photo, ramp
from PIL import Image

from mmjepa.datasets.transforms import RandAugmentImage
from mmjepa.datasets.transforms.rand_augment import _FILL, OPERATIONS


def run(name, level=0.9, sign=1, pixels=None):
    pixels = photo(32, 40) if pixels is None else pixels
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), level, sign)).astype(int)


def test_there_are_the_fifteen_operations_of_the_recipe():
    assert len(OPERATIONS) == 15
    pixels = photo(32, 40) // 2 + 40
    for name in OPERATIONS:
        for sign in (-1, 1):
            out = run(name, sign=sign, pixels=pixels)
            assert out.shape == pixels.shape and out.min() >= 0 and out.max() <= 255
            assert (out != pixels).any(), name


@pytest.mark.parametrize('name', sorted(set(OPERATIONS) - {'autocontrast', 'equalize', 'invert'}))
def test_operations_grow_with_the_level(name):
    noise = np.random.default_rng(0).integers(-20, 20, (32, 40, 3))
    pixels = np.clip(ramp(32, 40) + noise, 0, 255).astype(np.uint8)
    changes = [np.abs(run(name, level, 1, pixels) - pixels).mean() for level in (0.1, 0.5, 0.9)]
    assert changes[0] < changes[1] < changes[2], changes


def test_operations_by_hand():
    pixels = photo(32, 40)
    assert (run('invert') == 255 - pixels.astype(int)).all()
    assert (run('posterize', 0.9) == (pixels & 0b10000000)).all()
    assert (run('posterize', 1.0) == (pixels & 0b10000000)).all()  # never nothing
    solarized = np.where(pixels < 26, pixels, 255 - pixels.astype(int))
    assert (run('solarize', 0.9) == solarized).all()
    added = np.where(pixels < 128, np.minimum(255, pixels.astype(int) + 99), pixels)
    assert (run('solarize_add', 0.9) == added).all()
    assert np.abs(run('brightness', 0.5, -1) - pixels * 0.55).max() <= 1
    brighter = np.minimum(255, pixels * 1.45)
    assert np.abs(run('brightness', 0.5) - brighter).max() <= 1
    grey = run('color', 1.0, -1)
    assert np.ptp(grey, axis=2).max() <= np.ptp(pixels.astype(int), axis=2).max() * 0.1 + 2
    moved = run('translate_x', 0.5, -1)  # 0.45 / 2 of 40 pixels to the right
    assert (moved[:, :9] == _FILL).all()
    assert np.abs(moved[:, 9:] - pixels[:, :31].astype(int)).max() <= 2
    moved = run('translate_y', 1.0)  # 0.45 of 32 pixels, up
    assert (moved[-14:] == _FILL).all() and (moved[:17] != _FILL).any()
    sheared = run('shear_x', 1.0, -1)
    assert (sheared[-1, :8] == _FILL).all() and (sheared[0] != _FILL).any(1).all()
    square = photo(33, 33)
    back = run('rotate', 0.5, -1, run('rotate', 0.5, 1, square).astype(np.uint8))
    assert np.abs(back - square.astype(int))[8:25, 8:25].mean() < 4


def augmented(seed, **options):
    image = np.ascontiguousarray(photo(32, 40).transpose(2, 0, 1))
    before = image.copy()
    out = RandAugmentImage(**options)({'image': image, 'rng': np.random.default_rng(seed)})
    assert (image == before).all()
    return out['image']


def test_a_function_of_the_seed():
    first = augmented(3)
    assert first.shape == (3, 32, 40) and first.dtype == np.uint8
    assert first.flags.c_contiguous and first.flags.writeable
    assert (augmented(3) == first).all()
    images = [augmented(seed) for seed in range(200)]
    plain = photo(32, 40).transpose(2, 0, 1)
    # two operations of which each acts in half of the cases
    unchanged = np.mean([(image == plain).all() for image in images])
    assert 0.15 < unchanged < 0.35
    assert len({image.tobytes() for image in images}) > 100
    assert all((augmented(seed, prob=0) == plain).all() for seed in range(5))


@pytest.mark.parametrize(
    'arguments', [dict(magnitude=11), dict(std=-1), dict(num_ops=0), dict(prob=1.5)]
)
def test_bad_arguments_raise(arguments):
    with pytest.raises(ValueError, match='magnitude must lie'):
        RandAugmentImage(**arguments)
