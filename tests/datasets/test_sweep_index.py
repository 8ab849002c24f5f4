import json
import os
import pickle
import time

import pytest

from mmjepa.datasets import file_index
from mmjepa.datasets.file_index import PathList, atomic_write, cache_dir
from mmjepa.datasets.sweep_index import scan_sweeps, select_split


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')


def age(folder):
    """Folders changed just now are not cached."""
    old = time.time() - 60
    for root, _, _ in os.walk(folder):
        os.utime(root, (old, old))


def test_path_list():
    names = ['a/b.bin', 'ä.npy', 'c.pcd']
    paths = pickle.loads(pickle.dumps(PathList(names)))
    assert list(paths) == names
    assert paths[-1] == 'c.pcd'
    assert paths[1:] == names[1:]
    with pytest.raises(IndexError):
        paths[3]


def test_scan_leaves_labels_images_and_hidden_folders_out(tmp_path):
    root = tmp_path / 'data'
    touch(root / 'b/2.bin', root / 'a/1.pcd.bin', root / 'x.npy', root / 'label_2/1.bin',
          root / '.git/1.bin', root / 'image_2/1.npy', root / 'readme.txt')  # fmt: skip
    assert list(scan_sweeps(root)) == ['a/1.pcd.bin', 'b/2.bin', 'x.npy']
    assert list(scan_sweeps(root, ['.bin'])) == ['b/2.bin']


def test_scan_survives_a_link_to_a_parent(tmp_path):
    touch(tmp_path / 'data/a/1.bin')
    (tmp_path / 'data/a/up').symlink_to(tmp_path / 'data')
    assert list(scan_sweeps(tmp_path / 'data')) == ['a/1.bin']


def test_scan_is_cached_until_a_folder_changes(tmp_path, monkeypatch):
    root = tmp_path / 'data'
    touch(root / 'a/1.bin', root / 'a/2.bin')
    age(root)
    first = list(scan_sweeps(root))
    with monkeypatch.context() as patch:
        patch.setattr(file_index, '_walk', lambda *_: pytest.fail('scanned again'))
        assert list(scan_sweeps(root)) == first
    touch(root / 'a/3.bin')
    assert list(scan_sweeps(root)) == [*first, 'a/3.bin']
    assert not list(root.rglob('*.json'))  # nothing is written into the data


def test_fresh_folders_are_not_cached(tmp_path):
    touch(tmp_path / 'data/1.bin')
    scan_sweeps(tmp_path / 'data')
    assert not list(cache_dir().glob('*'))


@pytest.mark.parametrize('damage', ['{', '[]', '{"version": 1}'])
def test_damaged_cache_is_ignored(tmp_path, damage):
    root = tmp_path / 'data'
    touch(root / '1.bin')
    age(root)
    scan_sweeps(root)
    (file,) = cache_dir().glob('sweeps_*.json')
    file.write_text(damage)
    assert list(scan_sweeps(root)) == ['1.bin']
    assert json.loads(file.read_text())['paths'] == ['1.bin']  # and repaired


def test_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    touch(tmp_path / 'data/1.bin', tmp_path / 'file')
    age(tmp_path / 'data')
    monkeypatch.setenv('MMJEPA_CACHE', str(tmp_path / 'file' / 'cache'))  # below a file
    assert list(scan_sweeps(tmp_path / 'data')) == ['1.bin']


def test_atomic_write_leaves_nothing_behind(tmp_path, monkeypatch):
    target = tmp_path / 'out' / 'a'
    assert atomic_write(target, b'new')

    def refuse(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', refuse)
    assert not atomic_write(target, b'newer')
    assert [path.name for path in target.parent.iterdir()] == ['a']
    assert target.read_bytes() == b'new'


def test_select_split_by_frame_and_by_sequence():
    paths = ['000001.bin', '000002.bin', '12.bin']
    assert select_split(paths, ['000002', '000009']) == (['000002.bin'], ['000009'])
    paths = ['data/000076/lidar_roof/1.bin', 'segment-1_with/0000.npy', 'segment-2/0000.npy']
    entries = ['000076', 'segment-1_with.tfrecord']
    assert select_split(paths, entries) == (paths[:2], [])
