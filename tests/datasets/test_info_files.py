"""Info files: what is read, what is refused, and that writing is all or nothing."""

import collections
import os
import pickle

import numpy as np
import pytest

from mmjepa.datasets import info_files
from mmjepa.datasets.info_files import (
    InfoFileError,
    load_plain,
    read_infos,
    write_plain,
    write_whole,
)

CONTENT = {
    'metainfo': {'dataset': 'kitti', 'info_version': '1.1', 'categories': {'Car': 0}},
    'data_list': [
        {
            'sample_idx': 3,
            'array': np.arange(6, dtype=np.float32).reshape(2, 3),
            'names': np.array(['Car', 'Van']),
            'scalar': np.float64(0.5),
            'flag': np.bool_(True),
            'instances': [{'bbox_3d': [1.0, 2.0], 'none': None, 'pair': (1, 2)}],
        }
    ],
}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_plain_data_of_every_protocol(tmp_path, protocol):
    path = tmp_path / 'kitti_infos_train.pkl'
    content = {**CONTENT, 'ordered': collections.OrderedDict(a=1)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    infos = read_infos(path)
    frame = infos['data_list'][0]
    np.testing.assert_array_equal(frame['array'], CONTENT['data_list'][0]['array'])
    assert frame['array'].dtype == np.float32
    assert frame['names'].tolist() == ['Car', 'Van']
    assert (frame['scalar'], bool(frame['flag'])) == (0.5, True)
    assert frame['instances'] == CONTENT['data_list'][0]['instances']
    assert infos['ordered'] == {'a': 1}


@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_files_of_either_numpy(tmp_path, module):
    data = pickle.dumps({'a': np.arange(3.0)}, protocol=2)
    for name in (b'numpy.core', b'numpy._core'):
        data = data.replace(b'c' + name + b'.multiarray', b'c' + module.encode() + b'.multiarray')
    path = tmp_path / 'x.pkl'
    path.write_bytes(data)
    assert module.encode() in data
    np.testing.assert_array_equal(load_plain(path)['a'], [0, 1, 2])


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_pickled_code_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / 'kitti_infos_train.pkl'
    content = {**CONTENT, 'more': Trap(tmp_path / 'ran')}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InfoFileError, match=r'posix\.mkdir|nt\.mkdir') as caught:
        read_infos(path)
    assert 'nothing was run' in str(caught.value)
    assert not (tmp_path / 'ran').exists()
    pickle.loads(path.read_bytes())  # the trap itself works
    assert (tmp_path / 'ran').exists()


def test_builtins_are_refused(tmp_path):
    path = tmp_path / 'x.pkl'
    path.write_bytes(b"cbuiltins\neval\n(S'1+1'\ntR.")
    with pytest.raises(InfoFileError, match=r'builtins\.eval'):
        load_plain(path)


@pytest.mark.parametrize(
    'content',
    [[{'image': {'image_idx': 0}}], {'infos': [], 'metadata': {'version': 'v1.0-trainval'}}],
)
def test_info_files_of_mmdet3d_0(tmp_path, content):
    path = tmp_path / 'nuscenes_infos_train.pkl'
    write_plain(content, path)
    with pytest.raises(InfoFileError, match=r'mmdet3d 0\.x') as caught:
        read_infos(path)
    assert str(path) in str(caught.value)
    assert f'create_data.py nuscenes --root {tmp_path}' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'data_list': []}, "no dict 'metainfo'"),
        ({'metainfo': {}, 'data': []}, "no list 'data_list'.*metainfo, data"),
        ('text', 'holds a str'),
    ],
)
def test_other_content(tmp_path, content, message):
    path = tmp_path / 'my.pkl'
    write_plain(content, path)
    with pytest.raises(InfoFileError, match=message):
        read_infos(path)


def test_damaged_files(tmp_path):
    path = tmp_path / 'kitti_infos_val.pkl'
    with pytest.raises(FileNotFoundError, match='create_data'):
        read_infos(path)
    whole = pickle.dumps(CONTENT)
    for damaged in (b'', whole[: len(whole) // 2], b'not a pickle', whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(InfoFileError, match='truncated, damaged or no pickle') as caught:
            read_infos(path)
        assert str(path) in str(caught.value)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / 'deep' / 'kitti_infos_train.pkl'
    write_plain(CONTENT, path)
    before = path.read_bytes()

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(info_files.os, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(b'new', path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
