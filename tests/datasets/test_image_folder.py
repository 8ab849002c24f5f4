import logging
import os
import pickle
import shutil
import sys
import time

import numpy as np
import pytest
import torch
from image_scenes import DAMAGES, damage, write_folder, write_image
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader

from mmjepa.datasets import (
    BadSampleError,
    ImageFolderDataset,
    file_index,
    image_folder,
    jepa_collate,
    sample_dataset,
)
from mmjepa.datasets.file_index import cache_dir, scan_files
from mmjepa.datasets.image_files import is_image
from mmjepa.engine.sampler import ResumableBatchSampler
from mmjepa.registry import DATASETS

PIPELINE = [
    {'type': 'LoadCroppedImage', 'size': 16},
    {'type': 'PackJEPAInputs', 'keys': ['image'], 'meta_keys': ['crop', 'image_hw']},
]


@pytest.fixture
def said(monkeypatch):
    """Log lines of the dataset, as (level, text)."""
    lines = []
    for module in (image_folder, sample_dataset):
        monkeypatch.setattr(
            module, 'print_log',
            lambda text, logger=None, level=logging.INFO: lines.append((level, text)),
        )  # fmt: skip
    return lines


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet's layout: two classes of three images to train, one image each to validate."""
    write_folder(tmp_path / 'in1k/train')
    write_folder(tmp_path / 'in1k/val', each=1)
    return tmp_path / 'in1k'


def scan_images(folder, cache=True):
    return scan_files(folder, 'images', is_image, cache=cache)


def names(dataset):
    return [os.path.relpath(dataset.get_path(i), dataset.folder) for i in range(len(dataset))]


def image_of(sample):
    return sample['inputs']['image']


def stack(batch):
    return jepa_collate(batch, stack=['image'])


# which images ------------------------------------------------------------------------------------


def test_imagenet_layout(imagenet, said):
    train = ImageFolderDataset(imagenet)
    assert names(train) == [f'{c}/{i}.JPEG' for c, i in
                            [('ants', '00'), ('ants', '01'), ('ants', '02'),
                             ('bees', '10'), ('bees', '11'), ('bees', '12')]]  # fmt: skip
    assert train.metainfo['num_images'] == 6
    assert said == [(logging.INFO, f'ImageFolderDataset: 6 images (6 .jpeg) from '
                                   f"{imagenet}/train, split 'train'")]  # fmt: skip
    assert names(ImageFolderDataset(imagenet, split='val')) == ['ants/00.JPEG', 'bees/10.JPEG']
    assert len(ImageFolderDataset(imagenet, split=None)) == 8


def test_any_folder_at_any_depth_sorted_by_path(tmp_path):
    root = tmp_path / 'photos'
    for i, name in enumerate(['z.png', 'a/b/c.JPG', 'a/b.jpeg', 'label/x.webp', 'images/y.bmp']):
        kind = {'.png': 'PNG', '.webp': 'WEBP', '.bmp': 'BMP'}.get(name[name.index('.') :], 'JPEG')
        write_image(root / name, i, kind=kind)
    (root / 'notes.txt').write_text('no image')
    write_image(root / '.thumbs/t.jpg')
    write_image(root / 'a/._c.jpg')
    dataset = ImageFolderDataset(root, PIPELINE)
    assert names(dataset) == ['a/b.jpeg', 'a/b/c.JPG', 'images/y.bmp', 'label/x.webp', 'z.png']
    assert all(image_of(dataset[i]).shape == (3, 16, 16) for i in range(5))


def test_folders_that_are_linked(tmp_path):
    write_image(tmp_path / 'disk2/n02/1.jpg')
    write_image(tmp_path / 'data/n01/1.jpg')
    (tmp_path / 'data/n02').symlink_to(tmp_path / 'disk2/n02')
    (tmp_path / 'data/n01/up').symlink_to(tmp_path / 'data')
    assert list(scan_images(tmp_path / 'data')) == ['n01/1.jpg', 'n02/1.jpg']


def test_splits_are_never_mixed_by_chance(tmp_path, imagenet):
    with pytest.raises(FileNotFoundError, match=r"no folder 'test' in it \(only \['train', 'val'"):
        ImageFolderDataset(imagenet, split='test')
    write_folder(tmp_path / 'coco/train2017', each=1)
    write_folder(tmp_path / 'coco/val2017', each=1)
    with pytest.raises(FileNotFoundError, match=r"only \['train2017', 'val2017'\]"):
        ImageFolderDataset(tmp_path / 'coco')
    assert len(ImageFolderDataset(tmp_path / 'coco', split='train2017')) == 2
    write_folder(tmp_path / 'plain')
    with pytest.raises(FileNotFoundError, match='Set split to a folder, or to None'):
        ImageFolderDataset(tmp_path / 'plain', split='val')


def test_class_named_train_is_no_split(imagenet):
    """CIFAR-100 has classes 'train' and 'tank': data_root may be the split by mistake."""
    write_image(imagenet / 'train/train/1.jpg')
    with pytest.raises(ValueError, match='a split, or a class'):
        ImageFolderDataset(imagenet / 'train')
    assert len(ImageFolderDataset(imagenet)) == 7
    assert len(ImageFolderDataset(imagenet / 'train', split=None)) == 7


def test_indices(imagenet):
    assert names(ImageFolderDataset(imagenet, indices=2)) == ['ants/00.JPEG', 'ants/01.JPEG']
    chosen = ImageFolderDataset(imagenet, indices=[5, 0])
    assert names(chosen) == ['bees/12.JPEG', 'ants/00.JPEG']
    for indices in (7, [6], [-1], 0):
        with pytest.raises(ValueError, match='there are 6 images'):
            ImageFolderDataset(imagenet, indices=indices)


def test_absent_data_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no such folder.*image-net\.org') as caught:
        ImageFolderDataset(tmp_path / 'none')
    assert f'{tmp_path}/none/train/<class>/*.JPEG' in str(caught.value)
    (tmp_path / 'empty/train').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'train: no image \(.*\.jpg.*image-net\.org'):
        ImageFolderDataset(tmp_path / 'empty')
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match=r'not a folder\. Ask Ann'):
        ImageFolderDataset(tmp_path / 'file', download_hint='Ask Ann')


def test_unreadable_folder_is_named(imagenet, monkeypatch):
    def refuse(path):
        raise PermissionError(13, 'Permission denied', path)

    monkeypatch.setattr(os, 'scandir', refuse)
    with pytest.raises(PermissionError, match=r'in1k/train cannot be read; check its permissions'):
        ImageFolderDataset(imagenet)


# labels ------------------------------------------------------------------------------------------


def test_labels_are_the_folders_names(imagenet):
    train = ImageFolderDataset(imagenet)
    assert train.class_names == ['ants', 'bees']
    assert train.labels().tolist() == [0, 0, 0, 1, 1, 1]
    # numbers mean the same in a part, and in a split that lacks a class
    assert ImageFolderDataset(imagenet, indices=[4, 0]).labels().tolist() == [1, 0]
    shutil.rmtree(imagenet / 'val/ants')
    val = ImageFolderDataset(imagenet, split='val')
    assert val.labels(train.class_names).tolist() == [1]


def test_images_without_a_class(imagenet):
    with pytest.raises(ValueError, match=r"bees/10\.JPEG: the class 'bees' is not among the names"):
        ImageFolderDataset(imagenet).labels(['ants'])
    write_image(imagenet / 'val/loose.jpg')
    with pytest.raises(ValueError, match=r'loose\.jpg: no class folder; labels need .*val/<class>'):
        ImageFolderDataset(imagenet, split='val').labels()


def test_class_names_do_not_reach_the_samples(imagenet):
    dataset = ImageFolderDataset(imagenet, PIPELINE)
    before = [dataset[(i, 100 + i)] for i in range(6)]
    (imagenet / 'train/ants').rename(imagenet / 'train/x1')
    (imagenet / 'train/bees').rename(imagenet / 'train/x2')
    renamed = ImageFolderDataset(imagenet, PIPELINE)
    assert renamed.class_names == ['x1', 'x2']
    for i, old in enumerate(before):
        new = renamed[(i, 100 + i)]
        assert torch.equal(image_of(new), image_of(old))
        assert {**new['data_samples'], 'path': 0} == {**old['data_samples'], 'path': 0}


# samples -----------------------------------------------------------------------------------------


def test_sample_is_a_function_of_its_seed(imagenet):
    config = {'type': 'ImageFolderDataset', 'data_root': imagenet, 'pipeline': PIPELINE}
    dataset = DATASETS.build(config)
    assert torch.equal(image_of(dataset[2]), image_of(dataset[(2, 2)]))
    assert torch.equal(image_of(dataset[(2, 77)]), image_of(dataset[(2, 77)]))
    assert not torch.equal(image_of(dataset[(2, 77)]), image_of(dataset[(2, 78)]))
    assert dataset[(2, 2**61 + 5)]['data_samples']['sample_seed'] == 2**61 + 5
    assert dataset[np.int64(-1)]['data_samples']['index'] == 5
    assert dataset[0]['data_samples']['image_hw'] == (60, 80)
    with pytest.raises(IndexError):
        dataset[6]


def batches(dataset, workers, start=0, count=4):
    sampler = ResumableBatchSampler(DefaultSampler(dataset, seed=3), batch_size=2)
    sampler.start_iteration = start
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=stack,
        multiprocessing_context='fork' if workers else None,
    )  # fmt: skip
    iterator = iter(loader)
    out = [next(iterator) for _ in range(count)]
    if workers:
        iterator._shutdown_workers()  # left to the garbage collector it takes 5 s
    return out


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_with_workers_and_after_a_resume(imagenet, workers):
    dataset = ImageFolderDataset(imagenet, PIPELINE)
    expected = batches(dataset, 0)
    assert expected[0]['inputs']['image'].shape == (2, 3, 16, 16)
    for start in (0, 2):
        for new, old in zip(batches(dataset, workers, start), expected[start:], strict=False):
            assert torch.equal(new['inputs']['image'], old['inputs']['image'])
            assert new['data_samples'] == old['data_samples']


def test_dataset_travels_to_spawned_workers(imagenet):
    dataset = ImageFolderDataset(imagenet, PIPELINE)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(image_of(copy[(1, 5)]), image_of(dataset[(1, 5)]))


def _audit(event, args):
    if _audit.opened is not None and event in ('open', 'os.scandir', 'os.listdir'):
        _audit.opened.append(str(args[0]))


_audit.opened = None
sys.addaudithook(_audit)  # sees every open of the process


def test_no_other_file_is_opened(imagenet):
    (imagenet / 'train/labels.csv').write_text('a,b')
    (imagenet / 'LOC_train_solution.csv').write_text('a,b')
    dataset = ImageFolderDataset(imagenet, PIPELINE, cache_index=False)
    dataset[0]  # modules are imported
    _audit.opened = []
    dataset = ImageFolderDataset(imagenet, PIPELINE, cache_index=False)
    for i in range(6):
        dataset[i]
    opened, _audit.opened = _audit.opened, None
    below = [path for path in opened if path.startswith(str(imagenet))]
    assert sum(path.endswith('.JPEG') for path in below) == 6
    assert not [path for path in below if path.endswith('.csv')]


# the cache of the scan ---------------------------------------------------------------------------


def age(folder):
    """Folders changed just now are not cached."""
    old = time.time() - 60
    for root, _, _ in os.walk(folder):
        os.utime(root, (old, old))


def test_scan_is_cached_until_a_file_comes_or_goes(imagenet, monkeypatch):
    age(imagenet)
    first = list(scan_images(imagenet / 'train'))
    with monkeypatch.context() as patch:
        patch.setattr(file_index, '_walk', lambda *_: pytest.fail('scanned again'))
        assert list(scan_images(imagenet / 'train')) == first
        with pytest.raises(pytest.fail.Exception):
            scan_images(imagenet / 'train', cache=False)
    write_image(imagenet / 'train/bees/13.JPEG')
    assert list(scan_images(imagenet / 'train')) == [*first, 'bees/13.JPEG']
    age(imagenet)
    scan_images(imagenet / 'train')
    (imagenet / 'train/ants/00.JPEG').unlink()
    assert list(scan_images(imagenet / 'train')) == [*first[1:], 'bees/13.JPEG']
    assert not list(imagenet.rglob('*.json'))  # nothing is written into the data


def test_fresh_folders_are_not_cached(imagenet):
    scan_images(imagenet)
    assert not list(cache_dir().glob('*'))


@pytest.mark.parametrize('content', ['{', '[]', '{"version": 1}'])
def test_damaged_cache_is_ignored_and_repaired(imagenet, content, monkeypatch):
    age(imagenet)
    first = list(scan_images(imagenet))
    (file,) = cache_dir().glob('images_*.json')
    file.write_text(content)
    assert list(scan_images(imagenet)) == first
    monkeypatch.setattr(file_index, '_walk', lambda *_: pytest.fail('scanned again'))
    assert list(scan_images(imagenet)) == first


# bad images --------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', DAMAGES)
def test_bad_image_raises_naming_the_file(imagenet, kind):
    dataset = ImageFolderDataset(imagenet, PIPELINE)
    damage(imagenet / 'train/ants/01.JPEG', kind)
    with pytest.raises(BadSampleError, match=rf'ants/01\.JPEG: .*{DAMAGES[kind]}'):
        dataset[1]
    dataset[0]


@pytest.mark.parametrize('kind', DAMAGES)
def test_bad_image_is_replaced_when_told_to_skip(imagenet, kind, said):
    dataset = ImageFolderDataset(imagenet, PIPELINE, on_error='skip')
    bad = [str(imagenet / f'train/ants/0{i}.JPEG') for i in (1, 2)]
    for i in (1, 2):
        damage(imagenet / f'train/ants/0{i}.JPEG', kind)
    sample = dataset[(1, 99)]
    assert sample['data_samples']['skipped'] == bad
    assert sample['data_samples']['index'] == 3
    assert sample['data_samples']['sample_seed'] == 99
    assert torch.equal(image_of(sample), image_of(dataset[(3, 99)]))  # the same seed
    assert torch.equal(image_of(sample), image_of(dataset[(1, 99)]))  # deterministic
    assert dict(dataset.skipped) == dict.fromkeys(bad, 2)
    warnings = [text for level, text in said if level == logging.WARNING]
    assert any(bad[1] in text and '2 bad files, 2 skips, of 6' in text for text in warnings)
    assert dataset[0]['data_samples']['skipped'] == []


def test_all_bad_ends_with_an_error(imagenet):
    dataset = ImageFolderDataset(imagenet, PIPELINE, on_error='skip')
    for path in (imagenet / 'train').rglob('*.JPEG'):
        damage(path, 'html')
    with pytest.raises(BadSampleError, match=r'none of the 6 images can be used; the last one: '):
        dataset[2]


def test_a_bad_file_met_often_does_not_flood_the_log(imagenet, said):
    dataset = ImageFolderDataset(imagenet, PIPELINE, on_error='skip')
    damage(imagenet / 'train/ants/00.JPEG', 'empty')
    for _ in range(100):
        dataset[0]
    assert dataset.skipped.total() == 100
    assert sum(level == logging.WARNING for level, _ in said) == 7  # 1, 2, 4, ... 64


def test_worker_errors_keep_their_kind(imagenet):
    damage(imagenet / 'train/ants/00.JPEG', 'truncated')
    loader = DataLoader(
        ImageFolderDataset(imagenet, PIPELINE), collate_fn=stack, num_workers=1,
        multiprocessing_context='fork',
    )  # fmt: skip
    iterator = iter(loader)
    with pytest.raises(BadSampleError, match=r'ants/00\.JPEG: truncated'):
        next(iterator)
    iterator._shutdown_workers()


def test_other_errors_are_not_skipped(imagenet):
    def broken(results):
        raise RuntimeError('a bug in a transform')

    dataset = ImageFolderDataset(imagenet, [broken], on_error='skip')
    with pytest.raises(RuntimeError, match='a bug in a transform'):
        dataset[0]


def test_missing_opencv_is_no_bad_image(imagenet, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    dataset = ImageFolderDataset(imagenet, PIPELINE, on_error='skip')
    with pytest.raises(ImportError, match=r"pip install 'mmjepa\[image\]'"):
        dataset[0]


def test_on_error_has_two_values(imagenet):
    with pytest.raises(ValueError, match='on_error must be'):
        ImageFolderDataset(imagenet, on_error='ignore')
