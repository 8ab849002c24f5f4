"""Every backend gives the same frames, and says which file is bad."""

import sys
import threading
import time

import numpy as np
import pytest
from image_scenes import write_image
from video_scenes import INSTALLED, clip, write_lossless, write_mp4, write_npy

from mmjepa.datasets import BadSampleError, VideoBackend, build_backend
from mmjepa.datasets.video_backends import auto
from mmjepa.datasets.video_backends.abandon import within
from mmjepa.datasets.video_backends.auto import CODECS
from mmjepa.registry import DATASETS

EACH = pytest.mark.parametrize('name', CODECS)
# packets of AVI files carry no times, and torchcodec mixes up their B-frames
KNOWN_WRONG = {('torchcodec', 'S001C001P001R001A001_rgb.avi')}


@pytest.fixture
def backend(name):
    if name not in INSTALLED:
        pytest.skip(build_backend(name).missing())
    return build_backend(name)


@pytest.fixture(scope='module')
def lossless(tmp_path_factory):
    path = tmp_path_factory.mktemp('lossless') / 'clip with spaces.avi'
    return str(path), write_lossless(path)


@EACH
def test_lossless_frames_in_any_order(backend, lossless):
    path, pixels = lossless
    video = backend.open(path)
    assert len(video) == 24 and video.fps == 10
    for indices in ([0, 1, 2], [23], [5, 3, 3, 20, 0], range(0, 24, 5), [4]):
        frames = video.get(list(indices))
        assert frames.dtype == np.uint8
        assert np.array_equal(frames, pixels[list(indices)])
    for indices in ([24], [-1], []):
        with pytest.raises(IndexError, match=r'clip with spaces\.avi'):
            video.get(indices)
    video.close()


@EACH
def test_frames_between_keyframes_in_files_with_b_frames(backend, tmp_path):
    av = pytest.importorskip('av')
    pixels = clip(60)
    write_mp4(av, tmp_path / 'v.mp4', pixels, crf='1')
    video = backend.open(str(tmp_path / 'v.mp4'))
    assert len(video) == 60
    for indices in ([40, 41, 50], [3], [11, 12, 13], [59, 0]):
        found = video.get(indices).astype(int)
        assert np.abs(found - pixels[indices]).mean() < 8
        assert np.abs(found - pixels[[i - 1 for i in indices]]).mean() > 20


def test_opencv_seeks_if_told_to(lossless):
    if 'opencv' not in INSTALLED:
        pytest.skip('no OpenCV')
    path, pixels = lossless
    video = build_backend({'type': 'opencv', 'seek': True}).open(path)
    assert np.array_equal(video.get([20, 21, 4]), pixels[[20, 21, 4]])


@EACH
@pytest.mark.parametrize('rotation', [90, 180, -90])
def test_telephone_films_are_upright(backend, tmp_path, rotation):
    av = pytest.importorskip('av')
    if not hasattr(av.video.stream.VideoStream, 'set_display_rotation'):
        pytest.skip('this PyAV cannot write the rotation')
    pixels = np.zeros((3, 64, 128, 3), np.uint8)
    pixels[:, :16, :16] = 255
    write_mp4(av, tmp_path / 'v.mp4', pixels, rotation)
    frame = backend.open(str(tmp_path / 'v.mp4')).get([1])[0]
    assert np.abs(frame.astype(int) - np.rot90(pixels[1], rotation // 90)).mean() < 2


@EACH
def test_no_video_at_all(backend, tmp_path):
    for content in (b'<html>404 Not Found</html>' * 100, bytes(5000)):
        (tmp_path / 'v.mp4').write_bytes(content)
        with pytest.raises(BadSampleError, match=r'v\.mp4: '):
            backend.open(str(tmp_path / 'v.mp4'))


@EACH
def test_fewer_frames_than_the_header_promises(backend, tmp_path):
    av = pytest.importorskip('av')
    path = tmp_path / 'cut.mp4'
    write_mp4(av, path, clip(60), crf='10')
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    start = time.monotonic()
    with pytest.raises(BadSampleError, match=r'cut\.mp4: '):
        backend.open(str(path)).get([0, 59])
    assert time.monotonic() - start < 20


def same_frames(backend, shared_dir, last):
    """Seven files: the first backend that is installed decodes each, this one to the same frames.

    Args:
        last: of the frames compared; negative from the end.
    """
    reference = build_backend(INSTALLED[0])
    paths = sorted((shared_dir / 'data/video').iterdir())
    assert len(paths) == 8
    for path in paths:
        if path.name == 'corrupted.mp4':
            continue
        video, other = backend.open(str(path)), reference.open(str(path))
        assert len(other) == len(video) and other.fps == pytest.approx(video.fps, rel=0.05)
        indices = [0, 1, last % len(video) // 2, last % len(video)]
        frames = video.get(indices)
        assert frames[-1].std() > 5
        difference = np.abs(frames.astype(np.int16) - other.get(indices)).mean()
        assert difference < 0.5 or (backend.name, path.name) in KNOWN_WRONG


@EACH
def test_real_clips_of_all_kinds(backend, shared_dir):
    same_frames(backend, shared_dir, 9)


@EACH
@pytest.mark.slow
def test_ends_of_real_clips(backend, shared_dir):
    same_frames(backend, shared_dir, -1)


@EACH
def test_real_damaged_file_is_named(backend, shared_dir):
    path = str(shared_dir / 'data/video/corrupted.mp4')
    start = time.monotonic()
    for _ in range(3):
        with pytest.raises(BadSampleError, match=r'corrupted\.mp4: '):
            backend.open(path).get(np.arange(0, 50, 3))
    assert time.monotonic() - start < 60


# arrays and images -------------------------------------------------------------------------------


def test_arrays(tmp_path):
    pixels = write_npy(tmp_path / 'v.npy', 9)
    video = build_backend({'type': 'npy', 'fps': 12}).open(str(tmp_path / 'v.npy'))
    assert len(video) == 9 and video.fps == 12
    frames = video.get([8, 0, 0])
    assert type(frames) is np.ndarray and np.array_equal(frames, pixels[[8, 0, 0]])
    assert build_backend('npy').open(str(tmp_path / 'v.npy')).fps is None


def test_bad_arrays(tmp_path):
    path = tmp_path / 'v.npy'
    write_npy(path, 9)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    with pytest.raises(BadSampleError, match=r'v\.npy: numpy cannot read it'):
        build_backend('npy').open(str(path))
    for array in (np.zeros((4, 3, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), np.zeros(3, np.uint8)):
        np.save(path, array)
        with pytest.raises(BadSampleError, match=r'v\.npy: shape .*Save uint8 frames \(T, H, W, 3'):
            build_backend('npy').open(str(path))
    np.save(path, np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(BadSampleError, match='no frame in it'):
        build_backend('npy').open(str(path))
    with pytest.raises(BadSampleError, match='no such file'):
        build_backend('npy').open(str(tmp_path / 'none.npy'))


def test_folders_of_images_go_by_number(tmp_path):
    pixels = clip(12)
    for i, frame in enumerate(pixels):
        path = tmp_path / f'v/frame_{i}.png'
        path.parent.mkdir(exist_ok=True)
        import cv2

        cv2.imwrite(str(path), frame[..., ::-1])
    (tmp_path / 'v/._frame_0.png').touch()
    (tmp_path / 'v/notes.txt').touch()
    video = build_backend('frames').open(str(tmp_path / 'v'))
    assert len(video) == 12
    assert np.array_equal(video.get([11, 2, 10]), pixels[[11, 2, 10]])
    still = build_backend('frames').open(str(tmp_path / 'v/frame_3.png'))
    assert len(still) == 1 and np.array_equal(still.get([0, 0]), pixels[[3, 3]])


def test_bad_folders_of_images(tmp_path):
    for i, height in enumerate((60, 60, 40)):
        write_image(tmp_path / f'v/{i}.jpg', height=height)
    video = build_backend('frames').open(str(tmp_path / 'v'))
    with pytest.raises(BadSampleError, match=r'v/2\.jpg: .*must have one size'):
        video.get([0, 2])
    (tmp_path / 'v/1.jpg').write_bytes(b'')
    with pytest.raises(BadSampleError, match=r'v/1\.jpg: the file is empty'):
        video.get([0, 1])
    (tmp_path / 'none').mkdir()
    with pytest.raises(BadSampleError, match=r'none: no frame in it'):
        build_backend('frames').open(str(tmp_path / 'none'))


# the choice --------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(auto, 'log_once', lines.append)
    return lines


def test_auto_goes_by_kind(tmp_path, said):
    backend = build_backend({'type': 'auto', 'fps': 5})
    write_npy(tmp_path / 'v.npy', 3)
    write_image(tmp_path / 'v/0.jpg')
    assert backend.choose(str(tmp_path / 'v.npy')).name == 'npy'
    assert backend.choose(str(tmp_path / 'v')).name == 'frames'
    assert backend.choose(str(tmp_path / 'v/0.jpg')).name == 'frames'
    assert backend.open(str(tmp_path / 'v.npy')).fps == 5
    assert not said
    first = [backend.choose(str(tmp_path / f'{i}.mp4')) for i in range(3)]
    assert {b.name for b in first} == {INSTALLED[0]}
    assert len(said) == 1 and said[0].startswith(f'videos are decoded by {INSTALLED[0]} ')


def test_auto_takes_what_is_installed_or_named(monkeypatch, said):
    if 'opencv' not in INSTALLED:
        pytest.skip('no OpenCV')
    assert build_backend({'type': 'auto', 'video': 'opencv'}).choose('v.mp4').name == 'opencv'
    for module in ('decord', 'torchcodec', 'torchcodec.decoders', 'av'):
        monkeypatch.setitem(sys.modules, module, None)
    assert build_backend('auto').choose('v.mp4').name == 'opencv'
    with pytest.raises(ImportError, match=r"'pyav' needs av.*pip install 'mmjepa\[video\]' av"):
        build_backend('pyav').open('v.mp4')
    with pytest.raises(ImportError, match="no decoder of videos imports: .*'decord' needs decord"):
        build_backend({'type': 'auto', 'video': 'decord'}).open('v.mp4')
    with pytest.raises(ValueError, match='video must be one of decord, torchcodec, pyav, opencv'):
        build_backend({'type': 'auto', 'video': 'npy'})


def test_unknown_backends_and_options():
    with pytest.raises(KeyError, match='vlc'):
        build_backend('vlc')
    with pytest.raises(TypeError, match='DecordBackend'):
        build_backend({'type': 'decord', 'threads': 4})
    with pytest.raises(ValueError, match='seek_mode'):
        build_backend({'type': 'torchcodec', 'seek_mode': 'fast'})
    assert DATASETS.get('VideoDataset') is not None
    assert isinstance(build_backend(build_backend('npy')), VideoBackend)


# time --------------------------------------------------------------------------------------------


def test_hanging_work_is_left_behind():
    release, seen = threading.Event(), []
    start = time.monotonic()
    with pytest.raises(
        BadSampleError, match=r'v\.mp4: no frames after 0\.2 s, its decoder is left'
    ):
        within(0.2, lambda: seen.append(release.wait(30)), 'v.mp4')
    assert time.monotonic() - start < 10
    release.set()


def test_answers_and_errors_come_through():
    assert within(30, lambda: 5, 'v') == within(None, lambda: 5, 'v') == 5
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 / 0, 'v')
