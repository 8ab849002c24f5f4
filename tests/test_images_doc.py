"""docs/images.md: its files are extracted, its commands are run on a few images, in order."""

import re
import runpy
import shlex
import subprocess
import sys

import cv2
import numpy as np
import pytest
from dense_scenes import link_listed, write_coco, write_masks

from mmjepa.engine.config import load_config

# what makes the page's commands short; each must be on it
SHORT = {
    '2400 600': '36 12',
    'max_iters=600': 'max_iters=2',
    'iter_600': 'iter_2',
    'batch_size=64': 'batch_size=4',
    'num_workers=1': 'num_workers=0',
    'max_epochs=5': 'max_epochs=1',
    'epoch_5': 'epoch_1',
    'max_iters=2000': 'max_iters=2',
    'iter_2000': 'iter_2',
    'image_size=256': 'image_size=128',
}
MORE = {'tools/train.py': ['log_interval=1'], 'tools/probe.py': ['--k', '3', '--epochs', '1']}
DENSE = ('work_dirs/det', 'work_dirs/seg')
ELSEWHERE = ('tools/dist_train.sh', '--amp')  # ImageNet, COCO, CIFAR-10, or GPUs


@pytest.fixture(scope='module')
def page(repo):
    return (repo / 'docs/images.md').read_text()


@pytest.fixture
def folder(page, repo, tmp_path):
    """A checkout with the page's own files in it."""
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(repo / name)
    files = dict(re.findall(r'```python title="([\w.]+)"\n(.*?)```', page, re.DOTALL))
    assert set(files) == {'make_scenes.py', 'cifar_folders.py', 'shards.py', 'read_exported.py'}
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    return tmp_path


def commands(page):
    """Words of every command on the page, with the shell's variables filled in."""
    blocks = re.findall(r'```bash\n(.*?)```', page, re.DOTALL)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    variables: dict[str, str] = {}
    for line in lines:
        if found := re.fullmatch(r"(\w+)='(.*)'", line):
            variables[f'${found[1]}'] = found[2]
            continue
        for name, value in variables.items():
            line = line.replace(name, value)
        yield shlex.split(line, comments=True)


def short(text):
    for long, brief in SHORT.items():
        text = text.replace(long, brief)
    return text


def run(words, monkeypatch):
    """A command in this process, which saves an import of everything for each."""
    words = shlex.split(short(shlex.join(words)))
    if words[0] == 'tar':
        subprocess.run(words, check=True)
        return
    assert words[0] == 'python', words
    monkeypatch.setattr(sys, 'argv', words[1:])
    file = runpy.run_path(words[1])
    if words[1].startswith('tools/'):
        file['main']([*words[2:], *MORE.get(words[1], [])])


def is_one_of(words, kinds):
    return any(kind in word for kind in kinds for word in words)


def test_the_walk(page, folder, monkeypatch, capsys):
    """Scenes, shards, pre-training, pictures, probes, fine-tuning, export; then the features."""
    assert all(long in page for long in SHORT)
    for words in commands(page):
        here = words and words[0] in ('python', 'tar') and not is_one_of(words, ELSEWHERE)
        if here and not is_one_of(words, DENSE):
            run(words, monkeypatch)
    out = capsys.readouterr().out
    for protocol in ('knn', 'linear', 'attentive', 'finetune'):
        assert re.search(rf'^{protocol} +top-1', out, re.MULTILINE), out[-3000:]
    work = folder / 'work_dirs'
    assert (work / 'scenes/00000_iter_2.png').is_file()
    for name in ('shards/iter_2.pth', 'scenes_dmt/iter_2.pth', 'cls/epoch_1.pth'):
        assert (work / name).is_file(), name
    assert 'loaded 51/51 tensors into backbone' in ''.join(
        path.read_text() for path in (work / 'cls').rglob('*.log')
    )
    (code,) = re.findall(r'```python\n(from mmjepa.apis.*?)```', page, re.DOTALL)
    names: dict = {}
    exec(short(code), names)
    assert tuple(names['tokens'].shape) == (8, 8, 64)
    assert runpy.run_path('read_exported.py')['model'].config.hidden_size == 64


def test_the_rest_names_what_there_is(page, repo, folder):
    """Configs, options and arguments of the commands that need more than this machine."""
    parse = runpy.run_path(str(repo / 'tools/train.py'))['parse_args']
    checked = 0
    for words in commands(page):
        if is_one_of(words, ELSEWHERE):
            start = 2 if words[0] == 'python' else 1
            arguments = words[start:] if start == 2 else [words[1], *words[3:]]
            args = parse(arguments)
            load_config(args.config, args.cfg_options)
            checked += 1
    assert checked == 5
    for link in re.findall(r'\]\((\.\./[^)#]+)', page):
        assert (repo / 'docs' / link).exists(), link
    for link in re.findall(r'!\[[^]]*\]\((images/[^)]+)', page):
        assert (repo / 'docs' / link).is_file(), link


def test_cifar_becomes_folders(folder):
    rng = np.random.default_rng(0)
    source = folder / 'data/cifar-10-batches-bin'
    source.mkdir(parents=True)
    (source / 'batches.meta.txt').write_text('airplane\nautomobile\nbird\n\n')
    rows = rng.integers(0, 256, (6, 3073), dtype=np.uint8)
    rows[:, 0] = [0, 1, 2, 0, 1, 2]
    for name, part in (('data_batch_1', rows[:3]), ('data_batch_2', rows[3:5])):
        part.tofile(source / f'{name}.bin')
    rows[5:].tofile(source / 'test_batch.bin')
    runpy.run_path('cifar_folders.py')
    found = {
        str(path.relative_to(folder / 'data/cifar10')): cv2.imread(str(path))
        for path in (folder / 'data/cifar10').rglob('*.png')
    }
    assert len(found) == 6
    image = found['train/automobile/data_batch_2_00001.png']
    assert np.array_equal(image[..., ::-1].transpose(2, 0, 1).ravel(), rows[4, 1:])
    assert 'test/bird/test_batch_00000.png' in found


@pytest.mark.slow
def test_detection_and_segmentation(page, folder, monkeypatch):
    for package in ('mmcv.ops', 'mmdet', 'mmseg'):
        pytest.importorskip(package, exc_type=ImportError)
    root = write_coco(folder / 'data/mine')
    write_masks(root)
    link_listed(root)
    kinds = ('make_scenes', 'ijepa/vit_tiny4', *DENSE)
    for words in commands(page):
        if is_one_of(words, kinds) and not is_one_of(words, ELSEWHERE):
            run(words, monkeypatch)
    for name in ('det', 'seg'):
        logs = ''.join(path.read_text() for path in (folder / 'work_dirs' / name).rglob('*.log'))
        assert 'tensors into backbone' in logs
    assert list((folder / 'work_dirs/det').rglob('vis_image/*.png'))
