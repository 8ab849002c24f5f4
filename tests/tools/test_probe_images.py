"""tools/probe.py on images: one command, chosen by the config."""

import json
import runpy

import pytest
import torch
from kitti_scenes import COARSE
from toy_images import write_toy_images

from mmjepa.apis import init_model
from mmjepa.engine.config import load_config

SMALL = ['arch=[16,4,2,32]', 'predictor_depth=1', 'predictor_width=16', 'num_workers=0']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = write_toy_images(tmp_path_factory.mktemp('images'), 30)
    return write_toy_images(folder, 15, 'test')


@pytest.fixture
def module(repo):
    return runpy.run_path(str(repo / 'tools/probe.py'))


@pytest.fixture
def config(repo):
    return str(repo / 'configs/ijepa/vit_tiny4_cifar10.py')


@pytest.fixture
def options(root):
    return ['--device', 'cpu', '--cfg-options', *SMALL, f'data_root={root}']


def one_line(main, arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    text = caught.value.code
    assert text.startswith('error: ') and '\n' not in text, text
    return text


def test_untrained_and_checkpoint_side_by_side(module, config, options, root, tmp_path, capsys):
    pairs = dict(text.split('=') for text in SMALL[1:])
    cfg = load_config(config, {'arch': [16, 4, 2, 32], **{k: int(v) for k, v in pairs.items()}})
    path = tmp_path / 'run' / 'last.pth'
    path.parent.mkdir()
    torch.manual_seed(7)  # not the untrained arm's: equal weights share their features
    torch.save({'state_dict': init_model(cfg).state_dict()}, path)
    protocols = ['knn', 'linear', 'attentive']
    arguments = [config, str(path), '--protocol', *protocols, '--epochs', '1', '--k', '3', '5']
    results = module['main']([*arguments, *options])
    assert list(results['protocols']) == protocols
    out = capsys.readouterr().out
    assert out.count('checkpoint - untrained: ') == 3
    assert 'checkpoint: target, untrained: target' in out
    assert '30 train and 15 test samples of 3 classes; chance 33.3' in out
    written = json.loads((tmp_path / 'run/probe_images.json').read_text())
    assert written['settings']['protocol']['ks'] == [3, 5]
    assert (tmp_path / 'run/probe_images.csv').is_file()
    assert len(list((tmp_path / 'run/features').glob('*.npy'))) == 8
    again = module['main']([*arguments, *options])
    assert again['cache'] == {**results['cache'], 'hits': 8, 'misses': 0}
    assert again['protocols'] == results['protocols']


def test_without_checkpoint_and_cache(module, config, options, tmp_path):
    results = module['main']([config, 'none', '--no-cache', '--k', '5', '--layers', '1', *options])
    assert results['arms'] == ['untrained']
    assert results['protocols']['knn']['untrained']['runs'][0]['chosen'] == {'k': 5}
    folder = tmp_path / 'work_dirs/ijepa/vit_tiny4_cifar10'
    assert sorted(p.name for p in folder.iterdir()) == ['probe_images.csv', 'probe_images.json']


def test_finetuning(module, config, options, tmp_path, capsys):
    arguments = ['--protocol', 'finetune', '--epochs', '2', '--lr', '3e-3', '--work-dir', 'out']
    results = module['main']([config, 'none', *arguments, *options])
    assert list(results['protocols']) == ['finetune']
    assert 'epochs 2, lr 0.003' in capsys.readouterr().out
    written = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert written == ['probe_images.csv', 'probe_images.json']


def test_arguments_reach_the_settings(module):
    text = 'c.py runs/{seed}/last.pth --protocol both --seeds 4 5 --k 5 --which online --layers 4'
    text += ' --amp --epochs 7 --max-train-samples 9 --test-split val2 --batch-size 3'
    text += ' --lr 0.01 --layer-decay 0.5'
    args = module['parse_args'](text.split(' '))
    settings = module['sample_settings_of'](args)
    assert settings.protocols == ('knn', 'linear')
    assert (settings.seeds, settings.which, settings.layers) == ((4, 5), 'online', (4,))
    assert settings.amp and settings.protocol.ks == (5,)
    assert settings.protocol.linear.epochs == settings.protocol.attentive.epochs == 7
    assert (settings.max_train, settings.test_split, settings.batch_size) == (9, 'val2', 3)
    assert (settings.clips, settings.views, settings.protocol.attentive_depth) == (1, 1, 1)
    text = 'c.py none --protocol attentive --attentive-depth 4 --attentive-heads 16 --clips 8'
    text += ' --views 3 --attentive-lrs 5e-3 1e-3 --attentive-wds 0.8 0.4 0.1'
    video = module['sample_settings_of'](module['parse_args'](text.split(' ')))
    assert (video.clips, video.views) == (8, 3)
    assert (video.protocol.attentive_depth, video.protocol.attentive_heads) == (4, 16)
    assert video.protocol.attentive_lrs == (5e-3, 1e-3)
    assert video.protocol.attentive_weight_decays == (0.8, 0.4, 0.1)
    tune = settings.finetune
    assert (tune.epochs, tune.lr, tune.layer_decay) == (7, 0.01, 0.5)
    both = module['parse_args'](['c.py', 'none', '--protocol', 'both', 'finetune', 'knn'])
    assert module['sample_settings_of'](both).protocols == ('knn', 'linear', 'finetune')
    assert module['cache_dir'](args).parts[-3:] == ('runs', '4', 'features')
    plain = module['sample_settings_of'](module['parse_args'](['c.py', 'none']))
    assert plain == module['SampleProbeSettings']()


def test_errors_are_one_line(module, config, options, repo, root, tmp_path):
    main = module['main']
    (tmp_path / 'bad.pth').write_bytes(b'nonsense')
    assert 'bad.pth' in one_line(main, [config, tmp_path / 'bad.pth', *options])
    assert 'none.pth' in one_line(main, [config, tmp_path / 'none.pth', *options])
    state = {'target.head.weight': torch.ones(1)}
    torch.save(dict(meta=dict(method='DMTJEPA'), state_dict=state), tmp_path / 'dmt.pth')
    dmt = one_line(main, [config, tmp_path / 'dmt.pth', *options])
    assert 'The file is of DMTJEPA, the model is IJEPA: use the config' in dmt
    broken = write_toy_images(write_toy_images(tmp_path / 'broken', 6), 6, 'test')
    image = next(broken.glob('train/*/*'))
    image.write_bytes(image.read_bytes()[:-30])
    text = one_line(main, [config, 'none', *options, f'data_root={broken}'])
    assert image.name in text and 'again, or take it out of the data' in text
    assert '--purity is for points' in one_line(main, [config, 'none', '--purity', '0.7', *options])
    assert 'handmade' in one_line(main, [config, 'none', '--arms', 'handmade', *options])
    assert 'no labelled split test or val' in one_line(
        main, [config, 'none', '--data-root', root / 'train', *options]
    )
    assert 'absent' in one_line(main, [config, 'none', '--data-root', tmp_path / 'absent'])
    lidar = str(repo / 'configs/adl_jepa/kitti.py')
    assert '--views is for videos' in one_line(main, [config, 'none', '--views', '3', *options])
    video = str(repo / 'configs/vjepa/vit_tiny_sim.py')
    assert '--purity is for points' in one_line(main, [video, 'none', '--purity', '0.7'])
    assert 'vit_tiny_sim.py reads videos: leave it out' in one_line(
        main, [video, 'none', '--protocol', 'finetune']
    )
    assert '--which is for images' in one_line(main, [lidar, 'none', '--which', 'online'])
    assert 'attentive' in one_line(main, [lidar, 'none', '--protocol', 'attentive'])
    pairs = [f'{k}={v}'.replace(' ', '') for k, v in COARSE.items()]
    with pytest.raises(SystemExit, match='--k takes one number for LiDAR'):
        main([lidar, 'none', '--k', '3', '5', '--cfg-options', *pairs])
    tune = ['--protocol', 'finetune']
    assert 'configs/downstream/mmdet3d' in one_line(main, [lidar, 'none', *tune])
    assert '--lr is for images' in one_line(main, [lidar, 'none', *tune, '--lr', '0.1'])
    assert 'are for --protocol finetune' in one_line(main, [config, 'none', '--lr', '0.1'])
    assert 'layer_decay in (0, 1]' in one_line(
        main, [config, 'none', *tune, '--layer-decay', '2', *options]
    )
