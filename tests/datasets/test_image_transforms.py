import numpy as np
import pytest
from image_scenes import encode, photo, ramp, write_image
from PIL import Image

from mmjepa.datasets import BadSampleError, LoadCroppedImage, RandomFlipImage, ResizeCenterCrop
from mmjepa.datasets.transforms import images
from mmjepa.datasets.transforms.images import CropBox, random_crop_box, reducible, resize_image
from mmjepa.registry import TRANSFORMS

SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)


def run(transform, source, seed=0):
    """The results of a transform on a path or on the bytes of a file."""
    results = {'path': str(source) if not isinstance(source, bytes) else 'memory'}
    if isinstance(source, bytes):
        results['image_bytes'] = source
    return transform({**results, 'rng': np.random.default_rng(seed)})


def mean_difference(a, b):
    return np.abs(a.astype(int) - b).mean()


@pytest.fixture
def factors(monkeypatch):
    """By how much each image was reduced in decoding."""
    used = []
    decode = images.decode_image

    def spy(data, header, path, reduce=1):
        used.append(reduce)
        return decode(data, header, path, reduce)

    monkeypatch.setattr(images, 'decode_image', spy)
    return used


# the box -----------------------------------------------------------------------------------------


def ks_distance(values, low, high):
    """Kolmogorov-Smirnov distance from the uniform distribution."""
    place = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return max(np.abs(place - steps[1:]).max(), np.abs(place - steps[:-1]).max())


def test_area_is_uniform_and_aspect_log_uniform():
    """In an image so wide and high that every draw of .1 to .3 fits, so none is rejected."""
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(rng, 3000, 3000, (0.1, 0.3), RATIO) for _ in range(4000)])
    top, left, height, width = boxes.T.astype(float)
    limit = 1.63 / np.sqrt(len(boxes))  # 1 %
    assert ks_distance(height * width / 3000**2, 0.1, 0.3) < limit
    assert ks_distance(np.log(width / height), *np.log(RATIO)) < limit
    assert ks_distance((top + rng.random(4000)) / (3001 - height), 0, 1) < limit
    assert ks_distance((left + rng.random(4000)) / (3001 - width), 0, 1) < limit
    assert abs(np.corrcoef(height * width, width / height)[0, 1]) < 0.06


def test_every_place_of_a_small_image_is_reached():
    rng = np.random.default_rng(0)
    boxes = [random_crop_box(rng, 4, 6, (0.2, 0.5), (1.0, 1.0)) for _ in range(500)]
    assert {(b.top, b.left) for b in boxes if b.height == 2} == {
        (top, left) for top in range(3) for left in range(5)
    }
    whole = {random_crop_box(rng, 5, 5, (1.0, 1.0), (1.0, 1.0)) for _ in range(5)}
    assert whole == {CropBox(0, 0, 5, 5)}


@pytest.mark.parametrize(
    ('height', 'width', 'box'),
    [(1000, 10, (493, 0, 13, 10)),  # 3 / 4 is the narrowest: 10 x 13.3
     (10, 1000, (0, 493, 10, 13)),
     (1, 1, (0, 0, 1, 1))],
)  # fmt: skip
def test_fallback_is_the_largest_allowed_box_in_the_centre(height, width, box):
    rng = np.random.default_rng(0)
    assert random_crop_box(rng, height, width, (0.9, 1.0), RATIO) == box


def test_fallback_keeps_an_image_of_allowed_aspect_whole():
    rng = np.random.default_rng(0)  # an area of 1.0 fits no aspect ratio but the image's
    assert random_crop_box(rng, 300, 310, (1.0, 1.0), (0.8, 1.3)) == (0, 0, 300, 310)


@pytest.mark.parametrize(
    ('box', 'size', 'expected'),
    [((5, 7, 127, 200), 32, (1, (5, 7, 127, 200))), ((5, 7, 129, 200), 32, (2, (4, 6, 128, 200))),
     ((5, 7, 259, 300), 32, (4, (4, 4, 256, 300))), ((15, 7, 519, 999), 32, (8, (8, 0, 512, 992))),
     ((0, 0, 9000, 9000), 32, (8, (0, 0, 9000, 9000)))],
)  # fmt: skip
def test_reduced_boxes_keep_twice_the_output(box, size, expected):
    factor, reduced = reducible(CropBox(*box), size)
    assert (factor, reduced) == expected
    assert factor == 1 or min(reduced[2:]) // factor >= 2 * size


# pixels ------------------------------------------------------------------------------------------


def ends(line):
    """Values of a straight line at its first and last place; the borders' filter is one-sided."""
    place = np.arange(len(line))
    slope, start = np.polyfit(place[2:-2], line[2:-2], 1)
    return np.array([start, start + slope * (len(line) - 1)])


@pytest.mark.parametrize(('size', 'factor'), [(220, 1), (104, 2), (52, 4), (24, 8)])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG'])
def test_pixels_of_the_crop_lie_where_the_box_says(size, factor, kind, factors):
    """On a ramp a pixel's colour is its place; half a pixel of the output is .6 to 4 levels."""
    height, width = 811, 1021  # no multiples of 8
    data = encode(ramp(height, width), kind, **({'quality': 100} if kind == 'JPEG' else {}))
    for seed in range(6):
        out = run(LoadCroppedImage(size), data, seed)
        top, left, box_height, box_width = out['crop']
        assert out['image_hw'] == (height, width)
        # first and last column and row, by a line through all of them: finer than a level
        columns, rows = ends(out['image'][0].mean(0)), ends(out['image'][1].mean(1))
        half_x, half_y = box_width / size / 2, box_height / size / 2
        assert np.allclose(
            columns * width / 255, (left + half_x, left + box_width - half_x), atol=0.3 * half_x
        )
        assert np.allclose(
            rows * height / 255, (top + half_y, top + box_height - half_y), atol=0.3 * half_y
        )
    assert set(factors) == {factor if kind == 'JPEG' else 1}


def test_output_is_red_first_contiguous_bytes():
    pixels = np.zeros((40, 50, 3), np.uint8)
    pixels[..., 0], pixels[..., 2] = 250, 20
    for transform in (LoadCroppedImage(16), ResizeCenterCrop(16, 20)):
        image = run(transform, encode(pixels, 'PNG'))['image']
        assert image.dtype == np.uint8 and image.shape == (3, 16, 16)
        assert image.flags.c_contiguous
        assert [image[c].mean() for c in range(3)] == [250, 0, 20]


@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(('height', 'width'), [(20, 33), (90, 77), (150, 200)])
def test_resizing_is_pils(mode, height, width):
    rgb = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = np.asarray(
        Image.fromarray(rgb).resize((width, height), Image.Resampling[mode.upper()])
    )
    out = resize_image(rgb[..., ::-1], height, width, mode)
    assert np.abs(out.astype(int) - expected.transpose(2, 0, 1)).max() <= 2
    assert mean_difference(out, expected.transpose(2, 0, 1)) < 0.3


def test_small_images_are_enlarged(factors):
    out = run(LoadCroppedImage(64), encode(photo(32, 32), 'JPEG'))
    assert out['image'].shape == (3, 64, 64)
    assert factors == [1]


@pytest.fixture(scope='module')
def coco(shared_dir):
    return sorted((shared_dir / 'data/coco/val2017').glob('*.jpg'))


def test_real_photos_are_cropped_as_pil_does(coco):
    for i, path in enumerate(coco[:12]):
        out = run(LoadCroppedImage(224), path, i)
        top, left, height, width = out['crop']
        with Image.open(path) as image:
            box = (left, top, left + width, top + height)
            expected = image.convert('RGB').crop(box).resize((224, 224), Image.Resampling.BILINEAR)
        assert mean_difference(out['image'], np.asarray(expected).transpose(2, 0, 1)) < 0.5


@pytest.mark.parametrize(('size', 'smallest'), [(96, 2), (56, 4), (24, 8)])
def test_reduced_decoding_changes_real_photos_by_less_than_2_of_255(coco, size, smallest, factors):
    differences = []
    for i, path in enumerate(coco[:24]):
        reduced = run(LoadCroppedImage(size), path, i)
        full = run(LoadCroppedImage(size, reduced=False), path, i)
        assert reduced['crop'] == full['crop']
        differences.append(mean_difference(reduced['image'], full['image']))
    assert max(factors[::2]) == smallest and set(factors[1::2]) == {1}
    assert max(differences) < 2
    assert np.mean(differences) < 1


def test_evaluation_crop_is_torchvisions(coco):
    for path in coco[:6]:
        out = run(ResizeCenterCrop(224, 256), path)['image']
        with Image.open(path) as image:
            rgb = image.convert('RGB')
        short = min(rgb.size)
        new = [int(256 * side / short) for side in rgb.size]
        left, top = (round((side - 224) / 2) for side in new)
        expected = rgb.resize(new, Image.Resampling.BILINEAR).crop(
            (left, top, left + 224, top + 224)
        )
        assert mean_difference(out, np.asarray(expected).transpose(2, 0, 1)) < 0.5


def test_evaluation_crop_draws_nothing():
    a, b = (run(ResizeCenterCrop(16, 20), encode(photo()), seed)['image'] for seed in (1, 2))
    assert np.array_equal(a, b)


# sources, seeds, errors --------------------------------------------------------------------------


def test_bytes_of_the_dataset_come_before_the_path(tmp_path):
    data = write_image(tmp_path / 'a.jpg')
    for transform in (LoadCroppedImage(16), ResizeCenterCrop(16, 20)):
        from_path, from_bytes = run(transform, tmp_path / 'a.jpg'), run(transform, data)
        assert np.array_equal(from_path['image'], from_bytes['image'])
        assert 'image_bytes' not in from_bytes


def test_crop_is_a_function_of_the_seed(tmp_path):
    write_image(tmp_path / 'a.jpg')
    a, b, other = (run(LoadCroppedImage(16), tmp_path / 'a.jpg', seed) for seed in (1, 1, 2))
    assert a['crop'] == b['crop'] != other['crop']
    assert np.array_equal(a['image'], b['image'])


def test_flip():
    image = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(400):
        out = RandomFlipImage(0.25)({'image': image, 'rng': rng})['image']
        flipped = np.array_equal(out, image[:, :, ::-1])
        assert flipped or np.array_equal(out, image)
        flips += flipped
    assert 70 < flips < 130
    assert np.array_equal(RandomFlipImage(0.0)({'image': image, 'rng': rng})['image'], image)


@pytest.mark.parametrize('transform', [LoadCroppedImage(16), ResizeCenterCrop(16, 20)])
def test_truncated_files_are_named(tmp_path, transform):
    data = write_image(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes(data[:-100])
    with pytest.raises(BadSampleError, match=r'a\.jpg: truncated JPEG'):
        run(transform, tmp_path / 'a.jpg')


@pytest.mark.parametrize(
    ('config', 'said'),
    [(dict(type='LoadCroppedImage', size=0), 'size must be'),
     (dict(type='LoadCroppedImage', scale=(0, 1)), 'scale must be'),
     (dict(type='LoadCroppedImage', scale=(0.5, 0.3)), 'scale must be'),
     (dict(type='LoadCroppedImage', ratio=(2, 1)), 'ratio must be'),
     (dict(type='LoadCroppedImage', interpolation='area'), 'interpolation must be'),
     (dict(type='ResizeCenterCrop', size=224, resize=200), 'resize=200 is smaller'),
     (dict(type='RandomFlipImage', prob=2), 'prob must lie')],
)  # fmt: skip
def test_impossible_settings_raise(config, said):
    with pytest.raises(ValueError, match=said):
        TRANSFORMS.build(config)
