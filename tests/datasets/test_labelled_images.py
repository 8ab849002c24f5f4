"""Labels from folders: order of the classes, parts of the labels, and layouts that don't fit."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from image_scenes import write_folder, write_image

from mmjepa.datasets import BadSampleError, LabelledImageDataset
from mmjepa.registry import DATASETS

CLASSES = ('n02', 'n10', 'n1')


@pytest.fixture
def root(tmp_path):
    for split, each in (('train', 10), ('val', 2)):
        write_folder(tmp_path / split, CLASSES, each=each)
    return tmp_path


def load(root, **options):
    return LabelledImageDataset(root, [lambda results: results], **options)


def found(data):
    """(path below the split, label) of all samples."""
    return [
        (Path(sample['path']).relative_to(data.folder).as_posix(), sample['label'])
        for sample in (data[i] for i in range(len(data)))
    ]


def test_classes_are_numbered_by_name_in_every_split(root):
    numbers = {'n02': 0, 'n1': 1, 'n10': 2}
    for split, each in (('train', 10), ('val', 2)):
        data = load(root, split=split)
        assert data.class_names == data.metainfo['classes'] == sorted(CLASSES)
        assert len(data) == 3 * each
        assert all(label == numbers[path.split('/')[0]] for path, label in found(data))
    # the split alone doesn't decide: a class in front of the others moves all of them
    write_image(root / 'train/a/0.png')
    write_image(root / 'val/a/0.png')
    assert dict(found(load(root, split='val')))['n02/00.JPEG'] == 1
    assert DATASETS.build(dict(type='LabelledImageDataset', data_root=root)).metainfo['split']


def test_fraction_is_a_fixed_choice_within_each_class(root):
    parts = [load(root, fraction=0.3, fraction_seed=seed) for seed in (0, 0, 1)]
    chosen = [found(part) for part in parts]
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(chosen[0]) <= set(found(load(root)))
    assert Counter(label for _, label in chosen[0]) == {0: 3, 1: 3, 2: 3}
    assert parts[0].metainfo['num_images'] == len(parts[0]) == 9
    least = Counter(label for _, label in found(load(root, fraction=0.01)))
    assert least == {0: 1, 1: 1, 2: 1}
    assert found(load(root, fraction=1.0)) == found(load(root))


def test_a_list_of_files(root):
    text = 'n10_17.JPEG\n\nn02/00.JPEG\n'
    write_image(root / 'train/n10/n10_17.JPEG')
    (root / 'list.txt').write_text(text)
    data = load(root, subset=root / 'list.txt')
    assert found(data) == [('n02/00.JPEG', 0), ('n10/n10_17.JPEG', 2)]
    assert data.class_names == sorted(CLASSES)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('no.JPEG\nn02/00.JPEG', '1 of 2 lines name no image'),
        ('same.JPEG', 'or several'),
        ('n02/00.JPEG\nn02/00.JPEG', 'or one again'),
        ('', 'name no image'),
    ],
)
def test_lists_that_do_not_fit(root, text, message):
    for name in ('n02', 'n10'):
        write_image(root / f'train/{name}/same.JPEG')
    (root / 'list.txt').write_text(text)
    with pytest.raises(ValueError, match=message):
        load(root, subset=root / 'list.txt')


def test_layouts_that_do_not_fit(root, tmp_path):
    def message(error, **options):
        with pytest.raises(error) as caught:
            load(root, **options)
        return str(caught.value)

    assert "no folder 'test'" in message(FileNotFoundError, split='test')
    assert 'absent: no such folder; its folders name' in message(
        FileNotFoundError, class_split='absent'
    )
    assert 'subset' in message(FileNotFoundError, subset=root / 'absent.txt')
    assert '3 class folders, 1000 needed: n02, n1, n10' in message(ValueError, num_classes=1000)
    assert 'fraction' in message(ValueError, fraction=0.0)
    assert 'beside a subset' in message(ValueError, fraction=0.5, subset=root / 'a')
    with pytest.raises(FileNotFoundError, match='no such folder'):
        load(root / 'absent')

    write_image(root / 'val/n3/0.png')
    assert "class 'n3' is not among" in message(ValueError, split='val')
    shutil.rmtree(root / 'val/n3')
    shutil.rmtree(root / 'val/n1')
    assert "no image of 1 classes of the split 'train', such as 'n1'" in message(
        ValueError, split='val'
    )
    (root / 'train/empty').mkdir()
    assert "such as 'empty'" in message(ValueError)
    (root / 'train/empty').rmdir()
    write_image(root / 'train/stray.png')
    assert 'stray.png: no class folder' in message(ValueError)
    (root / 'train/stray.png').unlink()
    for name in ('n10', 'n1'):
        shutil.rmtree(root / 'train' / name)
    assert '1 class folders, at least two needed: n02' in message(ValueError)
    shutil.rmtree(root / 'train/n02')
    write_image(root / 'train/0.png')
    assert '0 class folders' in message(ValueError)


def test_a_skipped_image_takes_the_label_of_its_successor(root):
    (root / 'train/n02/09.JPEG').write_bytes(b'')
    steps = [dict(type='ResizeCenterCrop', size=16, resize=16)]
    with pytest.raises(BadSampleError, match=r'n02/09\.JPEG'):
        LabelledImageDataset(root, steps)[9]
    sample = LabelledImageDataset(root, steps, on_error='skip')[9]
    assert sample['label'] == 1 and 'n1/' in sample['path']


def test_cifar10_archive(shared_dir, tmp_path):
    import zipfile

    with zipfile.ZipFile(shared_dir / 'data/images/cifar10_30k.zip') as file:
        names = [n for n in file.namelist() if n.endswith(('0000.jpg', '0001.jpg'))]
        file.extractall(tmp_path, names)
    train, test = (
        load(tmp_path / 'cifar10', split=split, num_classes=10) for split in ('train', 'test')
    )
    assert train.class_names == test.class_names
    assert train.class_names[0] == 'airplane' and train.class_names[9] == 'truck'
    assert len(train) == len(test) == 20
