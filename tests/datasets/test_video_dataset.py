"""Samples of videos: seeds, workers, bad files, decoders that hang, labels."""

import json
import pickle
import threading
import time

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader
from video_scenes import INSTALLED, write_lossless, write_npy

from mmjepa.datasets import (
    BadSampleError,
    LabelledVideoDataset,
    VideoBackend,
    VideoDataset,
    jepa_collate,
)
from mmjepa.datasets.video_backends import build_backend
from mmjepa.engine.sampler import ResumableBatchSampler
from mmjepa.registry import DATASETS


def pipeline(size=16, meta_keys=(), **clips):
    clips = {'num_frames': 4, 'frame_step': 2, **clips}
    return [
        {'type': 'SampleClips', **clips},
        {'type': 'RandomResizedCropVideo', 'size': size},
        {'type': 'PackJEPAInputs', 'keys': ['video'], 'meta_keys': list(meta_keys)},
    ]


@pytest.fixture
def root(tmp_path):
    """Four arrays and a list of them."""
    for i in range(4):
        write_npy(tmp_path / f'videos/my clip {i}.npy', 20, seed=i)
    (tmp_path / 'videos/train.csv').write_text(
        ''.join(f'my clip {i}.npy {i % 2}\n' for i in range(4))
    )
    return tmp_path / 'videos'


def video_of(sample):
    return sample['inputs']['video']


def stack(batch):
    return jepa_collate(batch, stack=['video'])


def batches(dataset, workers, start=0, count=3):
    sampler = ResumableBatchSampler(DefaultSampler(dataset, seed=3), batch_size=2)
    sampler.start_iteration = start
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=stack,
        multiprocessing_context='fork' if workers else None,
    )  # fmt: skip
    iterator = iter(loader)
    out = [next(iterator) for _ in range(count)]
    if workers:
        iterator._shutdown_workers()
    return out


class Hanging(VideoBackend):
    """Reads arrays, and sleeps over the files of some names."""

    def __init__(self, *names):
        self.names = names
        self.arrays = build_backend('npy')

    def open(self, path):
        if path.endswith(self.names):
            time.sleep(600)
        return self.arrays.open(path)


def test_samples(root):
    dataset = DATASETS.build(
        {'type': 'VideoDataset', 'data_root': root, 'sources': 'train.csv',
         'pipeline': pipeline(num_clips=2, meta_keys=['frame_ids'])}
    )  # fmt: skip
    assert len(dataset) == dataset.metainfo['num_videos'] == 4
    sample = dataset[2]
    assert video_of(sample).shape == (2, 4, 16, 16, 3) and video_of(sample).dtype == torch.uint8
    assert sample['data_samples']['path'] == str(root / 'my clip 2.npy')
    assert sample['data_samples']['sample_seed'] == 2
    assert torch.equal(video_of(dataset[(2, 2)]), video_of(sample))
    assert not torch.equal(video_of(dataset[(2, 3)]), video_of(sample))
    batch = stack([dataset[0], dataset[1]])
    assert batch['inputs']['video'].shape == (2, 2, 4, 16, 16, 3)


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_with_workers_and_after_a_resume(root, workers):
    weighted = [{'index': 'train.csv', 'weight': 3}, {'index': '.', 'weight': 1}]
    for sources in ('train.csv', weighted):
        dataset = VideoDataset(root, pipeline(), sources)
        expected = batches(dataset, 0)
        for start in (0, 1):
            for new, old in zip(batches(dataset, workers, start), expected[start:], strict=False):
                assert torch.equal(video_of(new), video_of(old))
                assert new['data_samples'] == old['data_samples']


def test_travels_to_spawned_workers(root):
    for backend in ('auto', {'type': 'auto', 'video': 'decord'}):
        dataset = VideoDataset(root, pipeline(backend=backend), 'train.csv')
        copy = pickle.loads(pickle.dumps(dataset))
        assert torch.equal(video_of(copy[(1, 5)]), video_of(dataset[(1, 5)]))


def test_labels_never_reach_pretraining(root):
    before = VideoDataset(root, pipeline(), 'train.csv')
    samples = [before[i] for i in range(4)]
    (root / 'train.csv').write_text(''.join(f'my clip {i}.npy 7\n' for i in range(4)))
    after = VideoDataset(root, pipeline(), 'train.csv')
    for i, old in enumerate(samples):
        assert torch.equal(video_of(after[i]), video_of(old))
        assert after[i]['data_samples'] == old['data_samples']
    assert not hasattr(after, 'labels')


def test_sources(root, tmp_path):
    write_npy(tmp_path / 'other/far.npy', 5)
    rows = [{'path': str(tmp_path / 'other/far.npy'), 'weight': 1}]
    (root / 'far.jsonl').write_text(json.dumps(rows[0]))
    both = VideoDataset(root, sources=['train.csv', 'far.jsonl'], indices=None)
    assert len(both) == 5 and both.get_path(4) == str(tmp_path / 'other/far.npy')
    assert len(VideoDataset(root)) == 4  # a folder
    chosen = VideoDataset(root, sources='train.csv', indices=[3, 1])
    assert [chosen.get_path(i)[-5] for i in range(2)] == ['3', '1']
    with pytest.raises(ValueError, match='indices and weights exclude each other'):
        VideoDataset(root, sources=['train.csv', 'far.jsonl'], indices=2)
    with pytest.raises(ValueError, match='1 of 2 sources have a weight'):
        VideoDataset(root, sources=[{'index': 'train.csv', 'weight': 1}, '.'])
    with pytest.raises(ValueError, match=r"got the keys \['index', 'wieght'\]"):
        VideoDataset(root, sources={'index': 'train.csv', 'wieght': 1})


def test_weights_choose_by_seed(root, tmp_path):
    write_npy(tmp_path / 'other/far.npy', 12)
    sources = [{'index': 'train.csv', 'weight': 1}, {'index': str(tmp_path / 'other'), 'weight': 4}]
    dataset = VideoDataset(root, pipeline(), sources)
    drawn = [dataset[(0, seed)]['data_samples']['index'] for seed in range(60)]
    assert 40 < drawn.count(4) < 58 and len(set(drawn)) > 2
    assert dataset[0]['data_samples']['index'] == 0  # a plain index is that row


def test_rows_without_weight_replace_no_bad_file(root):
    rows = [dict(path=f'my clip {i}.npy', weight=w) for i, w in enumerate((1, 1, 0, 1))]
    (root / 'w.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (root / 'my clip 1.npy').write_bytes(b'no array' * 500)
    dataset = VideoDataset(root, pipeline(), ['train.csv', 'w.jsonl'], on_error='skip')
    assert dataset[5]['data_samples']['index'] == 7  # not 6
    assert dataset[1]['data_samples']['index'] == 2  # rows without weights weigh the same
    assert dataset[6]['data_samples']['index'] == 6  # by its number


def test_wrong_root_is_said_at_once(root, tmp_path):
    (tmp_path / 'empty').mkdir()
    (root / 'w.csv').write_text('a.mp4 0\nb.mp4 1\n')
    with pytest.raises(FileNotFoundError, match=r'videos/a\.mp4: no such file, as 2 of 2'):
        VideoDataset(root, sources='w.csv')
    with pytest.raises(FileNotFoundError, match='no video in it'):
        VideoDataset(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match=r'no such folder\. Lists have lines'):
        VideoDataset(tmp_path / 'none')


# bad files ---------------------------------------------------------------------------------------

BAD = {
    'missing': (lambda path: path.unlink(), 'no such file'),
    'empty': (lambda path: path.write_bytes(b''), 'the file is empty'),
    'text': (lambda path: path.write_text('x' * 3000), 'numpy cannot read it'),
    'cut': (lambda path: path.write_bytes(path.read_bytes()[:9000]), 'numpy cannot read it'),
    'short': (lambda path: write_npy(path, 3), 'too short: 3 frames, at least 8'),
    'big': (lambda path: write_npy(path, 60), 'more than 1000000'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_files_raise_or_are_skipped_and_counted(root, kind):
    spoil, reason = BAD[kind]
    spoil(root / 'my clip 1.npy')
    steps = pipeline(short='refuse', max_bytes=10**6)
    with pytest.raises(BadSampleError, match=rf'my clip 1\.npy: .*{reason}'):
        VideoDataset(root, steps, 'train.csv')[1]
    dataset = VideoDataset(root, steps, 'train.csv', on_error='skip')
    sample = dataset[(1, 9)]
    assert sample['data_samples']['index'] == 2
    assert sample['data_samples']['skipped'] == [str(root / 'my clip 1.npy')]
    assert dataset.skipped == {str(root / 'my clip 1.npy'): 1}
    assert torch.equal(video_of(sample), video_of(dataset[(2, 9)]))


@pytest.mark.parametrize('name', ['decord', 'torchcodec', 'pyav', 'opencv'])
def test_unreadable_video_file(root, name):
    if name not in INSTALLED:
        pytest.skip(build_backend(name).missing())
    write_lossless(root / 'a.avi')
    (root / 'b.mp4').write_bytes(b'no video' * 500)
    (root / 'v.csv').write_text('b.mp4 0\na.avi 1\n')
    dataset = VideoDataset(root, pipeline(backend=name), 'v.csv', on_error='skip')
    assert dataset[0]['data_samples']['skipped'] == [str(root / 'b.mp4')]
    assert video_of(dataset[0]).shape == (1, 4, 16, 16, 3)


def test_hanging_decoder_is_left_behind(root):
    steps = pipeline(backend=Hanging('1.npy'), timeout=0.3)
    start = time.monotonic()
    with pytest.raises(BadSampleError, match=r'my clip 1\.npy: no frames after 0\.3 s'):
        VideoDataset(root, steps, 'train.csv')[1]
    dataset = VideoDataset(root, steps, 'train.csv', on_error='skip')
    assert dataset[1]['data_samples']['skipped'] == [str(root / 'my clip 1.npy')]
    assert time.monotonic() - start < 30
    assert any('my clip 1.npy' in thread.name for thread in threading.enumerate())
    assert all(t.daemon for t in threading.enumerate() if 'my clip' in t.name)


def test_worker_with_a_hanging_decoder_goes_on_and_ends(root):
    dataset = VideoDataset(
        root, pipeline(backend=Hanging('1.npy'), timeout=0.3), 'train.csv', on_error='skip'
    )
    start = time.monotonic()
    loader = DataLoader(
        dataset, batch_size=4, num_workers=1, collate_fn=stack, multiprocessing_context='fork'
    )
    (batch,) = list(loader)
    assert [len(s['skipped']) for s in batch['data_samples']] == [0, 1, 0, 0]
    assert time.monotonic() - start < 60


# labels ------------------------------------------------------------------------------------------


def test_labelled(root):
    dataset = LabelledVideoDataset(root, pipeline(meta_keys=['label']), 'train.csv')
    assert dataset.labels().tolist() == [0, 1, 0, 1]
    assert dataset[3]['data_samples']['label'] == 1
    assert dataset.metainfo['classes'] == ['0', '1']
    part = LabelledVideoDataset(root, sources='train.csv', indices=[3, 2], class_names=['a', 'b'])
    assert part.labels().tolist() == [1, 0] and part.class_names == ['a', 'b']
    assert len(LabelledVideoDataset(root, sources='train.csv', num_classes=5).class_names) == 5


def test_labels_that_do_not_fit(root):
    with pytest.raises(ValueError, match='labels from 0 to 1, 3 classes and 2 names'):
        LabelledVideoDataset(root, sources='train.csv', num_classes=3, class_names=['a', 'b'])
    with pytest.raises(ValueError, match='a source without labels'):
        LabelledVideoDataset(root)
    (root / 'l.csv').write_text('my clip 0.npy 0\nmy clip 1.npy -1\n')
    with pytest.raises(ValueError, match='labels from -1 to 0'):
        LabelledVideoDataset(root, sources='l.csv')


# real files --------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['decord', 'torchcodec', 'pyav', 'opencv'])
def test_real_clips_of_which_one_is_damaged(shared_dir, name):
    """A good one is read, the damaged one is skipped under its name."""
    if name not in INSTALLED:
        pytest.skip(build_backend(name).missing())
    steps = pipeline(num_frames=8, frame_step=4, backend=name, max_bytes=650_000)
    dataset = VideoDataset(shared_dir / 'data/video', steps, on_error='skip')
    files = [dataset.get_path(i).rsplit('/', 1)[1] for i in range(len(dataset))]
    assert len(files) == 8
    damaged = files.index('corrupted.mp4')
    # eight frames may lie before the damage; sixteen reach over it
    dataset.pipeline[0].num_frames = 16
    skipped = dataset[damaged]['data_samples']['skipped']
    assert skipped == [str(shared_dir / 'data/video/corrupted.mp4')]
    small = files.index('part_0.mp4')
    assert np.asarray(video_of(dataset[small])).std() > 5
    assert not dataset[small]['data_samples']['skipped']
