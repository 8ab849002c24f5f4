"""The simulated data set on disk: layout, image sets, resuming, refusals."""

import io
import json

import numpy as np
import pytest
import torch

from mmjepa.datasets.kitti import KittiCalib, KittiObjects
from mmjepa.datasets.lidar_sim import SimSettings, writer
from mmjepa.datasets.lidar_sim.writer import DONE, PARTIAL, write_data_set

SMALL = SimSettings(frames=3, seed=4, frustum_only=True, val_fraction=0.34)


def _write(out, settings=SMALL, **options):
    options = {'workers': 1, 'caster': 'auto', 'device': 'cpu', 'stream': io.StringIO(), **options}
    return write_data_set(out, settings, **options)


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp('sim') / 'kitti'
    return out, _write(out)


def test_a_whole_kitti_folder(written):
    out, result = written
    assert result['frames'] == 4
    for number in range(3):
        name = f'{number:06d}'
        points = np.fromfile(out / 'training/velodyne' / f'{name}.bin', np.float32).reshape(-1, 4)
        assert 10_000 < len(points) < 30_000
        calib = KittiCalib.from_file(out / 'training/calib' / f'{name}.txt')
        assert calib.fov_mask(points).all()
        assert len(KittiObjects.from_file(out / 'training/label_2' / f'{name}.txt'))
        assert (out / 'training/image_2' / f'{name}.png').is_file()
    assert (out / 'testing/velodyne/000000.bin').is_file()
    assert not (out / 'testing/label_2').exists()
    sets = {p.stem: p.read_text().split() for p in (out / 'ImageSets').glob('*.txt')}
    assert set(sets) == {'train', 'val', 'trainval', 'test'}
    assert sorted(sets['train'] + sets['val']) == sets['trainval']
    assert sets['trainval'] == ['000000', '000001', '000002']
    assert len(sets['val']) == 1
    assert sets['test'] == ['000000']
    assert json.loads((out / DONE).read_text())['seed'] == 4
    assert not list(out.rglob('*.tmp*'))
    assert not (out / PARTIAL).exists()


def test_two_workers_write_the_same_bytes(written, tmp_path):
    out, _ = written
    stream = io.StringIO()
    _write(tmp_path / 'b', workers=2, stream=stream)
    assert _contents(tmp_path / 'b') == _contents(out)
    assert '4/4 frames' in stream.getvalue()
    assert 'ETA' in stream.getvalue()


def test_an_interrupted_run_goes_on(written, tmp_path, monkeypatch):
    out, _ = written
    write_one, calls = writer._write_one, []

    def failing(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return write_one(*args)

    monkeypatch.setattr(writer, '_write_one', failing)
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / 'c')
    assert (tmp_path / 'c' / PARTIAL).is_file()
    assert not (tmp_path / 'c' / DONE).exists()
    assert not (tmp_path / 'c' / 'ImageSets').exists()
    leftover = tmp_path / 'c/training/velodyne/000002.bin.tmp1'
    leftover.write_bytes(b'half')
    with pytest.raises(FileExistsError, match='other settings'):
        _write(tmp_path / 'c', SimSettings(frames=3, seed=5))
    monkeypatch.setattr(writer, '_write_one', lambda *args: calls.append(args) or write_one(*args))
    _write(tmp_path / 'c')
    assert len(calls) == 4  # two before, two after
    assert not leftover.exists()
    assert _contents(tmp_path / 'c') == _contents(out)


def test_existing_folders_are_safe(written, tmp_path):
    out, _ = written
    with pytest.raises(FileExistsError, match='--overwrite replaces it'):
        _write(out)
    foreign = tmp_path / 'real'
    (foreign / 'training').mkdir(parents=True)
    (foreign / 'training' / 'x.bin').write_bytes(b'1')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='not empty and holds no simulated'):
            _write(foreign, overwrite=overwrite)
    assert (foreign / 'training' / 'x.bin').read_bytes() == b'1'
    with pytest.raises(FileExistsError, match='is a file'):
        _write(foreign / 'training' / 'x.bin')


def test_overwrite_replaces_only_the_data_set(tmp_path):
    out = tmp_path / 'd'
    _write(out, SimSettings(frames=2, frustum_only=True))
    (out / 'notes.txt').write_text('mine')
    (out / 'kitti_infos_train.pkl').write_bytes(b'old')
    _write(out, SimSettings(frames=1, frustum_only=True, test_frames=0), overwrite=True)
    assert [path.name for path in (out / 'training/velodyne').iterdir()] == ['000000.bin']
    assert not (out / 'testing').exists()
    assert not (out / 'kitti_infos_train.pkl').exists()
    assert (out / 'notes.txt').read_text() == 'mine'


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'frames': 0}, 'frames must be at least 1'),
        ({'frames': 1, 'seed': -1}, 'seed must not be negative'),
        ({'frames': 1, 'val_fraction': 1.0}, 'val_fraction'),
        ({'frames': 1, 'test_frames': -1}, 'test_frames'),
        ({'frames': 10**7}, 'six digits'),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ValueError, match=message):
        SimSettings(**values)


def test_bad_run_makes_no_folder(tmp_path):
    with pytest.raises(ValueError, match='workers must be at least 1'):
        _write(tmp_path / 'e', workers=0)
    with pytest.raises(ValueError, match='caster must be one of'):
        _write(tmp_path / 'e', caster='embree')
    assert not (tmp_path / 'e').exists()


def test_splits_are_disjoint_and_complete():
    splits = SimSettings(frames=50, val_fraction=0.2, test_frames=3).splits()
    assert len(splits['val']) == 10
    assert not set(splits['train']) & set(splits['val'])
    assert sorted(splits['train'] + splits['val']) == splits['trainval'] == list(range(50))
    assert splits['test'] == [0, 1, 2]
    assert SimSettings(frames=50, seed=1).splits()['val'] != splits['val']
    assert SimSettings(frames=2, val_fraction=0.01).splits()['val']
    assert SimSettings(frames=4, val_fraction=0.0).splits()['val'] == []


@pytest.mark.parametrize(
    ('device', 'cores', 'workers'), [('cuda:0', 16, 4), ('cuda', 2, 2), ('cpu', 16, 16)]
)
def test_workers_follow_the_device_that_is_used(tmp_path, monkeypatch, device, cores, workers):
    """Not the one named: 'auto' may turn out to be CUDA."""

    class Used:
        name = 'torch'

    class Stop(Exception):
        pass

    Used.device = torch.device(device)
    counts = []

    def jobs(out, settings, jobs, workers, caster):
        counts.append(workers)
        raise Stop

    monkeypatch.setattr(writer, 'make_caster', lambda *_: Used())
    monkeypatch.setattr(writer, '_frames_done', jobs)
    monkeypatch.setattr(writer.os, 'sched_getaffinity', lambda _: range(cores), raising=False)
    many = SimSettings(frames=50, seed=4)
    with pytest.raises(Stop):
        _write(tmp_path / 'a', many, workers=None, device='auto')
    with pytest.raises(Stop):
        _write(tmp_path / 'b', many, workers=3, device='auto')
    assert counts == [workers, 3]
