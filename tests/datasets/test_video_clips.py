"""Which frames are read, and how they are cropped."""

import cv2
import numpy as np
import pytest
from video_scenes import clip, write_npy

from mmjepa.datasets import (
    BadSampleError,
    RandomResizedCropVideo,
    ResizeCenterCropVideo,
    SampleClips,
    ThreeCropVideo,
    Video,
)
from mmjepa.datasets.transforms.video_clips import clip_indices
from mmjepa.registry import TRANSFORMS


class Silent(Video):
    """A video of a length and rate."""

    def _read(self, indices):
        return np.zeros((len(indices), 4, 4, 3), np.uint8)


def results_of(path, seed=0):
    return {'path': str(path), 'rng': np.random.default_rng(seed)}


FULL = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
FIFTY = [0, 4, 9, 13, 18, 22, 27, 31, 36, 40, 45] + [49] * 5
TWENTY = [0, 5, 10, 15] + [19] * 12


@pytest.mark.parametrize(('length', 'row'), [(300, FULL), (65, FULL), (50, FIFTY), (20, TWENTY)])
def test_one_clip(length, row):
    assert clip_indices(length, 16, 4).tolist() == [row]


def test_parts_without_overlap():
    two = clip_indices(300, 16, 4, 2)
    assert two.tolist() == [FULL, [150 + i for i in FULL]]
    eight = clip_indices(300, 16, 4, 8)  # parts of 37 frames, shorter than a clip
    row = [0, 4, 9, 13, 18, 23, 27, 32] + [36] * 8
    assert eight.tolist() == [[37 * k + i for i in row] for k in range(8)]
    assert clip_indices(20, 16, 4, 2).tolist() == [[0] + [9] * 15, [10] + [19] * 15]
    # three parts of 6 frames: one picture of each part, two frames apart at the most
    assert clip_indices(20, 4, 8, 3).tolist() == [[5] * 4, [11] * 4, [17] * 4]


def test_overlap():
    row = [0, 4, 9, 13, 18, 22, 27, 31, 36, 40, 45, 49, 54, 58, 62, 62]
    assert clip_indices(300, 16, 4, 8, overlap=True).tolist() == [
        [33 * k + i for i in row] for k in range(8)
    ]
    assert (
        clip_indices(300, 16, 4, 2, overlap=True).tolist() == clip_indices(300, 16, 4, 2).tolist()
    )
    fifty = [0, 4, 8, 13, 17, 22, 26, 31, 35, 40, 44] + [48] * 5
    assert clip_indices(50, 16, 4, 2, overlap=True).tolist() == [fifty] * 2
    assert clip_indices(20, 16, 4, overlap=True).tolist() == [[0, 6, 12] + [18] * 13]


def test_middle():
    middle = clip_indices(300, 16, 4, middle=True)
    assert middle.tolist() == [[118 + i for i in FULL]]  # 300 - 64 frames, half before it
    two = clip_indices(300, 16, 4, 2, middle=True)
    assert two[:, 0].tolist() == [43, 193]
    for length in (64, 50, 20):  # no longer than a clip
        assert (clip_indices(length, 16, 4, middle=True) == clip_indices(length, 16, 4)).all()
    sampled = SampleClips(frame_step=4, random=False, middle=True)
    assert sampled.indices(Silent('v', 300, None), None).tolist() == middle.tolist()
    with pytest.raises(ValueError, match='middle goes with random=False'):
        SampleClips(frame_step=4, middle=True)


def test_random_clips_span_the_same_and_stay_in_their_parts():
    drawn = np.concatenate([
        clip_indices(300, 16, 4, 2, np.random.default_rng(seed)) for seed in range(300)
    ])  # fmt: skip
    starts = drawn[:, 0].reshape(-1, 2)
    assert (drawn - drawn[:, :1] == FULL).mean() > 0.9  # rounding differs by a frame elsewhere
    assert (drawn[:, -1] - drawn[:, 0] == 63).all()
    assert starts.min(0).tolist() == [0, 150]
    assert starts.max(0).tolist() == [85, 235]  # the last end is part - 1


def test_still_image_is_repeated():
    assert clip_indices(1, 16, 4).tolist() == [[0] * 16]
    assert clip_indices(1, 16, 1, 2, overlap=True).tolist() == [[0] * 16] * 2


@pytest.mark.parametrize(
    ('options', 'fps', 'step'),
    [
        ({'frame_step': 4}, None, 4),
        ({'fps': 4}, 30.0, 7),
        ({'fps': 4}, 29.97, 7),
        ({'fps': 5}, 30.0000000004, 6),
        ({'fps': 4}, 24.0, 6),
        ({'duration': 3.0}, 29.97, 5),
        ({'duration': 2.0}, 30.0, 3),
    ],
)
def test_step_of_each_mode(options, fps, step):
    assert SampleClips(16, **options).step(Silent('v', 300, fps)) == step


def test_steps_that_no_video_has():
    with pytest.raises(BadSampleError, match='v: its frame rate is unknown and fps needs it'):
        SampleClips(fps=4).step(Silent('v', 300, None))
    with pytest.raises(BadSampleError, match='v: 3 frames a second are too few for fps=4'):
        SampleClips(fps=4).step(Silent('v', 300, 3.0))
    with pytest.raises(BadSampleError, match='too few for duration=0.1 with 16 frames'):
        SampleClips(duration=0.1).step(Silent('v', 300, 30.0))
    assert SampleClips(fps=4).step(Silent('still', 1, None)) == 1


def test_too_short():
    with pytest.raises(BadSampleError, match='v: too short: 3 frames, at least 4'):
        SampleClips(frame_step=1, num_clips=4).indices(Silent('v', 3, None), None)
    with pytest.raises(BadSampleError, match='v: too short: 63 frames, at least 64'):
        SampleClips(frame_step=4, short='refuse').indices(Silent('v', 63, None), None)
    assert SampleClips(frame_step=4).indices(Silent('v', 20, None), None).tolist() == [TWENTY]
    with pytest.raises(ValueError, match='3 frames cannot give 4 clips'):
        clip_indices(3, 16, 1, 4)


def test_settings_are_checked():
    for options in ({}, {'frame_step': 4, 'fps': 4}, {'frame_step': 0}, {'fps': -1}):
        with pytest.raises(ValueError, match='give one of frame_step, duration and fps'):
            SampleClips(**options)
    with pytest.raises(ValueError, match='frame_step must be a whole number'):
        SampleClips(frame_step=2.5)
    for options in ({'num_clips': 0}, {'timeout': 0}, {'short': 'drop'}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SampleClips(frame_step=4, **options)


def test_clips_are_read(tmp_path):
    pixels = write_npy(tmp_path / 'v.npy', 40)
    results = TRANSFORMS.build(
        {'type': 'SampleClips', 'num_frames': 4, 'frame_step': 2, 'num_clips': 2}
    )(results_of(tmp_path / 'v.npy', 3))
    ids = results['frame_ids']
    assert ids.shape == (2, 4) and ids[1, 0] >= 20
    assert np.array_equal(results['frames'], pixels[ids])
    again = SampleClips(4, 2, num_clips=2)(results_of(tmp_path / 'v.npy', 3))
    assert np.array_equal(again['frame_ids'], ids)
    first = SampleClips(4, 2, random=False)(results_of(tmp_path / 'v.npy', 3))
    assert first['frame_ids'].tolist() == [[0, 2, 5, 7]]


# crops -------------------------------------------------------------------------------------------


def test_one_crop_for_all_frames_of_a_clip():
    clips = np.stack([clip(5, seed=1), clip(5, seed=1)])
    results = {'frames': clips, 'rng': np.random.default_rng(0)}
    out = RandomResizedCropVideo(32)(results)
    assert out['video'].shape == (2, 5, 32, 32, 3) and out['video'].dtype == np.uint8
    assert 'frames' not in out
    assert out['crops'][0] != out['crops'][1]  # each clip has its own
    for n, (top, left, height, width) in enumerate(out['crops']):
        for t in range(5):
            part = clips[n, t, top : top + height, left : left + width]
            assert np.array_equal(out['video'][n, t], cv2.resize(part, (32, 32)))


def test_crops_are_within_their_limits():
    crop = RandomResizedCropVideo(16)
    frames = np.zeros((1, 1, 240, 320, 3), np.uint8)
    rng = np.random.default_rng(0)
    boxes = np.array([crop({'frames': frames, 'rng': rng})['crops'][0] for _ in range(400)])
    share = boxes[:, 2] * boxes[:, 3] / (240 * 320)
    assert 0.29 < share.min() < 0.35 and 0.9 < share.max() <= 1.0
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 0.73 < ratio.min() < 0.8 and 1.3 < ratio.max() < 1.37
    with pytest.raises(ValueError, match='scale'):
        RandomResizedCropVideo(scale=(0, 1))
    with pytest.raises(ValueError, match='ratio'):
        RandomResizedCropVideo(ratio=(2, 1))


def test_bilinear_without_antialiasing_as_torch_has_it():
    import torch

    frames = clip(2, 64, 96)[None]
    video = ResizeCenterCropVideo(16, 16)({'frames': frames})['video']
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(frames[0]).permute(0, 3, 1, 2).float(), (16, 24), mode='bilinear'
    ).permute(0, 2, 3, 1)[:, :, 4:20]
    assert np.abs(video[0] - whole.numpy()).max() <= 1


def test_centre_crop():
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, None, None, :, None], (1, 2, 32, 1, 3))
    out = ResizeCenterCropVideo(16, 32)({'frames': ramp})
    assert out['views'] == 1 and out['video'].shape == (1, 2, 16, 16, 3)
    assert out['video'][0, 1, 3, :, 0].tolist() == list(range(24, 40))
    assert ResizeCenterCropVideo(224).resize == 256
    with pytest.raises(ValueError, match='nothing to cut from'):
        ResizeCenterCropVideo(32, 16)


@pytest.mark.parametrize('upright', [False, True])
def test_three_crops_along_the_longer_side(upright):
    ramp = np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (32, 1, 3))
    frames = np.stack([np.stack([ramp, ramp]), np.stack([ramp + 100, ramp + 100])])
    frames = frames.swapaxes(2, 3) if upright else frames
    out = ThreeCropVideo(32)({'frames': frames})
    assert out['views'] == 3
    views = out['video'].reshape(3, 2, 2, 32, 32, 3)  # views, clips, frames
    views = views.swapaxes(3, 4) if upright else views
    assert views[:, 0, 0, 5, 0, 0].tolist() == [0, 24, 48]
    assert views[:, 1, 1, 5, 31, 0].tolist() == [131, 155, 179]
