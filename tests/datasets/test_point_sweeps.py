import logging
import os
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmjepa.datasets import (
    BadSampleError,
    PointSweepDataset,
    jepa_collate,
    point_sweeps,
    sample_dataset,
)
from mmjepa.engine.config import load_config
from mmjepa.registry import DATASETS

KITTI_RANGE = [0, -40, -3, 70.4, 40, 1]
PIPELINE = [
    {'type': 'LoadPoints'},
    {'type': 'CropToCameraView'},
    {'type': 'RandomFlipPoints'},
    {'type': 'GlobalRotScale'},
    {'type': 'PointsRangeFilter', 'point_cloud_range': KITTI_RANGE},
    {'type': 'PointShuffle'},
    {'type': 'PackJEPAInputs'},
]


@pytest.fixture
def said(monkeypatch):
    """Log lines of the dataset, as (level, text)."""
    lines = []
    for module in (point_sweeps, sample_dataset):
        monkeypatch.setattr(
            module, 'print_log',
            lambda text, logger=None, level=logging.INFO: lines.append((level, text)),
        )  # fmt: skip
    return lines


@pytest.fixture
def folder(tmp_path, make_sweep):
    """Five good sweeps in a plain folder."""
    for i in range(5):
        make_sweep(tmp_path / f'sweeps/{i}.bin', seed=i)
    return tmp_path / 'sweeps'


@pytest.fixture
def kitti(tmp_path, make_sweep):
    """A KITTI folder: training 0-5 split 4 + 2, testing 0-1, label files."""
    root = tmp_path / 'kitti'
    for i in range(6):
        make_sweep(root / f'training/velodyne/{i:06d}.bin', seed=i)
        (root / 'training/label_2').mkdir(exist_ok=True)
        (root / f'training/label_2/{i:06d}.txt').write_text('Car 0 0 0 1 2 3 4 1 1 1 0 0 9 0\n')
    for i in range(2):
        make_sweep(root / f'testing/velodyne/{i:06d}.bin', seed=9 + i)
    (root / 'ImageSets').mkdir()
    for split, frames in (('train', '0145'), ('val', '23'), ('test', '01')):
        lines = [f'{int(frame):06d}' for frame in frames]
        (root / f'ImageSets/{split}.txt').write_text('\n'.join(lines) + '\n')
    return root


def names(dataset):
    return [os.path.basename(dataset.get_path(i)).split('.')[0] for i in range(len(dataset))]


def points_of(sample):
    return sample['inputs']['points']


# which sweeps ------------------------------------------------------------------------------------


@pytest.mark.parametrize('inside', ['', 'training', 'training/velodyne'])
def test_split_is_obeyed_and_no_other_sweep_is_read(kitti, inside, monkeypatch, said):
    opened = []
    fromfile = np.fromfile
    monkeypatch.setattr(
        np, 'fromfile', lambda path, *a, **k: opened.append(str(path)) or fromfile(path, *a, **k)
    )
    dataset = PointSweepDataset(kitti / inside, PIPELINE, split='train')
    for i in range(len(dataset)):
        dataset[i]
    assert sorted(os.path.basename(path)[5] for path in opened) == ['0', '1', '4', '5']
    assert dataset.metainfo['num_sweeps'] == 4
    assert any('ImageSets/train.txt: 4 entries; 6 sweeps there' in text for _, text in said)


def test_other_splits(kitti):
    assert names(PointSweepDataset(kitti, split='val')) == ['000002', '000003']
    assert len(PointSweepDataset(kitti, split=None)) == 6
    test = PointSweepDataset(kitti, split='test')
    assert all('testing/velodyne' in test.get_path(i) for i in range(2))


def test_unknown_split_names_those_there(kitti, folder):
    with pytest.raises(FileNotFoundError, match=r"trainval\.txt.*'test\.txt', 'train\.txt'"):
        PointSweepDataset(kitti, split='trainval')
    with pytest.raises(FileNotFoundError, match=r'no ImageSets folder.*split=None'):
        PointSweepDataset(folder, split='val')


def test_kitti_folder_below_data_root_must_be_named(kitti):
    with pytest.raises(ValueError, match=rf'Set data_root={kitti}'):
        PointSweepDataset(kitti.parent)
    assert len(PointSweepDataset(kitti.parent, split=None)) == 8


def test_kitti_without_split_files_warns(kitti, said):
    shutil.rmtree(kitti / 'ImageSets')
    assert len(PointSweepDataset(kitti)) == 6
    assert said[0][0] == logging.WARNING
    assert 'every sweep' in said[0][1]


def test_frames_of_the_split_that_are_missing(kitti, said):
    (kitti / 'training/velodyne/000004.bin').unlink()
    with pytest.raises(FileNotFoundError, match=r'4 frames.*1 of them.*first: 000004'):
        PointSweepDataset(kitti)
    assert names(PointSweepDataset(kitti, on_error='skip')) == ['000000', '000001', '000005']
    assert '1 of them without a sweep' in said[-1][1]


def test_any_folder_with_mixed_kinds(tmp_path, make_sweep, said):
    make_sweep(tmp_path / 'd/b/1.bin')
    make_sweep(tmp_path / 'd/a/1.pcd.bin', dim=5)
    make_sweep(tmp_path / 'd/c.npy')
    dataset = PointSweepDataset(tmp_path / 'd')
    assert [os.path.relpath(dataset.get_path(i), tmp_path / 'd') for i in range(3)] == [
        'a/1.pcd.bin', 'b/1.bin', 'c.npy',
    ]  # fmt: skip
    assert '1 .bin, 1 .npy, 1 .pcd.bin' in said[0][1]
    assert len(PointSweepDataset(tmp_path / 'd', suffixes=['.npy'])) == 1
    mixed = PointSweepDataset(tmp_path / 'd', PIPELINE, use_dim=4)
    assert {points_of(mixed[i]).shape[1] for i in range(3)} == {4}


def test_sequences_of_a_split(tmp_path, make_sweep):
    make_sweep(tmp_path / 'once/data/000076/lidar_roof/1.bin')
    make_sweep(tmp_path / 'once/data/000080/lidar_roof/1.bin')
    (tmp_path / 'once/ImageSets').mkdir()
    (tmp_path / 'once/ImageSets/raw_small.txt').write_text('000080\n')
    dataset = PointSweepDataset(tmp_path / 'once', split='raw_small')
    assert len(dataset) == 1
    assert '000080' in dataset.get_path(0)


def test_indices(folder):
    assert names(PointSweepDataset(folder, indices=2)) == ['0', '1']
    assert names(PointSweepDataset(folder, indices=[4, 0])) == ['4', '0']
    for indices in (6, [5], [-1], 0):
        with pytest.raises(ValueError, match='there are 5 sweeps'):
            PointSweepDataset(folder, indices=indices)


def test_load_interval(kitti, folder, said):
    assert names(PointSweepDataset(folder, load_interval=2)) == ['0', '2', '4']
    assert names(PointSweepDataset(folder, load_interval=2, indices=[1])) == ['2']
    # of the split, not of the folder
    assert names(PointSweepDataset(kitti, load_interval=3)) == ['000000', '000005']
    assert 'PointSweepDataset: 2 sweeps' in said[-1][1]
    assert 'one in 3 of 4' in said[-1][1]


@pytest.fixture
def waymo(tmp_path, make_sweep):
    """mmdet3d's kitti_format: 11 train frames of two sequences, 6 of validation beside them."""
    root = tmp_path / 'waymo/kitti_format'
    frames = [f'0{i // 6:03d}{i % 6:03d}' for i in range(11)] + [f'1000{i:03d}' for i in range(6)]
    for i, frame in enumerate(frames):
        make_sweep(root / f'training/velodyne/{frame}.bin', seed=i, dim=6)
    (root / 'ImageSets').mkdir()
    for split, prefix in (('train', '0'), ('val', '1')):
        lines = [f'{frame}\n' for frame in frames if frame[0] == prefix]
        (root / f'ImageSets/{split}.txt').write_text(''.join(lines))
    return root


@pytest.fixture
def waymo_dataset(repo):
    def build(root, **options):
        cfg = load_config(repo / 'configs/adl_jepa/waymo.py', {'data_root': str(root), **options})
        return DATASETS.build(cfg.train_dataloader.dataset)

    return build


def test_waymo_config_reads_every_fifth_train_frame(waymo, waymo_dataset, monkeypatch):
    opened = []
    fromfile = np.fromfile
    monkeypatch.setattr(
        np, 'fromfile', lambda path, *a, **k: opened.append(str(path)) or fromfile(path, *a, **k)
    )
    dataset = waymo_dataset(waymo)
    for i in range(len(dataset)):
        assert points_of(dataset[i]).shape[1] == 5
    read = [os.path.basename(path) for path in opened]
    assert read == ['0000000.bin', '0000005.bin', '0001004.bin']
    everything = waymo_dataset(waymo, load_interval=1)
    assert len(everything) == 11
    assert {name[0] for name in names(everything)} == {'0'}


def test_waymo_lists_that_were_made_without_images(waymo, waymo_dataset):
    (waymo / 'ImageSets/train.txt').write_text('')
    with pytest.raises(FileNotFoundError, match=r'train\.txt is empty.*image_0.*begin with 0'):
        waymo_dataset(waymo)


@pytest.mark.parametrize(
    ('config', 'said'),
    [('kitti', 'sim-kitti --out {}'), ('waymo', 'Waymo Open Dataset'), ('once', 'raw_small'),
     ('nuscenes', 'nuscenes.org')],
)  # fmt: skip
def test_absent_data_of_each_config(repo, tmp_path, config, said):
    root = tmp_path / 'absent'
    cfg = load_config(repo / f'configs/adl_jepa/{config}.py', {'data_root': str(root)})
    with pytest.raises(FileNotFoundError, match='no such folder') as caught:
        DATASETS.build(cfg.train_dataloader.dataset)
    assert said.format(root) in str(caught.value)
    assert ('cvlibs.net' in str(caught.value)) == (config == 'kitti')


def test_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        PointSweepDataset(tmp_path / 'none')
    text = str(caught.value)
    assert 'no such folder' in text
    assert 'eval_object.php' in text
    assert f'python tools/create_data.py sim-kitti --out {tmp_path}/none' in text
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no sweep.*sim-kitti'):
        PointSweepDataset(tmp_path / 'empty')
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match='not a folder'):
        PointSweepDataset(tmp_path / 'file')


def test_unreadable_folder_is_named(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(PermissionError, match=rf'{folder} cannot be read; check its permissions'):
        PointSweepDataset(folder)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [({'on_error': 'ignore'}, 'on_error must be'), ({'suffixes': ['.las']}, r"\['\.las'\] unknown"),
     ({'load_dim': 2}, 'at least 3'), ({'load_interval': 0}, 'load_interval must be')],
)  # fmt: skip
def test_impossible_settings_raise(folder, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PointSweepDataset(folder, **kwargs)


# samples -----------------------------------------------------------------------------------------


def test_sample_is_a_function_of_its_seed(folder):
    dataset = DATASETS.build(
        {'type': 'PointSweepDataset', 'data_root': folder, 'pipeline': PIPELINE}
    )
    assert torch.equal(points_of(dataset[2]), points_of(dataset[(2, 2)]))
    assert torch.equal(points_of(dataset[(2, 77)]), points_of(dataset[(2, 77)]))
    assert not torch.equal(points_of(dataset[(2, 77)]), points_of(dataset[(2, 78)]))
    assert dataset[(2, 2**61 + 5)]['data_samples']['sample_seed'] == 2**61 + 5
    assert dataset[np.int64(-1)]['data_samples']['index'] == 4
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize('workers', [1, 2])
def test_samples_are_the_same_with_workers(folder, workers):
    dataset = PointSweepDataset(folder, PIPELINE)
    batches = [[(0, 10), (3, 11)], [(1, 12), (4, 13)]]
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=jepa_collate,
        multiprocessing_context='fork',
    )  # fmt: skip
    for batch, keys in zip(loader, batches, strict=True):
        assert [meta['sample_seed'] for meta in batch['data_samples']] == [s for _, s in keys]
        for points, key in zip(batch['inputs']['points'], keys, strict=True):
            assert torch.equal(points, points_of(dataset[key]))


def _audit(event, args):
    if _audit.opened is not None and event in ('open', 'os.scandir', 'os.listdir'):
        _audit.opened.append(str(args[0]))


_audit.opened = None
sys.addaudithook(_audit)  # sees every open of the process, numpy's too


def test_labels_are_never_opened(kitti):
    before = [points_of(PointSweepDataset(kitti, PIPELINE)[i]) for i in range(4)]
    _audit.opened = []
    dataset = PointSweepDataset(kitti, PIPELINE, cache_index=False)
    for i in range(4):
        dataset[i]
    opened, _audit.opened = _audit.opened, None
    assert sum(path.endswith('.bin') for path in opened) == 4  # the watch works
    assert any('calib' in path for path in opened)
    assert not [path for path in opened if 'label_2' in path]
    shutil.rmtree(kitti / 'training/label_2')
    dataset = PointSweepDataset(kitti, PIPELINE)
    assert all(torch.equal(points_of(dataset[i]), before[i]) for i in range(4))


def test_data_root_is_not_written_to(kitti):
    def listing():
        return sorted((str(path), path.stat().st_mtime_ns) for path in kitti.rglob('*'))

    before = listing()
    dataset = PointSweepDataset(kitti, PIPELINE)
    dataset[0]
    assert listing() == before


# bad input ---------------------------------------------------------------------------------------


def damage(folder, kind, number):
    path = folder / f'{number}.bin'
    good = np.fromfile(path, np.float32).reshape(-1, 4)
    if kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'truncated':
        path.write_bytes(good.tobytes()[:-5])
    elif kind == 'not finite':
        good[: len(good) * 6 // 10, 1] = np.nan
        good.tofile(path)
    elif kind == 'far':
        (good * 1e4).tofile(path)
    elif kind == 'out of range':
        (good + np.array([0, 0, 50, 0])).astype(np.float32).tofile(path)
    elif kind == 'hardly any':
        good[2:, 0] += 100
        good.tofile(path)
    elif kind == 'dimension':
        np.pad(good, ((0, 0), (0, 2))).tofile(path)
    elif kind == 'missing':
        path.unlink()


BAD = {
    'empty': 'the file is empty',
    'truncated': 'not a whole number of points',
    'not finite': 'only 240 of 600 points are finite',
    'far': 'points are finite and within 300 m',
    'out of range': 'none of its 600 points lies in point_cloud_range',
    'hardly any': '2 of its 600 points lie in point_cloud_range',
    'dimension': 'look like 6 values per point',
    'missing': 'no such file',
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_sweep_raises_naming_the_file(folder, kind):
    dataset = PointSweepDataset(folder, PIPELINE)
    damage(folder, kind, 1)
    with pytest.raises(BadSampleError, match=rf'sweeps/1\.bin: .*{BAD[kind]}'):
        dataset[1]
    dataset[0]


@pytest.mark.parametrize('kind', BAD)
def test_bad_sweep_is_replaced_when_told_to_skip(folder, kind, said):
    dataset = PointSweepDataset(folder, PIPELINE, on_error='skip')
    damage(folder, kind, 1)
    damage(folder, kind, 2)
    bad = [str(folder / '1.bin'), str(folder / '2.bin')]
    sample = dataset[(1, 99)]
    assert sample['data_samples']['skipped'] == bad
    assert sample['data_samples']['index'] == 3
    assert sample['data_samples']['sample_seed'] == 99
    assert torch.equal(points_of(sample), points_of(dataset[(3, 99)]))  # the same seed
    assert torch.equal(points_of(sample), points_of(dataset[(1, 99)]))  # deterministic
    assert dict(dataset.skipped) == dict.fromkeys(bad, 2)
    warnings = [text for level, text in said if level == logging.WARNING]
    assert any(bad[1] in text and '2 bad files, 2 skips, of 5' in text for text in warnings)
    assert dataset[0]['data_samples']['skipped'] == []


def test_all_bad_ends_with_an_error(folder):
    dataset = PointSweepDataset(folder, PIPELINE, on_error='skip')
    for i in range(5):
        damage(folder, 'truncated', i)
    with pytest.raises(
        BadSampleError, match=r'none of the 5 sweeps can be used; the last one: .*1\.bin'
    ):
        dataset[2]


def test_a_bad_file_met_often_does_not_flood_the_log(folder, said):
    dataset = PointSweepDataset(folder, PIPELINE, on_error='skip')
    damage(folder, 'empty', 0)
    for _ in range(100):
        dataset[0]
    assert dataset.skipped.total() == 100
    assert sum(level == logging.WARNING for level, _ in said) == 7  # 1, 2, 4, ... 64


def test_worker_errors_keep_their_kind(folder):
    damage(folder, 'truncated', 0)
    loader = DataLoader(
        PointSweepDataset(folder, PIPELINE), collate_fn=jepa_collate, num_workers=1,
        multiprocessing_context='fork',
    )  # fmt: skip
    iterator = iter(loader)
    with pytest.raises(BadSampleError, match=r'0\.bin'):
        next(iterator)
    iterator._shutdown_workers()  # left to the garbage collector it takes 5 s


def test_other_errors_are_not_skipped(folder):
    def broken(results):
        raise RuntimeError('a bug in a transform')

    dataset = PointSweepDataset(folder, [broken], on_error='skip')
    with pytest.raises(RuntimeError, match='a bug in a transform'):
        dataset[0]


# real data ---------------------------------------------------------------------------------------


def test_real_kitti_pipeline_is_fast_and_plausible(shared_dir):
    dataset = PointSweepDataset(shared_dir / 'data/kitti', PIPELINE)
    assert len(dataset) == 6
    times = []
    for k in range(12):
        start = time.perf_counter()
        sample = dataset[(k % 3, k)]  # whole sweeps
        times.append(time.perf_counter() - start)
        points = points_of(sample)
        assert sample['data_samples']['fov_cropped']
        assert 14_000 < len(points) < 22_000
        low, high = torch.tensor(KITTI_RANGE[:3]), torch.tensor(KITTI_RANGE[3:])
        assert ((points[:, :3] >= low) & (points[:, :3] < high)).all()
    assert min(times) < 0.015  # the machine may be busy
