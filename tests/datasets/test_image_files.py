import io
import sys

import cv2
import numpy as np
import pytest
from image_scenes import encode, photo
from PIL import Image

from mmjepa.datasets import BadSampleError
from mmjepa.datasets.image_files import (
    check_complete,
    decode_image,
    is_image,
    read_bytes,
    read_header,
)

RGB = photo(61, 83)


def load(data, reduce=1):
    """RGB pixels of a file."""
    header = read_header(data)
    check_complete(data, header)
    return decode_image(data, header, reduce=reduce)[..., ::-1]


def pil(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


# headers -----------------------------------------------------------------------------------------


def jpeg_with_thumbnail():
    """A JPEG with a whole JPEG in its header, as cameras write them."""
    inner = encode(photo(30, 40))
    data = encode(RGB)
    segment = b'\xff\xe1' + (len(inner) + 8).to_bytes(2, 'big') + b'Exif\0\0' + inner
    return data[:2] + segment + data[2:]


@pytest.mark.parametrize(
    ('data', 'kind'),
    [(encode(RGB), 'jpeg'), (encode(RGB, progressive=True), 'jpeg'),
     (encode(Image.fromarray(RGB).convert('L')), 'jpeg'),
     (encode(Image.fromarray(RGB).convert('CMYK')), 'jpeg'), (jpeg_with_thumbnail(), 'jpeg'),
     (encode(RGB)[:20] + b'\xff\xff\xff' + encode(RGB)[20:], 'jpeg'), (encode(RGB, 'PNG'), 'png')],
)  # fmt: skip
def test_size_is_in_the_header(data, kind):
    assert load(data).shape == (61, 83, 3)  # the files are good
    header = read_header(data)
    assert header[:2] == (kind, (61, 83))
    assert read_header(data[: header.body]) == header  # and the pixels aren't asked


def test_kind_is_told_by_content_not_by_suffix():
    assert [read_header(encode(RGB, kind)).kind for kind in ('WEBP', 'BMP')] == ['webp', 'bmp']
    assert is_image('a/B.JPEG') and is_image('x.webp')
    assert not is_image('x.txt') and not is_image('jpg')


@pytest.mark.parametrize(
    ('data', 'said'),
    [(b'<html>' * 9, 'no JPEG, PNG, WebP or BMP: begins with'), (b'\xff\xd8', 'no pixels in it'),
     (encode(RGB)[:40], 'no pixels in it'), (encode(RGB)[:20] + bytes(99), 'damaged at byte 20')],
)  # fmt: skip
def test_damaged_headers_are_named(data, said):
    with pytest.raises(BadSampleError, match=rf'^dir/a\.jpg: .*{said}'):
        read_header(data, 'dir/a.jpg')


# whole or not ------------------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.5, 0.9, 0.999])
@pytest.mark.parametrize('kind', ['JPEG', 'progressive', 'PNG', 'WEBP', 'BMP'])
def test_truncated_files_are_refused(kind, share):
    options = {'progressive': True} if kind == 'progressive' else {}
    data = encode(RGB, 'JPEG' if options else kind, **options)
    cut = data[: int(len(data) * share)]
    with pytest.raises(BadSampleError, match=r'^a\.x: truncated .*on_error'):
        check_complete(cut, read_header(cut, 'a.x'), 'a.x')


def test_end_of_a_thumbnail_is_no_end():
    data = jpeg_with_thumbnail()
    cut = data[:-200]
    assert b'\xff\xd9' in cut
    with pytest.raises(BadSampleError, match='truncated JPEG'):
        check_complete(cut, read_header(cut))


def test_bytes_behind_the_end_do_no_harm():
    for kind in ('JPEG', 'PNG', 'WEBP', 'BMP'):
        data = encode(RGB, kind)
        assert np.array_equal(load(data + b'trailing' * 20), load(data))


def test_zeros_where_the_rest_should_be():
    data = encode(RGB)
    holes = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    with pytest.raises(BadSampleError, match='truncated JPEG'):
        load(holes)


def test_damaged_pixels_that_opencv_notices():
    data = bytearray(encode(RGB, 'PNG'))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadSampleError, match=r'^b\.png: damaged PNG'):
        decode_image(bytes(data), read_header(bytes(data)), 'b.png')


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadSampleError, match='no such file'):
        read_bytes(tmp_path / 'none.jpg')
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with pytest.raises(BadSampleError, match='the file is empty'):
        read_bytes(tmp_path / 'empty.jpg')
    with pytest.raises(BadSampleError, match='cannot be read'):
        read_bytes(tmp_path)


# pixels ------------------------------------------------------------------------------------------


def test_jpeg_and_png_are_what_pil_reads():
    for data in (encode(RGB), encode(RGB, progressive=True), encode(RGB, 'PNG')):
        assert np.abs(load(data).astype(int) - pil(data)).max() <= 2
    assert np.array_equal(load(encode(RGB, 'PNG')), RGB)
    assert np.array_equal(load(encode(RGB, 'BMP')), RGB)
    assert np.array_equal(load(encode(RGB, 'WEBP', lossless=True)), RGB)


def with_alpha(mode):
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.linear_gradient('L').resize(image.size))
    return image


@pytest.mark.parametrize(
    'data',
    [encode(Image.fromarray(RGB).convert('L')), encode(Image.fromarray(RGB).convert('CMYK')),
     encode(Image.fromarray(RGB).convert('L'), 'PNG'), encode(with_alpha('RGB'), 'PNG'),
     encode(with_alpha('L'), 'PNG'), encode(Image.fromarray(RGB).convert('P'), 'PNG'),
     encode(Image.fromarray(RGB).convert('P'), 'PNG', transparency=3),
     encode(Image.fromarray(RGB).convert('1'), 'PNG'),
     encode(with_alpha('RGB'), 'WEBP', lossless=True)],
    ids=['grey JPEG', 'CMYK', 'grey PNG', 'RGBA', 'LA', 'palette', 'transparent', 'bits', 'WebP'],
)  # fmt: skip
def test_every_mode_becomes_8_bit_colour(data):
    image = load(data)
    assert image.dtype == np.uint8 and image.shape == (61, 83, 3)
    assert np.abs(image.astype(int) - pil(data)).mean() < 1.5


def test_16_bits_keep_the_upper_8():
    for pixels in (RGB, RGB[..., 0]):
        deep = pixels.astype(np.uint16) * 256 + 77
        data = cv2.imencode('.png', deep[..., ::-1] if deep.ndim == 3 else deep)[1].tobytes()
        expected = RGB if deep.ndim == 3 else np.repeat(RGB[..., :1], 3, axis=2)
        assert np.abs(load(data).astype(int) - expected).max() <= 1


@pytest.mark.parametrize('reduce', [1, 2, 4, 8])
def test_exif_orientation_is_ignored_at_every_size(reduce):
    turned = Image.Exif()
    turned[274] = 6  # a quarter turn
    plain, tagged = encode(RGB, quality=95), encode(RGB, quality=95, exif=turned)
    assert cv2.imdecode(np.frombuffer(tagged, np.uint8), cv2.IMREAD_COLOR).shape[0] == 83
    assert np.array_equal(load(tagged, reduce), load(plain, reduce))
    assert load(tagged, reduce).shape[:2] == (-(-61 // reduce), -(-83 // reduce))


@pytest.mark.parametrize('reduce', [2, 4, 8])
def test_reduced_pixels_cover_blocks_of_pixels(reduce):
    smooth = photo(128, 192)
    blocks = smooth.reshape(128 // reduce, reduce, 192 // reduce, reduce, 3).mean((1, 3))
    assert np.abs(load(encode(smooth, quality=98), reduce) - blocks).mean() < 1


def test_pixels_that_contradict_the_header_are_refused(monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', lambda data, flags: np.zeros((83, 61, 3), np.uint8))
    with pytest.raises(BadSampleError, match=r'decoded as \(83, 61\) pixels.*says \(61, 83\)'):
        load(encode(RGB))


def test_errors_of_opencv_are_bad_samples(monkeypatch):
    def refuse(data, flags):
        raise cv2.error('too many pixels')

    monkeypatch.setattr(cv2, 'imdecode', refuse)
    with pytest.raises(BadSampleError, match=r'^image: OpenCV cannot decode it \(too many pixels'):
        load(encode(RGB))


def test_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(ImportError, match=r"pip install 'mmjepa\[image\]'"):
        load(encode(RGB))
