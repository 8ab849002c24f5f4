"""Clips on the device: layout, normalisation, flips; and targets made of pixels."""

import pytest
import torch

from mmjepa.models.preprocessors import ImagePreprocessor, VideoPreprocessor
from mmjepa.models.targets import PixelTargets
from mmjepa.registry import MODELS

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def pixels(count=3, clips=2, frames=4, height=6, width=8):
    generator = torch.Generator().manual_seed(0)
    shape = (count, clips, frames, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def batch(video, **inputs):
    return {
        'inputs': {'video': video, **inputs},
        'data_samples': [{'sample_seed': 2**61 + i} for i in range(len(video))],
    }


def restored(videos, clips):
    """(B * n, 3, T, H, W) normalised -> (B, n, T, H, W, 3) bytes."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    back = videos.permute(0, 2, 3, 4, 1) * std + mean
    return back.round().to(torch.uint8).unflatten(0, (-1, clips))


def test_layout_and_values():
    video = pixels()
    before = video.clone()
    out = MODELS.build({'type': 'VideoPreprocessor'})(batch(video))
    videos = out['inputs']['videos']
    assert videos.shape == (6, 3, 4, 6, 8) and videos.dtype == torch.float32
    assert torch.equal(restored(videos, 2), video)
    assert torch.equal(video, before)
    # the value of one pixel: sample 2, clip 1, frame 3, row 4, column 5, green
    expected = (float(video[2, 1, 3, 4, 5, 1]) - MEAN[1]) / STD[1]
    assert videos[5, 1, 3, 4, 5].item() == pytest.approx(expected, abs=1e-5)
    assert set(out['inputs']) == {'videos', 'seeds', 'clips_per_sample'}


def test_as_the_preprocessor_of_images():
    video = pixels(clips=1, frames=1)
    image = ImagePreprocessor()(
        {**batch(video), 'inputs': {'image': video[:, 0, 0].permute(0, 3, 1, 2)}}
    )
    clip = VideoPreprocessor()(batch(video))
    assert torch.equal(clip['inputs']['videos'][:, :, 0], image['inputs']['images'])


def test_clips_of_a_sample_share_its_seed():
    inputs = VideoPreprocessor()(batch(pixels(), extra=torch.ones(3)))['inputs']
    assert inputs['seeds'].tolist() == [2**61 + i // 2 for i in range(6)]
    assert inputs['seeds'].dtype == torch.int64
    assert inputs['clips_per_sample'] == 2
    assert torch.equal(inputs['extra'], torch.ones(3))


def test_flips_whole_clips_by_the_seed_and_in_training_only():
    video = pixels(count=40)
    before = video.clone()
    preprocessor = VideoPreprocessor()
    assert torch.equal(restored(preprocessor(batch(video))['inputs']['videos'], 2), video)
    torch.manual_seed(1)
    first = restored(preprocessor(batch(video), training=True)['inputs']['videos'], 2)
    torch.manual_seed(2)
    again = restored(preprocessor(batch(video), training=True)['inputs']['videos'], 2)
    assert torch.equal(first, again) and torch.equal(video, before)
    same = (first == video).flatten(2).all(2)
    mirrored = (first == video.flip(-2)).flatten(2).all(2)
    assert (same ^ mirrored).all()  # all frames of a clip, or none
    assert 0.3 < mirrored.float().mean() < 0.7
    assert (mirrored[:, 0] != mirrored[:, 1]).any()
    # a sample's flips are its own, whoever is beside it
    part = batch(video[10:13])
    part['data_samples'] = batch(video)['data_samples'][10:13]
    alone = restored(preprocessor(part, training=True)['inputs']['videos'], 2)
    assert torch.equal(alone, first[10:13])


@pytest.mark.parametrize(('prob', 'share'), [(0.0, 0.0), (1.0, 1.0)])
def test_flip_probability(prob, share):
    video = pixels(count=10)
    out = VideoPreprocessor(flip_prob=prob)(batch(video), training=True)['inputs']['videos']
    mirrored = (restored(out, 2) == video.flip(-2)).flatten(2).all(2)
    assert mirrored.float().mean() == share


def test_a_list_is_as_good_as_a_tensor():
    video = pixels()
    a = VideoPreprocessor()(batch(video), True)['inputs']['videos']
    b = VideoPreprocessor()(batch(list(video)), True)['inputs']['videos']
    assert torch.equal(a, b)


def test_bytes_are_what_is_copied():
    """The meta device stands for any other one."""
    preprocessor = VideoPreprocessor().to('meta')
    moved = []
    cast = preprocessor.cast_data
    preprocessor.cast_data = lambda data: moved.append(data) or cast(data)
    inputs = preprocessor(batch(pixels()), training=True)['inputs']
    assert inputs['videos'].device.type == 'meta'
    assert inputs['seeds'].device.type == 'cpu'
    kinds = {data.dtype for data in moved if isinstance(data, torch.Tensor)}
    assert kinds == {torch.uint8, torch.bool}
    assert not preprocessor.state_dict()


@pytest.mark.cuda
def test_cuda_gives_the_same():
    video = pixels(8, 1, 16, 32, 32)
    expected = VideoPreprocessor()(batch(video), True)['inputs']['videos']
    out = VideoPreprocessor().cuda()(batch(video.pin_memory()), True)['inputs']
    assert out['videos'].is_cuda and not out['seeds'].is_cuda
    assert torch.allclose(out['videos'].cpu(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (batch(pixels().float()), r'must be \(B, n, T, H, W, 3\) uint8'),
        (batch(pixels()[:, 0]), 'uint8, got'),
        (batch(pixels().permute(0, 1, 2, 5, 3, 4)), 'uint8, got'),
        (batch([pixels()[0], pixels(width=9)[0]]), 'clips of one shape'),
    ],
)
def test_other_inputs_are_refused(data, said):
    with pytest.raises(ValueError, match=said):
        VideoPreprocessor()(data)


def test_missing_video_and_impossible_constants():
    with pytest.raises(KeyError, match=r"PackJEPAInputs\(keys=\['video'\]\)"):
        VideoPreprocessor()({'inputs': {'image': []}, 'data_samples': []})
    with pytest.raises(ValueError, match='flip_prob'):
        VideoPreprocessor(flip_prob=1.5)
    with pytest.raises(ValueError, match='std above 0'):
        VideoPreprocessor(std=(1, 0, 1))


# --- targets made of pixels


def by_loops(videos, tubelet, patch):
    """The formula, one tubelet and colour after another, in float64."""
    rows = []
    for clip in videos.double():
        tokens = []
        for t in range(0, clip.shape[1], tubelet):
            for h in range(0, clip.shape[2], patch):
                for w in range(0, clip.shape[3], patch):
                    part = clip[:, t : t + tubelet, h : h + patch, w : w + patch]
                    colours = [(c - c.mean()) / (c.var(unbiased=True).sqrt() + 1e-6) for c in part]
                    tokens.append(torch.stack(colours, -1).flatten())  # colours last
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


def test_pixel_targets_are_videomaes():
    torch.manual_seed(0)
    videos = torch.rand(2, 3, 4, 8, 12)
    targets = MODELS.build(dict(type='PixelTargets', tubelet_size=2, patch_size=4))
    assert targets.out_channels == 2 * 4 * 4 * 3
    got = targets(videos)
    assert got.shape == (2, 2 * 2 * 3, 96) and got.dtype == torch.float32
    torch.testing.assert_close(got.double(), by_loops(videos, 2, 4), rtol=1e-5, atol=1e-5)


def test_pixel_targets_do_not_know_the_normalisation():
    video = pixels(2, 1, 4, 16, 16)
    video[0, 0, :2, :8, :8] = 77  # a flat tubelet
    plain = video.flatten(0, 1).permute(0, 4, 1, 2, 3) / 255
    usual = VideoPreprocessor()(batch(video))['inputs']['videos']
    other = VideoPreprocessor(mean=(0, 100, 250), std=(1, 10, 200))(batch(video))
    targets = PixelTargets(patch_size=8)
    expected = targets(plain)
    for videos in (usual, other['inputs']['videos']):
        torch.testing.assert_close(targets(videos), expected, rtol=1e-3, atol=1e-4)
    assert (targets(usual)[0, 0] == 0).all()  # not rounding over 1e-6


def test_pixel_targets_have_unit_variance_by_colour():
    targets = PixelTargets(patch_size=4)(torch.rand(2, 3, 4, 8, 8)).unflatten(2, (-1, 3))
    torch.testing.assert_close(targets.mean(2), torch.zeros(2, 8, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(2), torch.ones(2, 8, 3), atol=1e-3, rtol=0)


def test_pixel_targets_of_other_clips():
    with pytest.raises(ValueError, match='3 x 8 x 8 .* not whole tubelets of 2 x 4 x 4'):
        PixelTargets(patch_size=4)(torch.rand(1, 3, 3, 8, 8))
    with pytest.raises(ValueError, match='no variance'):
        PixelTargets(tubelet_size=1, patch_size=1)
