"""Probes of whole videos: several clips, several crops, stills, and the lists they come from."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmjepa.apis import init_model
from mmjepa.datasets.video_sim import ClipSettings, write_clips
from mmjepa.engine.config import load_config
from mmjepa.evaluation.functional.heads import HeadSchedule
from mmjepa.evaluation.probes import (
    SampleProbeSettings,
    SampleProtocolSettings,
    format_samples,
    input_kind,
    probe_samples,
    write_samples,
)
from mmjepa.evaluation.probes.features import choose_encoder, extract_features
from mmjepa.evaluation.probes.video_splits import video_splits

SIDE, FRAMES = 32, 4
SMALL = dict(
    arch=[16, 2, 2, 32],
    predictor_depth=1,
    predictor_width=16,
    batch_size=8,
    num_workers=0,
    img_size=SIDE,
    num_frames=FRAMES,
    frame_step=2,
)
FAST = SampleProtocolSettings(
    ks=(3, 5),
    linear=HeadSchedule(epochs=4, batch_size=8),
    attentive=HeadSchedule(epochs=8, batch_size=8),
    attentive_lrs=(3e-3, 1e-2),
    attentive_weight_decays=(0.01,),
    attentive_depth=2,
)
PARTS = {'train': 24, 'test': 12}


def write_videos(root, length=8, width=SIDE, where=np.s_[:], counts=PARTS, names=True):
    """Grey noise, in which ``where`` (frames, rows, columns) has the colour of the class."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        lines = []
        for i in range(count):
            video = rng.integers(60, 120, (length, SIDE, width, 3), dtype=np.uint8)
            video[..., i % 3][where] += 120
            path = root / 'videos' / split / f'{i:03d}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, video)
            lines.append(f'{path.relative_to(root)} {i % 3}\n')
        (root / f'{split}.csv').write_text(''.join(lines))
    if names:
        (root / 'classes.txt').write_text('red\ngreen\nblue\n')
    return root


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp('videos'))


@pytest.fixture
def config(repo, root):
    def load(data_root=root, **options):
        fixed = {**SMALL, 'data_root': str(data_root), **options}
        return load_config(repo / 'configs/vjepa/vit_tiny_sim.py', fixed)

    return load


def settings(*protocols, **options):
    return SampleProbeSettings(protocols=protocols or ('knn',), protocol=FAST, **options)


def top1(results, protocol='knn'):
    return results['protocols'][protocol]['untrained']['mean']


def test_all_protocols_read_videos_and_name_their_classes(config, root, tmp_path):
    cfg = config()
    assert input_kind(cfg) == 'videos'
    folder = tmp_path / 'features'
    first = probe_samples(cfg, None, settings('knn', 'linear', 'attentive'), cache_dir=folder)
    for protocol in ('knn', 'linear', 'attentive'):
        assert top1(first, protocol) > 0.9, protocol
    assert first['kind'] == 'videos' and first['classes'] == ['red', 'green', 'blue']
    assert first['splits'] == {'train': 'train', 'test': 'test'}
    assert first['samples'] == PARTS and first['encoders'] == {'untrained': 'target'}
    assert not first['test_in_pretraining']
    assert first['transform']['resize'] == SIDE and first['transform']['frame_step'] == 2
    again = probe_samples(cfg, None, settings('knn', 'linear', 'attentive'), cache_dir=folder)
    assert again['protocols'] == first['protocols']
    assert (first['cache']['misses'], again['cache']['hits']) == (4, 4)
    other = probe_samples(config(frame_step=1), None, settings('knn'), cache_dir=folder)
    assert other['cache'] == {'folder': str(folder), 'hits': 0, 'misses': 2}
    text = format_samples(first)
    assert '24 train and 12 test samples of 3 classes; chance 33.3' in text
    assert 'num_frames 4' in text and 'views of test samples' not in text
    json_path, _ = write_samples(first, tmp_path)
    assert json_path.name == 'probe_videos.json'
    assert json.loads(json_path.read_text())['settings']['protocol']['attentive_depth'] == 2


def test_several_clips_see_the_whole_video(config, tmp_path):
    """The class shows at the end alone."""
    root = write_videos(tmp_path, length=20, where=np.s_[14:])
    cfg = config(root)
    assert top1(probe_samples(cfg, None, settings('knn', clips=2))) > 0.9
    assert top1(probe_samples(cfg, None, settings('attentive', clips=2)), 'attentive') > 0.9
    assert top1(probe_samples(cfg, None, settings('knn', clips=1))) < 0.8


def test_tokens_of_clips_stand_beside_each_other_and_views_apart(config, tmp_path):
    root = write_videos(tmp_path, length=20, width=3 * SIDE, where=np.s_[:, :, 2 * SIDE :])
    cfg = config(root)
    model = init_model(cfg)
    train, test = video_splits(cfg, model, root, settings(clips=2, views=3))
    loading = cfg.train_dataloader
    wanted = {'tokens': 1, 'pooled': 1}
    found = {
        name: extract_features(model, split.loader(loading, 5), len(split), wanted, views=views)
        for name, split, views in (('train', train, 1), ('test', test, 3))
    }
    per_clip = (FRAMES // 2) * (SIDE // 8) ** 2
    assert found['train']['tokens'].shape == (24, 2 * per_clip, 16)
    assert found['test']['tokens'].shape == (12, 3, 2 * per_clip, 16)
    assert found['test']['pooled'].shape == (12, 16)
    # the third view of the second clip, by hand
    sample = next(iter(test.loader(loading, 12)))['inputs']['video']
    assert sample.shape == (12, 6, FRAMES, SIDE, SIDE, 3)
    video = np.load(root / 'videos/test/004.npy')[:, :, 2 * SIDE :]
    seen = [int((video == frame.numpy()).all((1, 2, 3)).argmax()) for frame in sample[4, 5]]
    assert seen == [11, 13, 16, 18]  # the middle of its half
    batch = dict(inputs={'video': sample[4:5, 5:]}, data_samples=[dict(sample_seed=0)])
    with torch.no_grad():
        tokens = model.extract_feat(model.data_preprocessor(batch, training=False)['inputs'])
    assert np.abs(found['test']['tokens'][4, 2, per_clip:] - tokens[0].numpy()).max() < 5e-3
    # the class shows in the third view alone
    narrow = probe_samples(cfg, None, settings('attentive', views=1))
    assert top1(narrow, 'attentive') < 0.8
    text = format_samples(probe_samples(cfg, None, settings('attentive', views=3)))
    assert '3 views of test samples' in text


def test_stills_are_clips_of_one_frame(config, tmp_path):
    """Images in class folders give what videos of equal frames give."""
    rng = np.random.default_rng(0)
    images, videos = tmp_path / 'images', tmp_path / 'videos'
    for split, count in PARTS.items():
        lines = []
        for i in range(count):
            kind = ('blue', 'green', 'red')[i % 3]
            image = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            image[..., 'rgb'.index(kind[0])] += 120
            (images / split / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(images / split / kind / f'{i:03d}.png'), image[..., ::-1])
            (videos / split).mkdir(parents=True, exist_ok=True)
            np.save(videos / split / f'{kind}_{i:03d}.npy', np.stack([image] * 8))
            lines.append(f'{split}/{kind}_{i:03d}.npy {i % 3}\n')
        (videos / f'{split}.csv').write_text(''.join(sorted(lines)))
    cfg = config(images)
    wanted = settings('knn', 'attentive', views=3)
    stills = probe_samples(cfg, None, wanted)
    moving = probe_samples(cfg, None, wanted, data_root=videos)
    assert stills['kind'] == 'stills' and moving['kind'] == 'videos'
    assert stills['classes'] == ['blue', 'green', 'red'] and moving['classes'] == ['0', '1', '2']
    assert stills['protocols'] == moving['protocols']
    assert top1(stills) > 0.9
    with pytest.raises(ValueError, match='a still has one clip, not 2'):
        probe_samples(cfg, None, settings(clips=2))


def test_fewer_samples_are_spread_over_the_classes(config, root):
    found = probe_samples(config(), None, settings(max_train=9, max_test=3))
    assert found['samples'] == {'train': 9, 'test': 3}
    assert found['chance'] == pytest.approx(1 / 3)


def test_generated_clips_are_probed_as_they_lie(config, tmp_path):
    motions = ('left', 'right', 'clockwise')
    write_clips(tmp_path / 'sim', ClipSettings(30, motions, frames=FRAMES, size=SIDE))
    found = probe_samples(config(tmp_path / 'sim', frame_step=1), None, settings())
    assert found['classes'] == list(motions) and found['samples'] == {'train': 24, 'test': 6}


def test_a_frozen_encoder_stays_as_it_is(config, root):
    cfg = config()
    model = init_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train, _ = video_splits(cfg, model, root, settings())
    extract_features(model, train.loader(cfg.train_dataloader, 8), len(train), {'tokens': 1})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_teacher_is_probed_by_name(config):
    model = init_model(config())
    model.target.policy = 'frozen'
    student, teacher = model.encoder, model.target.encoder
    assert choose_encoder(model, 'auto') == 'online' and model.encoder is student
    assert choose_encoder(model, 'target') == 'target' and model.encoder is teacher
    model.target.policy = 'data'
    with pytest.raises(ValueError, match="is 'data', only an EMA or a frozen one"):
        choose_encoder(model, 'target')


def test_the_test_list_in_pretraining_is_told(config, root):
    for sources, seen in (('test.csv', True), (['train.csv', 'test.csv'], True), ('.', False)):
        found = probe_samples(config(sources=sources), None, settings(max_train=3, max_test=3))
        assert found['test_in_pretraining'] == seen, sources


def test_folders_that_cannot_be_probed(config, root, tmp_path):
    def message(kind, folder, **options):
        with pytest.raises(kind) as caught:
            probe_samples(config(), None, settings(**options), data_root=folder)
        return str(caught.value)

    assert 'holds no list of train: ' in message(FileNotFoundError, tmp_path)
    own = write_videos(tmp_path / 'own')
    (own / 'test.csv').rename(own / 'more.csv')
    assert 'no list of test or val or validation' in message(FileNotFoundError, own)
    assert message(FileNotFoundError, own, test_split='val').count('--test-split') == 1
    found = probe_samples(config(), None, settings(test_split='more'), data_root=own)
    assert found['splits']['test'] == 'more'
    assert 'use two' in message(ValueError, own, test_split='train')
    (own / 'train.jsonl').write_text('{}')
    assert 'the lists train.csv, train.jsonl' in message(ValueError, own, test_split='more')
    (own / 'train.jsonl').unlink()
    (own / 'classes.txt').write_text('one\ntwo\n')
    assert 'labels from 0 to 2' in message(ValueError, own, test_split='more')


def test_settings_that_do_not_fit(config, repo, root, tmp_path):
    cfg = config()
    with pytest.raises(ValueError, match='finetune is for images; the config reads videos'):
        probe_samples(cfg, None, settings('finetune'))
    images = load_config(repo / 'configs/ijepa/vit_tiny4_cifar10.py', {'data_root': str(root)})
    with pytest.raises(ValueError, match='clips and views are for videos'):
        probe_samples(images, None, settings(views=3))
    with pytest.raises(ValueError, match='views must be 1 or 3'):
        settings(views=2)
    with pytest.raises(ValueError, match='1 to 4 blocks'):
        SampleProtocolSettings(attentive_depth=5)
    cfg.train_dataloader.dataset.pipeline = cfg.train_dataloader.dataset.pipeline[1:]
    with pytest.raises(ValueError, match='0 SampleClips, one is needed'):
        probe_samples(cfg, None, settings())
    train, _ = video_splits(config(), init_model(config()), root, settings())
    with pytest.raises(ValueError, match='videos are probed frozen'):
        train.training_loader({}, 2, 0, 0)
