"""Generated clips: what they show, that the class is the motion alone, and the folder of files."""

import json
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmjepa.datasets.video_sim import (
    MOTIONS,
    ClipSettings,
    labels_of,
    render_clips,
    trajectories,
    write_clips,
)
from mmjepa.datasets.video_sim.motions import NUM_DRAWS

SMALL = ClipSettings(clips=60, frames=8, size=32)
NAMES = tuple(MOTIONS)


def paths(name, count=200, frames=16, seed=0):
    """(places unwrapped (B, T, 2), angles (B, T)) of one motion."""
    draws = torch.rand(count, NUM_DRAWS, generator=torch.Generator().manual_seed(seed))
    places, angles = trajectories([name], torch.zeros(count).long(), draws, frames)
    steps = (places.diff(dim=1) + 0.5) % 1 - 0.5
    return torch.cat([places[:, :1], steps], 1).cumsum(1), angles


def way(name, **options):
    places, angles = paths(name, **options)
    return places - places[:, :1], angles - angles[:, :1]


@pytest.mark.parametrize(
    ('name', 'axis', 'sign'), [('left', 0, -1), ('right', 0, 1), ('up', 1, -1), ('down', 1, 1)]
)
def test_directions(name, axis, sign):
    moved, turned = way(name)
    assert (turned == 0).all() and moved[..., 1 - axis].abs().max() < 1e-5
    length = sign * moved[:, -1, axis]
    assert length.min() > 0.29 and length.max() < 0.51 and length.std() > 0.04
    assert moved.diff(dim=1).std(1).max() < 1e-5  # steady


def test_the_other_motions():
    for name, sign in (('clockwise', 1), ('counterclockwise', -1)):
        moved, turned = way(name)
        assert moved.abs().max() == 0 and (sign * turned.diff(dim=1) > 0).all()
    for name, sign in (('speeding_up', 1), ('slowing_down', -1)):
        moved, _ = way(name)
        assert (sign * moved.diff(dim=1).norm(dim=-1).diff(dim=1) > 0).all()
        directions = F.normalize(moved[:, -1], dim=1).round().unique(dim=0)
        assert len(directions) == 4
    for name, halves in (('move_then_turn', (0, 1)), ('turn_then_move', (1, 0))):
        moved, turned = way(name)
        half = 8
        parts = [moved.diff(dim=1).norm(dim=-1), turned.diff(dim=1).abs()]
        first, second = (parts[i] for i in halves)
        assert first[:, half:].max() < 1e-5 < first[:, : half - 1].min()
        assert second[:, : half - 1].max() < 1e-5 < second[:, half:].min()
        assert 0.3 < (turned[:, -1] > 0).float().mean() < 0.7
    moved, _ = way('bounce')
    far = moved.norm(dim=-1)
    assert far[:, -1].max() < 1e-5 and (far[:, 5:10].max(1).values > 0.15).all()
    speeds = [way(name)[0].diff(dim=1).norm(dim=-1).mean(1) for name in ('fast', 'left')]
    assert speeds[0].min() > 1.5 * speeds[1].max()


def test_clips_are_a_function_of_seed_and_number():
    numbers = torch.arange(24)
    clips, labels = render_clips(SMALL, numbers)
    assert clips.shape == (24, 8, 32, 32, 3) and clips.dtype == torch.uint8
    assert labels.tolist() == [i % 12 for i in range(24)] == labels_of(SMALL, numbers).tolist()
    order = torch.tensor([17, 3, 20])
    again = render_clips(SMALL, order)[0]
    assert (again.int() - clips[order].int()).abs().max() <= 1
    other = render_clips(ClipSettings(clips=60, frames=8, size=32, seed=1), numbers)[0]
    assert (other.int() - clips.int()).abs().float().mean() > 10
    assert len({clip.numpy().tobytes() for clip in clips}) == 24


@pytest.mark.cuda
def test_clips_on_the_gpu_are_those_of_the_cpu():
    settings = ClipSettings(clips=60, drift=0.3)
    cpu, gpu = (render_clips(settings, torch.arange(24), device)[0] for device in ('cpu', 'cuda'))
    apart = (cpu.int() - gpu.cpu().int()).abs()
    # a sprite at the edge of a pixel may lie in the next window, a pixel on
    assert (apart > 2).float().mean() < 1e-3


def sprites(clips):
    """(B, T, S, S) where a frame differs from the ground (the median over time)."""
    ground = clips.float().median(1, keepdim=True).values
    return (clips.float() - ground).abs().sum(-1) > 40


def test_the_picture_moves_as_the_class_says():
    """Circular means of the pixels that differ from the ground follow the trajectory."""
    settings = ClipSettings(clips=120, classes=('left', 'right', 'up', 'fast'))
    clips, labels = render_clips(settings, torch.arange(120))
    seen = sprites(clips).float()
    angle = 2 * torch.pi * (torch.arange(64) + 0.5) / 64
    wave = torch.polar(torch.ones(64), angle)
    middle = torch.stack(
        [(seen.sum(2) * wave).sum(-1).angle(), (seen.sum(3) * wave).sum(-1).angle()], -1
    )
    step = (middle.diff(dim=1) / (2 * torch.pi) + 0.5) % 1 - 0.5
    total = step.sum(1)
    for number, (axis, sign) in enumerate([(0, -1), (0, 1), (1, -1)]):
        own = sign * total[labels == number, axis]
        # less than its way: the median holds some of a slow sprite
        assert 0.15 < own.median() < 0.5 and (own > 0.05).float().mean() > 0.95
    assert total[labels == 3].abs().max(1).values.median() > 0.7


def test_the_ground_drifts_on_request_and_meets_itself():
    still = render_clips(ClipSettings(clips=60), torch.arange(12))[0]
    assert (sprites(still).float().mean((1, 2, 3)) < 0.5).all()
    share = (still[:, 0] == still[:, -1]).all(-1).float().mean((1, 2))
    assert (share > 0.5).all()
    moving = render_clips(ClipSettings(clips=60, drift=0.5), torch.arange(12))[0]
    share = (moving[:, 0] == moving[:, -1]).all(-1).float().mean((1, 2))
    assert (share < 0.3).float().mean() > 0.8
    seam = (moving[..., 0, :].float() - moving[..., -1, :].float()).abs().mean()
    inside = (moving[..., 31, :].float() - moving[..., 32, :].float()).abs().mean()
    assert 0.5 < seam / inside < 2


def test_places_and_angles_of_a_frame_are_uniform_under_every_motion():
    """The trajectory's marginals, by which a single frame cannot tell the class."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, NUM_DRAWS, generator=generator)
    for number, name in enumerate(NAMES):
        labels = torch.full((4000,), number)
        places, angles = trajectories(NAMES, labels, draws, 8)
        assert places.min() >= 0 and places.max() < 1
        for values in (places[..., 0], places[..., 1], angles / (2 * torch.pi) % 1):
            for frame in (0, 3, 7):
                counts = torch.histc(values[:, frame], 10, 0, 1)
                assert ((counts - 400) ** 2 / 400).sum() < 33, (name, frame)  # p = 1e-4


def test_splits_are_stratified_and_follow_the_seed():
    settings = ClipSettings(clips=120)
    splits = settings.splits()
    assert sorted(splits['train'] + splits['test']) == list(range(120))
    assert np.bincount(np.array(splits['test']) % 12).tolist() == [2] * 12
    assert splits != ClipSettings(clips=120, seed=1).splits()
    few = ClipSettings(clips=24, test_fraction=0.01).splits()
    assert len(few['test']) == 12


def test_the_folder(tmp_path):
    result = write_clips(tmp_path / 'sim', SMALL, batch_size=7)
    assert result['clips'] == 60
    clips, labels = render_clips(SMALL, torch.arange(60))
    seen = []
    for split in ('train', 'test'):
        for line in (tmp_path / 'sim' / f'{split}.csv').read_text().splitlines():
            path, label = line.rsplit(' ', 1)
            number = int(path[6:12])
            seen.append(number)
            assert int(label) == labels[number]
            found = np.load(tmp_path / 'sim' / path)
            assert found.shape == (8, 32, 32, 3) and found.dtype == np.uint8
            assert np.abs(found.astype(int) - clips[number].numpy()).max() <= 1
    assert sorted(seen) == list(range(60))
    told = json.loads((tmp_path / 'sim/sim_video.json').read_text())
    assert [one['name'] for one in told['classes']] == list(NAMES)
    assert told['classes'][0]['about'] == 'moves left' and told['seed'] == 0
    assert (tmp_path / 'sim/classes.txt').read_text().split() == list(NAMES)
    assert not list((tmp_path / 'sim').glob('*.partial*'))


def test_mp4(tmp_path):
    av = pytest.importorskip('av')
    settings = ClipSettings(clips=24, frames=8, size=32, mp4=True)
    write_clips(tmp_path, settings)
    clips, _ = render_clips(settings, torch.arange(24))
    with av.open(str(tmp_path / 'clips/000005.mp4')) as file:
        found = np.stack([frame.to_ndarray(format='rgb24') for frame in file.decode(video=0)])
    assert found.shape == (8, 32, 32, 3)
    assert np.abs(found.astype(int) - clips[5].numpy()).mean() < 8
    assert (tmp_path / 'train.csv').read_text().startswith('clips/00000')


def test_mp4_without_pyav_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r'mmjepa\[video\]'):
        write_clips(tmp_path / 'sim', ClipSettings(clips=24, frames=8, size=32, mp4=True))
    assert not (tmp_path / 'sim').exists()


def test_an_interrupted_run_goes_on(tmp_path):
    def stop(what, done, total):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(tmp_path, SMALL, batch_size=10, progress=stop)
    assert not (tmp_path / 'train.csv').exists()
    with pytest.raises(FileExistsError, match='other settings'):
        write_clips(tmp_path, ClipSettings(clips=60, frames=8, size=32, seed=5))
    (tmp_path / 'clips/000030.npy.tmp1').write_bytes(b'half')
    assert write_clips(tmp_path, SMALL)['clips'] == 40
    assert len(os.listdir(tmp_path / 'clips')) == 60


def test_foreign_folders_stay_as_they_are(tmp_path):
    (tmp_path / 'holiday.mp4').write_bytes(b'mine')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='might be real data'):
            write_clips(tmp_path, SMALL, overwrite=overwrite)
    assert os.listdir(tmp_path) == ['holiday.mp4']
    ours = tmp_path / 'ours'
    write_clips(ours, SMALL)
    (ours / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='--overwrite replaces'):
        write_clips(ours, SMALL)
    fewer = ClipSettings(clips=24, frames=8, size=32)
    write_clips(ours, fewer, overwrite=True)
    assert len(os.listdir(ours / 'clips')) == 24 and (ours / 'notes.txt').is_file()
    with pytest.raises(FileExistsError, match='is a file'):
        write_clips(ours / 'notes.txt', SMALL)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(clips=3), 'clips must be at least 24'),
        (dict(clips=60, classes=('left', 'away')), 'classes must be'),
        (dict(clips=60, classes=('left',)), 'two or more'),
        (dict(clips=60, frames=2), 'frames'),
        (dict(clips=60, drift=-1.0), 'drift'),
        (dict(clips=60, test_fraction=1.0), 'test_fraction'),
        (dict(clips=60, size=33, mp4=True), 'even'),
        (dict(clips=2 * 10**6), 'six digits'),
    ],
)
def test_bad_settings_raise(options, message):
    with pytest.raises(ValueError, match=message):
        ClipSettings(**options)


def small_cnn(classes):
    """A 3D CNN whose maps shrink to 1 x 1: it needs no pooling that forgets places."""
    layers = []
    sizes = [(3, 16, (3, 5, 5), (1, 4, 4)), (16, 32, 3, 2), (32, 48, 3, 2), (48, 48, 3, (1, 2, 2))]
    for before, after, kernel, stride in sizes:
        pad = 1 if kernel == 3 else (1, 2, 2)
        conv = nn.Conv3d(before, after, kernel, stride, pad, bias=False, padding_mode='circular')
        layers += [conv, nn.BatchNorm3d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(classes))


def train_cnn(train, test, view, epochs, seed=0):
    """Test accuracy of a CNN that sees ``view(clips, generator)`` of (B, T, S, S, 3) clips."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    def seen(clips):
        return view(clips, generator).permute(0, 4, 1, 2, 3).float() / 128 - 1

    net = small_cnn(12)
    net(seen(train[0][:2]))
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * (len(train[0]) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(epochs):
        order = torch.randperm(len(train[0]), generator=generator)
        for rows in order[: len(order) // 64 * 64].split(64):
            loss = F.cross_entropy(net(seen(train[0][rows])), train[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(seen(chunk)).argmax(1) for chunk in test[0].split(128)])
    return float((found == test[1]).float().mean()), float(loss.detach())


def one_frame(clips, generator):
    """A random frame of each."""
    rows = torch.randint(clips.shape[1], (len(clips),), generator=generator)
    return clips[torch.arange(len(clips)), rows][:, None]


def shuffled(clips, generator):
    order = torch.rand(clips.shape[:2], generator=generator).argsort(1)
    return clips[torch.arange(len(clips))[:, None], order]


# view, epochs
CONTROLS = {'one frame': (one_frame, 8), 'whole': (lambda c, _: c, 14), 'shuffled': (shuffled, 14)}


def control(name):
    """Accuracy on 1,200 test clips after training on 3,000."""
    settings = ClipSettings(clips=4200, frames=8, size=32)
    clips = torch.cat([render_clips(settings, n)[0] for n in torch.arange(4200).split(256)])
    labels = labels_of(settings, torch.arange(4200))
    view, epochs = CONTROLS[name]
    train, test = (clips[:3000], labels[:3000]), (clips[3000:], labels[3000:])
    top1, loss = train_cnn(train, test, view, epochs)
    print(f'{name}: {100 * top1:.1f} % of test clips, last training loss {loss:.2f}', flush=True)
    return top1


@pytest.mark.slow
def test_a_supervised_cnn_needs_the_frames_in_their_order():
    """One frame: chance. Whole clips: far above. Shuffled frames: at most what is left where five
    pairs of motions, each the other played backwards, cannot be told apart.
    """
    top1 = {name: control(name) for name in CONTROLS}
    assert abs(top1['one frame'] - 1 / 12) < 0.03
    assert top1['whole'] > 0.6
    assert top1['shuffled'] < 7 / 12 + 0.03
