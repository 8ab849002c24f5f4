"""Probes of whole images, from the protocols on made-up features to a config and its folders."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from toy_images import write_toy_images

from mmjepa.apis import init_model
from mmjepa.downstream.images.classifier import ImageClassifier
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.config import load_config
from mmjepa.evaluation.functional.heads import HeadSchedule
from mmjepa.evaluation.probes import (
    FinetuneSettings,
    SampleProbeSettings,
    SampleProtocolSettings,
    format_samples,
    input_kind,
    probe_samples,
    write_samples,
)
from mmjepa.evaluation.probes.finetune import make_optimizer
from mmjepa.evaluation.probes.sample_protocols import RUN, TrainPart, score
from mmjepa.models.encoders import JEPAViT

SMALL = dict(arch=[16, 4, 2, 32], predictor_depth=1, predictor_width=16, batch_size=16)
FAST = SampleProtocolSettings(
    ks=(3, 5),
    linear=HeadSchedule(epochs=4, batch_size=16),
    linear_lrs=(0.1, 1.0),
    linear_weight_decays=(0.0,),
    attentive=HeadSchedule(epochs=2, batch_size=16),
    attentive_lrs=(1e-3, 1e-2),
    attentive_weight_decays=(0.01,),
)


def write_colours(root, split, count, size=32, classes=('blue', 'green', 'red')):
    """Noise in one of three colours: any features tell the classes apart."""
    rng = np.random.default_rng(len(split))
    for i in range(count):
        kind = i % len(classes)
        image = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
        image[..., kind] += 150
        folder = root / split / classes[kind]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i:04d}.png'), image)
    return root


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = write_colours(tmp_path_factory.mktemp('images'), 'train', 48)
    return write_colours(folder, 'test', 24)


@pytest.fixture
def config(repo, root):
    def load(name='ijepa', **options):
        path = repo / f'configs/{name}/vit_tiny4_cifar10.py'
        fixed = {**SMALL, 'num_workers': 0, 'data_root': str(root)}
        return load_config(path, {**fixed, **options})

    return load


def save(cfg, path, seed=7, change=None):
    torch.manual_seed(seed)
    model = init_model(cfg)
    if change:
        change(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': model.state_dict()}, path)
    return path


def made_up(protocol, labels_seed=None, count=300):
    """(part, test features, test labels): three classes that lie apart, of 4 layers x 8."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = 2 * torch.randn(3, 8, generator=generator)
    x = centres[labels][:, None] + torch.randn(count, 4, 8, generator=generator)
    if labels_seed is not None:
        shuffle = torch.Generator().manual_seed(labels_seed)
        labels = labels[torch.randperm(count, generator=shuffle)]
    feats = x.half().numpy() if protocol == 'attentive' else x.flatten(1).half()
    cut = count * 2 // 3
    part = TrainPart(feats[:cut], labels[:cut], 3, 8, (1, 4), 2)
    return part, feats[cut:], labels[cut:]


@pytest.mark.parametrize('protocol', RUN)
def test_what_is_separable_is_solved_and_shuffled_labels_are_not(protocol):
    settings = SampleProtocolSettings(
        linear=HeadSchedule(epochs=10, batch_size=32),
        attentive=HeadSchedule(epochs=10, batch_size=32),
        attentive_lrs=(1e-3, 1e-2),
    )
    part, test, labels = made_up(protocol)
    found = RUN[protocol](part, test, settings, 0)
    result = score(found, labels, 3)
    assert result.mean > 0.95 and result.held_out > 0.85
    assert result.mean == pytest.approx(np.mean(result.per_class), abs=0.02)
    best = max(one['held_out'] for one in result.tried)
    assert {**result.chosen, 'held_out': best} in result.tried
    chance = [
        score(RUN[protocol](part, test, settings, 0), labels, 3).mean
        for part, test, labels in [made_up(protocol, seed) for seed in (1, 2)]
    ]
    assert 0.2 < np.mean(chance) < 0.47


def test_the_held_out_part_is_a_tenth_and_follows_the_seed():
    part, _, _ = made_up('knn')
    fitted, held = part.split(0.1, 3)
    assert len(held) == 20
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(200))
    assert held.tolist() == part.split(0.1, 3)[1].tolist() != part.split(0.1, 4)[1].tolist()


def test_heads_that_all_diverge_say_so():
    part, test, _ = made_up('linear')
    settings = SampleProtocolSettings(linear_lrs=(1e38,), linear_weight_decays=(1.0,))
    with pytest.raises(ValueError, match='every linear head diverged'):
        RUN['linear'](part, test, settings, 0)


@pytest.fixture(scope='module')
def results(repo, root, tmp_path_factory):
    path = repo / 'configs/dmt_jepa/vit_tiny4_cifar10.py'
    cfg = load_config(path, {**SMALL, 'num_workers': 0, 'data_root': str(root)})
    checkpoint = save(cfg, tmp_path_factory.mktemp('run') / 'last.pth')
    settings = SampleProbeSettings(
        protocols=('knn', 'linear', 'attentive'), seeds=(0, 1), protocol=FAST
    )
    return probe_samples(cfg, checkpoint, settings)


def test_results_of_both_arms(results):
    assert results['kind'] == 'images'
    assert results['classes'] == ['blue', 'green', 'red']
    assert results['samples'] == {'train': 48, 'test': 24}
    assert results['splits'] == {'train': 'train', 'test': 'test'}
    assert results['encoders'] == {'checkpoint': 'target', 'untrained': 'target'}
    assert results['layers'] == [1, 4]
    assert results['chance'] == pytest.approx(1 / 3)
    assert results['transform'] == {'type': 'ResizeCenterCrop', 'size': 32, 'resize': 32}
    assert not results['test_in_pretraining']
    for protocol, arms in results['protocols'].items():
        assert set(arms) == {'untrained', 'checkpoint'}
        for entry in arms.values():
            means = [run['mean'] for run in entry['runs']]
            assert entry['mean'] == pytest.approx(np.mean(means))
            assert entry['std'] == pytest.approx(np.std(means, ddof=1))
            if protocol != 'attentive':
                assert entry['mean'] > 0.9
    linear = results['protocols']['linear']['checkpoint']['runs'][0]['tried']
    assert len(linear) == 2 * 2 * 2
    assert {one['layers'] for one in linear} == {1, 4}


def test_table_and_files(results, tmp_path):
    text = format_samples(results)
    assert '48 train and 24 test samples of 3 classes; chance 33.3' in text
    assert 'untrained: target' in text and 'resize 32' in text
    assert text.count('checkpoint - untrained: ') == 3
    json_path, csv_path = write_samples(results, tmp_path)
    assert json_path.name == 'probe_images.json'
    assert json.loads(json_path.read_text())['protocols'].keys() == results['protocols'].keys()
    rows = list(csv.DictReader(csv_path.open()))
    assert len(rows) == 3 * 2 * 2
    assert rows[0]['encoder'] == 'target' and rows[0]['chosen'].startswith('k ')


def test_test_labels_are_never_chosen_by(config, root, tmp_path):
    settings = SampleProbeSettings(protocols=('knn', 'linear', 'attentive'), protocol=FAST)
    poisoned = tmp_path / 'poisoned'
    shutil.copytree(root, poisoned)
    for old, new in (('blue', 'x'), ('green', 'blue'), ('red', 'green'), ('x', 'red')):
        (poisoned / 'test' / old).rename(poisoned / 'test' / new)
    clean, wrong = (
        probe_samples(config(), None, settings, data_root=folder)['protocols']
        for folder in (root, poisoned)
    )
    for protocol in settings.protocols:
        runs = [found[protocol]['untrained']['runs'][0] for found in (clean, wrong)]
        assert runs[0]['chosen'] == runs[1]['chosen']
        assert runs[0]['tried'] == runs[1]['tried']
    assert clean['knn']['untrained']['mean'] > 0.9 > 0.1 > wrong['knn']['untrained']['mean']


def test_cached_features_give_the_same_results(config, root, tmp_path):
    settings = SampleProbeSettings(protocols=('knn', 'linear', 'attentive'), protocol=FAST)
    cfg, folder = config(), tmp_path / 'features'
    none, first, second = (
        probe_samples(cfg, None, settings, cache_dir=place) for place in (None, folder, folder)
    )
    assert none['protocols'] == first['protocols'] == second['protocols']
    assert (first['cache']['misses'], first['cache']['hits']) == (4, 0)
    assert (second['cache']['misses'], second['cache']['hits']) == (0, 4)
    # whatever the features depend on: weights, a file, the transform's size, precision
    knn = SampleProbeSettings(protocol=FAST, seeds=(1,))
    assert probe_samples(cfg, None, knn, cache_dir=folder)['cache']['misses'] == 2
    rough = SampleProbeSettings(protocol=FAST, amp=True)
    assert probe_samples(cfg, None, rough, cache_dir=folder)['cache']['misses'] == 2
    fewer = SampleProbeSettings(protocol=FAST, max_test=9)
    found = probe_samples(cfg, None, fewer, cache_dir=folder)
    assert (found['cache']['misses'], found['cache']['hits']) == (1, 1)
    assert found['samples'] == {'train': 48, 'test': 9}
    own = tmp_path / 'own'
    shutil.copytree(root, own)
    plain = SampleProbeSettings(protocol=FAST)
    probe_samples(cfg, None, plain, data_root=own, cache_dir=folder)
    image = next((own / 'test' / 'red').iterdir())
    cv2.imwrite(str(image), np.zeros((32, 32, 3), np.uint8))
    found = probe_samples(cfg, None, plain, data_root=own, cache_dir=folder)
    assert (found['cache']['misses'], found['cache']['hits']) == (1, 1)


def test_checkpoints_of_seeds_and_either_encoder(config, tmp_path):
    cfg = config()

    def spoil_online(model):
        model.encoder.norm.weight.data.zero_()

    for seed in (0, 1):
        save(cfg, tmp_path / f'run_{seed}' / 'last.pth', seed, spoil_online)
    pattern = tmp_path / 'run_{seed}' / 'last.pth'
    common = dict(arms=('checkpoint',), seeds=(0, 1), protocol=FAST)
    target = probe_samples(cfg, pattern, SampleProbeSettings(**common))
    online = probe_samples(cfg, pattern, SampleProbeSettings(**common, which='online'))
    assert target['encoders'] == {'checkpoint': 'target'}
    assert online['encoders'] == {'checkpoint': 'online'}
    assert target['protocols']['knn']['checkpoint']['mean'] > 0.9
    assert online['protocols']['knn']['checkpoint']['mean'] < 0.5  # its features are constant
    assert target['comparison'] == {'knn': None}
    with pytest.raises(FileNotFoundError, match='run_2'):
        probe_samples(cfg, pattern, SampleProbeSettings(arms=('checkpoint',), seeds=(0, 2)))
    state = torch.load(tmp_path / 'run_0/last.pth')['state_dict']
    encoder = {k.removeprefix('target.'): v for k, v in state.items() if 'target.encoder.' in k}
    torch.save({'state_dict': encoder}, tmp_path / 'export.pth')
    exported = probe_samples(cfg, tmp_path / 'export.pth', SampleProbeSettings(protocol=FAST))
    assert exported['encoders']['checkpoint'] == 'exported'
    assert exported['protocols']['knn']['checkpoint']['mean'] > 0.9


def test_untrained_weights_and_the_global_generator(config):
    state = torch.get_rng_state()
    settings = SampleProbeSettings(seeds=(0, 1), protocol=FAST, max_train=12)
    first = probe_samples(config(), None, settings)
    runs = first['protocols']['knn']['untrained']['runs']
    alone = SampleProbeSettings(seeds=(1,), protocol=FAST, max_train=12)
    assert probe_samples(config(), None, alone)['protocols']['knn']['untrained']['runs'] == runs[1:]
    assert torch.equal(state, torch.get_rng_state())


def test_larger_images_are_cut_from_the_centre(config, tmp_path):
    write_colours(tmp_path, 'train', 6, size=40)
    write_colours(tmp_path, 'val', 6, size=40)
    found = probe_samples(config(), None, SampleProbeSettings(protocol=FAST), data_root=tmp_path)
    assert found['transform']['resize'] == 37  # 32 * 256 / 224
    assert found['splits']['test'] == 'val'


def test_pretraining_on_the_test_split_is_told(config):
    found = probe_samples(config(split='test'), None, SampleProbeSettings(protocol=FAST))
    assert found['test_in_pretraining']


def test_data_that_cannot_be_probed(config, tmp_path):
    def message(error, folder, **settings):
        with pytest.raises(error) as caught:
            probe_samples(config(), None, SampleProbeSettings(**settings), data_root=folder)
        return str(caught.value)

    write_toy_images(tmp_path / 'unlabelled', 6)
    assert 'no labelled split test or val' in message(FileNotFoundError, tmp_path / 'unlabelled')
    one = write_colours(tmp_path / 'one', 'train', 4, classes=('blue',))
    write_colours(one, 'test', 4, classes=('blue',))
    assert 'one class (blue)' in message(ValueError, one)
    flat = tmp_path / 'flat'
    for split in ('train', 'test'):
        (flat / split).mkdir(parents=True)
        cv2.imwrite(str(flat / split / 'a.png'), np.zeros((32, 32, 3), np.uint8))
    assert 'no class folders' in message(ValueError, flat)
    both = write_colours(tmp_path / 'both', 'train', 6)
    write_colours(both, 'test', 6)
    write_colours(both, 'val', 6)
    assert '--test-split' in message(ValueError, both)
    assert 'use two' in message(ValueError, both, test_split='train')
    other = write_colours(tmp_path / 'other', 'train', 6)
    write_colours(other, 'test', 6, classes=('blue', 'pink'))
    assert "'pink' is not among" in message(ValueError, other)


def test_models_that_cannot_be_probed(config, repo, tmp_path):
    def nan(model):
        model.target.encoder.norm.bias.data.fill_(3e38)  # finite, but not what comes of it

    settings = SampleProbeSettings(protocol=FAST)
    path = save(config(), tmp_path / 'nan.pth', change=nan)
    with pytest.raises(ValueError, match='NaN or Inf|beyond half'):
        probe_samples(config(), path, settings)
    wrong = save(config('dmt_jepa'), tmp_path / 'dmt.pth')
    with pytest.raises(CheckpointError, match='cannot load IJEPA'):
        probe_samples(config(), wrong, settings)
    with pytest.raises(ValueError, match='need a checkpoint'):
        probe_samples(config(), None, SampleProbeSettings(arms=('checkpoint',)))
    lidar = load_config(repo / 'configs/adl_jepa/kitti.py')
    assert input_kind(lidar) == 'points'
    with pytest.raises(ValueError, match='probe_bev_cells'):
        probe_samples(lidar, None, settings)
    lidar.model.data_preprocessor = dict(type='JEPAPreprocessor')
    with pytest.raises(ValueError, match="no probe for the inputs of 'JEPAPreprocessor'"):
        input_kind(lidar)
    with pytest.raises(ValueError, match='of 2: use --layers 1'):
        probe_samples(config(arch=[16, 2, 2, 32]), None, SampleProbeSettings(layers=(4,)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'protocols': ('fewshot',)}, 'protocols'),
        ({'arms': ('handmade',)}, 'arms'),
        ({'layers': (2,)}, 'layers'),
        ({'which': 'both'}, 'which'),
        ({'seeds': (1, 1)}, 'seeds'),
        ({'max_test': 0}, 'max_test'),
    ],
)
def test_bad_settings_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampleProbeSettings(**arguments)


TUNE = FinetuneSettings(epochs=4, lr=3e-3, batch_size=16)


def test_finetuning_of_both_arms(config, tmp_path):
    """The whole encoder learns, from the checkpoint's weights; nothing else notices."""
    cfg = config()

    def dead(model):  # constant features: no head can read them, an encoder that learns can
        model.target.encoder.norm.weight.data.zero_()

    path = save(cfg, tmp_path / 'last.pth', change=dead)
    state = torch.get_rng_state()
    common = dict(seeds=(0, 1), protocol=FAST, finetune=TUNE)
    settings = SampleProbeSettings(protocols=('linear', 'finetune'), **common)
    found = probe_samples(cfg, path, settings)
    assert torch.equal(state, torch.get_rng_state())
    arms = found['protocols']['finetune']
    assert arms['untrained']['mean'] > 0.9
    assert arms['checkpoint']['mean'] > 0.6 > found['protocols']['linear']['checkpoint']['mean']
    for entry in arms.values():
        for run in entry['runs']:
            assert run['chosen'] == {'epochs': 4, 'lr': 3e-3, 'layer_decay': 0.75}
            assert run['held_out'] is None and run['tried'] == []
    assert found['comparison']['finetune'].keys() == {'gain', 'spread', 'clear'}
    assert 'epochs 4, lr 0.003, layer_decay 0.75' in format_samples(found)
    json_path, _ = write_samples(found, tmp_path)
    assert json.loads(json_path.read_text())['settings']['finetune']['epochs'] == 4
    alone = probe_samples(cfg, path, SampleProbeSettings(protocols=('finetune',), **common))
    assert alone['protocols']['finetune'] == arms
    assert alone['cache'] == {'folder': None, 'hits': 0, 'misses': 0}
    # first fine-tuned, then read frozen: the encoder is the checkpoint's again
    swapped = SampleProbeSettings(protocols=('finetune', 'linear'), **common)
    assert probe_samples(cfg, path, swapped)['protocols'] == found['protocols']


def test_finetuning_learns_from_labels_of_the_training_split_alone(config, root, tmp_path):
    settings = SampleProbeSettings(protocols=('finetune',), finetune=TUNE)
    poisoned, shuffled = tmp_path / 'poisoned', tmp_path / 'shuffled'
    for folder in (poisoned, shuffled):
        shutil.copytree(root, folder)
    for old, new in (('blue', 'x'), ('green', 'blue'), ('red', 'green'), ('x', 'red')):
        (poisoned / 'test' / old).rename(poisoned / 'test' / new)
    names = sorted((shuffled / 'train').rglob('*.png'))
    for i, path in enumerate(names):  # a third of each colour in each class
        path.rename(path.parents[1] / ('blue', 'green', 'red')[i % 3] / f'{i}.png')

    def top1(folder, workers=0, options=settings):
        cfg = config(num_workers=workers)
        found = probe_samples(cfg, None, options, data_root=folder)
        return found['protocols']['finetune']['untrained']['mean']

    assert top1(root) == top1(root, workers=2) > 0.9
    assert top1(poisoned) < 0.1
    assert top1(shuffled) < 0.7
    rough = SampleProbeSettings(protocols=('finetune',), finetune=TUNE, amp=True, batch_size=8)
    assert top1(root, options=rough) > 0.9


def test_finetuning_has_rates_by_depth():
    model = ImageClassifier(JEPAViT([8, 2, 2, 16], 16, 4, positions='learned'), 3)
    groups = make_optimizer(model, FinetuneSettings(layer_decay=0.5)).optimizer.param_groups
    assert sum(len(g['params']) for g in groups) == len(list(model.parameters()))
    rates = {(round(1e3 * g['lr'], 6), g['weight_decay']) for g in groups}
    assert rates == {(rate, wd) for rate in (0.125, 0.25, 0.5, 1.0) for wd in (0.0, 0.05)}


def test_finetuning_that_diverges_says_so(config):
    settings = SampleProbeSettings(protocols=('finetune',), finetune=FinetuneSettings(2, lr=1e30))
    with pytest.raises(ValueError, match='diverged to NaN: give a lower learning rate'):
        probe_samples(config(), None, settings)


@pytest.mark.parametrize('arguments', [dict(epochs=0), dict(lr=0.0), dict(layer_decay=1.5)])
def test_bad_finetuning_raises(arguments):
    with pytest.raises(ValueError, match='fine-tuning needs epochs'):
        FinetuneSettings(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'ks': ()}, 'ks'), ({'linear_lrs': (0.0,)}, 'linear_lrs'), ({'held_out': 1.0}, 'held_out')],
)
def test_bad_numbers_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        SampleProtocolSettings(**arguments)
