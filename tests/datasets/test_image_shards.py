import io
import os
import pickle
import tarfile
import time

import numpy as np
import pytest
import torch
from image_scenes import DAMAGES, damage, encode, photo, write_folder
from torch.utils.data import DataLoader

from mmjepa.datasets import (
    BadSampleError,
    ImageFolderDataset,
    TarShardDataset,
    image_shards,
    jepa_collate,
)
from mmjepa.datasets.file_index import cache_dir
from mmjepa.datasets.image_shards import is_image_member, shard_table
from mmjepa.registry import DATASETS

PIPELINE = [
    {'type': 'LoadCroppedImage', 'size': 16},
    {'type': 'PackJEPAInputs', 'keys': ['image'], 'meta_keys': ['crop', 'image_hw']},
]


def write_shard(path, members):
    """A tar file of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def age(*paths):
    """Shards changed just now are not cached."""
    old = time.time() - 60
    for path in paths:
        os.utime(path, (old, old))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / 'folder/train')


@pytest.fixture
def shards(tmp_path, folder):
    """The folder's images in two shards, each with a label and a mask beside it."""
    root = tmp_path / 'shards'
    files = sorted(folder.rglob('*.JPEG'))
    mask = encode(photo(), 'PNG')
    for number, part in enumerate((files[:4], files[4:])):
        members = []
        for file in part:
            key = f'{file.parent.name}/{file.stem}'
            members += [(f'{key}.cls', b'7'), (f'{key}.jpg', file.read_bytes()),
                        (f'{key}.seg.png', mask), (f'{key}.json', b'{}')]  # fmt: skip
        write_shard(root / f'train-{number:04d}.tar', members)
    write_shard(root / 'val-0000.tar', [('v.jpg', files[0].read_bytes())])
    age(*root.iterdir())
    return root


def train(root, **options):
    return TarShardDataset(root, PIPELINE, shards='train-*.tar', **options)


def same(a, b):
    samples = {**a['data_samples'], 'path': 0} == {**b['data_samples'], 'path': 0}
    return samples and torch.equal(a['inputs']['image'], b['inputs']['image'])


# samples -----------------------------------------------------------------------------------------


def test_samples_are_those_of_the_folder_bit_for_bit(folder, shards):
    plain, packed = ImageFolderDataset(folder, PIPELINE, split=None), train(shards)
    assert len(packed) == len(plain) == 6
    assert packed.metainfo['num_images'] == 6
    for i in range(6):
        for seed in (i, 2**60 + i):
            assert same(packed[(i, seed)], plain[(i, seed)])
    assert packed.get_path(4) == f'{shards}/train-0001.tar/bees/11.jpg'
    assert same(packed[-1], plain[-1])


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_read_the_same(shards, workers):
    dataset = train(shards)
    keys = [[(5, 1), (0, 2)], [(3, 3), (4, 4)], [(1, 5), (2, 6)]]
    before = [[dataset[key] for key in batch] for batch in keys]  # shards are open when forking
    loader = DataLoader(
        dataset, batch_sampler=keys, num_workers=workers, multiprocessing_context='fork',
        collate_fn=lambda batch: jepa_collate(batch, stack=['image']),
    )  # fmt: skip
    for batch, expected in zip(loader, before, strict=True):
        assert batch['data_samples'] == [sample['data_samples'] for sample in expected]
        images = [sample['inputs']['image'] for sample in expected]
        assert torch.equal(batch['inputs']['image'], torch.stack(images))


def test_dataset_travels_to_spawned_workers(shards):
    dataset = train(shards)
    dataset[0]
    assert same(pickle.loads(pickle.dumps(dataset))[(3, 7)], dataset[(3, 7)])


def test_few_shards_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(image_shards, '_OPEN_SHARDS', 2)
    for i in range(5):
        write_shard(tmp_path / f'd/{i}.tar', [('a.jpg', encode(photo(seed=i)))])
    dataset = TarShardDataset(tmp_path / 'd', PIPELINE, shards='*.tar')
    first = [dataset[i] for i in range(5)]
    assert list(dataset._open) == [3, 4]
    assert all(same(dataset[i], first[i]) for i in range(5))


def test_only_images_are_read(shards, monkeypatch):
    reads = []
    pread = os.pread
    monkeypatch.setattr(os, 'pread', lambda *a: reads.append(a[1:]) or pread(*a))
    dataset = train(shards)
    for i in range(6):
        dataset[i]
    assert sorted(size for size, _ in reads) == sorted(int(size) for size in dataset._size)
    assert len(reads) == 6


# which images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'image'),
    [('0001.jpg', True), ('dir.v2/n01_1.JPEG', True), ('a.png', True), ('a.webp', True),
     ('a.cls', False), ('a.seg.png', False), ('a.jpg.txt', False), ('dir.png/readme', False),
     ('.jpg', False), ('d/._a.jpg', False)],
)  # fmt: skip
def test_names_are_read_as_webdataset_does(name, image):
    assert is_image_member(name) is image


def test_shards_are_chosen_by_pattern(shards):
    val = TarShardDataset(shards, shards='val-*.tar')
    assert [val.get_path(i) for i in range(len(val))] == [f'{shards}/val-0000.tar/v.jpg']
    assert len(TarShardDataset(shards, shards=['train-0001.tar', 'val-*.tar'])) == 3
    config = {'type': 'TarShardDataset', 'data_root': shards, 'shards': '*.tar'}
    assert len(DATASETS.build(config)) == 7
    with pytest.raises(TypeError, match='shards'):
        TarShardDataset(shards)


def test_indices(shards):
    dataset = train(shards, indices=[5, 0])
    assert [os.path.basename(dataset.get_path(i)) for i in range(2)] == ['12.jpg', '00.jpg']
    assert same(dataset[(0, 9)], {**train(shards)[(5, 9)], 'data_samples': {
        **train(shards)[(5, 9)]['data_samples'], 'index': 0}})  # fmt: skip
    with pytest.raises(ValueError, match='there are 6 images'):
        train(shards, indices=7)


def test_absent_shards_say_what_is_there(tmp_path, shards):
    with pytest.raises(FileNotFoundError, match=r'no such folder.*webdataset'):
        train(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r"matches 'test\*'.*e\.g\. \['train-0000\.tar'"):
        TarShardDataset(shards, shards='test*')
    write_shard(tmp_path / 'texts/0.tar', [('a.txt', b'1'), ('a.seg.png', b'2')])
    with pytest.raises(FileNotFoundError, match='no image .*first dot of its name'):
        TarShardDataset(tmp_path / 'texts', shards='*.tar')


# bad shards and members --------------------------------------------------------------------------


@pytest.mark.parametrize('place', ['header', 'image', 'mask'])
def test_truncated_shard(shards, place):
    path = shards / 'train-0000.tar'
    with tarfile.open(path) as tar:
        image, mask = tar.getmembers()[9:11]  # of the third sample
    end = {'header': image.offset + 99, 'image': image.offset_data + 99, 'mask': mask.offset_data}
    path.write_bytes(path.read_bytes()[: end[place] + 99])
    with pytest.raises(BadSampleError, match=r'train-0000\.tar: .*Fetch the shard again'):
        train(shards)
    whole = train(shards, on_error='skip')
    assert len(whole) == 2 + (3 if place == 'mask' else 2)
    assert all(whole[i]['data_samples']['skipped'] == [] for i in range(len(whole)))


def test_shard_cut_between_members_or_damaged_in_a_header(shards):
    path = shards / 'train-0001.tar'
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        header = tar.getmembers()[4].offset  # the second image's first member
    for spoilt in (data[:header], data[:header] + b'\xff' * 600 + data[header + 600 :]):
        path.write_bytes(spoilt)
        with pytest.raises(BadSampleError, match=rf'nor the end mark at byte {header}'):
            train(shards)
        assert len(train(shards, on_error='skip')) == 5


def test_compressed_and_other_files(tmp_path):
    with tarfile.open(tmp_path / 'z.tar', 'w:gz') as tar:
        tar.add(__file__, 'a.jpg')
    (tmp_path / 'e.tar').write_bytes(b'')
    for name in ('z.tar', 'e.tar'):
        with pytest.raises(BadSampleError, match='no tar file, compressed, or truncated'):
            TarShardDataset(tmp_path, shards=name)


@pytest.mark.parametrize('kind', [kind for kind in DAMAGES if kind != 'missing'])
def test_bad_member(tmp_path, folder, kind):
    damage(folder / 'ants/01.JPEG', kind)
    members = [(f'{p.stem}.jpg', p.read_bytes()) for p in sorted(folder.rglob('*.JPEG'))]
    write_shard(tmp_path / 'shards/train-0.tar', members)
    said = DAMAGES[kind] if kind != 'empty' else '0 bytes of 0'
    with pytest.raises(BadSampleError, match=rf'train-0\.tar/01\.jpg: .*{said}'):
        train(tmp_path / 'shards')[1]
    sample = train(tmp_path / 'shards', on_error='skip')[(1, 9)]
    assert sample['data_samples']['skipped'] == [f'{tmp_path}/shards/train-0.tar/01.jpg']
    assert sample['data_samples']['index'] == 2


def test_shard_that_went_away(shards):
    dataset = train(shards)
    (shards / 'train-0001.tar').unlink()
    with pytest.raises(BadSampleError, match='Is the shard still there'):
        dataset[5]
    dataset[0]


# the cache of offsets ----------------------------------------------------------------------------


def test_offsets_are_cached_until_the_shard_changes(shards, monkeypatch):
    path = shards / 'train-0000.tar'
    first = shard_table(str(path))
    with monkeypatch.context() as patch:
        patch.setattr(image_shards, '_walk_shard', lambda *_: pytest.fail('walked again'))
        cached = shard_table(str(path))
        with pytest.raises(pytest.fail.Exception):
            shard_table(str(path), cache=False)
    assert list(cached.names) == list(first.names) and cached.damage == ''
    assert np.array_equal(cached.offsets, first.offsets)
    assert np.array_equal(cached.sizes, first.sizes)
    write_shard(path, [('new.jpg', encode(photo()))])
    assert list(shard_table(str(path)).names) == ['new.jpg']


def test_a_fresh_shard_is_not_cached(tmp_path):
    write_shard(tmp_path / 'a.tar', [('a.jpg', b'1')])
    shard_table(str(tmp_path / 'a.tar'))
    assert not list(cache_dir().glob('*'))


def test_damaged_cache_is_ignored(shards):
    path = str(shards / 'train-0000.tar')
    first = shard_table(path)
    (file,) = cache_dir().glob('shard_*.npz')
    for content in (b'', b'PK\x03\x04 nothing', file.read_bytes()[:-40]):
        file.write_bytes(content)
        assert list(shard_table(path).names) == list(first.names)


def test_cached_damage_is_still_told(shards):
    path = shards / 'train-0000.tar'
    path.write_bytes(path.read_bytes()[:-9000])
    age(path)
    for _ in range(2):
        with pytest.raises(BadSampleError, match='truncated'):
            train(shards)
    assert len(list(cache_dir().glob('shard_*.npz'))) == 1
