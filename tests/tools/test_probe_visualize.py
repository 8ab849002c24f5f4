import runpy

import cv2
import numpy as np
import pytest
import torch
from kitti_scenes import COARSE, write_kitti
from toy_images import colour_scene

from mmjepa.apis import init_model


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp('kitti'), train=2, val=1)


@pytest.fixture
def tool(request):
    def load(name):
        return runpy.run_path(str(request.config.rootpath / 'tools' / f'{name}.py'))

    return load


@pytest.fixture
def config(request):
    return str(request.config.rootpath / 'configs/adl_jepa/kitti.py')


@pytest.fixture
def options(root):
    pairs = {**COARSE, 'data_root': root}
    return ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in pairs.items())]


def test_probe_command(tool, config, options, capsys, tmp_path):
    results = tool('probe')['main'](
        [config, 'none', '--protocol', 'both', '--seeds', '3', '--device', 'cpu', *options]
    )
    assert list(results['protocols']) == ['knn', 'linear']
    out = capsys.readouterr().out
    assert 'untrained' in out
    assert 'handmade' in out
    # without a checkpoint the files go where training would write
    assert (tmp_path / 'work_dirs/adl_jepa/kitti/probe_bev_cells.csv').is_file()


def test_probe_arguments_reach_the_settings(tool):
    module = tool('probe')
    text = 'c.py runs/{seed}/last.pth --protocol linear --seeds 4 5 --classes Car Van --k 5'
    text += ' --merge Truck=Van --cells-per-class 7 --unbalanced'
    args = module['parse_args'](text.split(' '))
    settings = module['settings_of'](args)
    assert settings.protocols == ('linear',)
    assert settings.rule.classes == ('Car', 'Van')
    assert settings.rule.merge == {'Truck': 'Van'}
    assert settings.protocol.k == 5
    assert settings.train_per_class == 7
    assert not settings.equal_classes
    assert module['output_dir'](args).parts[-2:] == ('runs', '4')
    args.merge = ['Truck']
    with pytest.raises(SystemExit, match='TYPE=CLASS'):
        module['settings_of'](args)


def test_visualize_command(tool, config, options, root, tmp_path, capsys):
    sweep = root / 'training/velodyne/000000.bin'
    out = tmp_path / 'pictures' / 'sweep.png'
    written = tool('visualize')['main'](
        [config, 'none', '--input', str(sweep), '--out', str(out), *options]
    )
    assert written == [out]
    assert out.stat().st_size > 20_000
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize('name', ['probe', 'visualize'])
@pytest.mark.parametrize('there', [False, True])
def test_device_is_cuda_where_it_is(tool, config, monkeypatch, name, there):
    used = []

    def stop(device):
        used.append(str(device))
        raise RuntimeError('seen')

    monkeypatch.setattr('torch.cuda.is_available', lambda: there)
    monkeypatch.setattr(
        'mmjepa.evaluation.probes.probe_bev_cells', lambda *_, device, **__: stop(device)
    )
    monkeypatch.setattr('mmjepa.apis.init_model', lambda *args: stop(args[2]))
    more = [] if name == 'probe' else ['--input', 'a.bin']
    for arguments in ([], ['--device', 'cpu']):
        with pytest.raises(RuntimeError, match='seen'):
            tool(name)['main']([config, 'none', *more, *arguments])
    assert used == ['cuda' if there else 'cpu', 'cpu']


def one_line(main, arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    text = caught.value.code  # a text: exit code 1, printed on stderr
    assert text.startswith('error: ') and '\n' not in text, text
    return text


def test_errors_are_one_line(tool, config, options, root, tmp_path):
    probe, visualize = tool('probe')['main'], tool('visualize')['main']
    (tmp_path / 'bad.pth').write_bytes(b'nonsense')
    (tmp_path / 'bad.bin').write_bytes(b'123')
    for main, more in ((probe, []), (visualize, ['--input', tmp_path / 'bad.bin'])):
        assert 'none.py' in one_line(main, [tmp_path / 'none.py', 'none', *more])
        bad = [config, 'none', *more, '--cfg-options', 'voxelsize=1']
        assert 'nearest: voxel_size' in one_line(main, bad)
        assert 'none.pth' in one_line(main, [config, tmp_path / 'none.pth', *more, *options])
        assert 'bad.pth' in one_line(main, [config, tmp_path / 'bad.pth', *more, *options])
    assert 'bad.bin: 3 bytes' in one_line(
        visualize, [config, 'none', '--input', tmp_path / 'bad.bin', *options]
    )
    assert 'error: ' in one_line(visualize, ['--curves', tmp_path / 'no_run'])
    assert 'absent' in one_line(probe, [config, 'none', '--data-root', tmp_path / 'absent'])
    # a ValueError of ours
    assert 'sure' in one_line(probe, [config, 'none', '--classes', 'sure', '--merge', 'x=y'])


def test_visualize_needs_a_sweep_or_a_run(tool, capsys):
    main = tool('visualize')['main']
    for arguments in ([], ['config.py'], ['config.py', 'none']):
        with pytest.raises(SystemExit):
            main(arguments)
    assert '--curves' in capsys.readouterr().err


def test_picture_of_an_image(tool, request, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), scene := colour_scene(0, 32)[0])
    config = request.config.rootpath / 'configs/ijepa/vit_tiny4_cifar10.py'
    small = ['arch=[32,2,2,64]', 'predictor_depth=1', 'predictor_width=16']
    main, words = tool('visualize')['main'], [str(config), 'none', '--input', 'a.png']
    main([*words, '--output', str(tmp_path / 'b.png'), '--cfg-options', *small])
    assert cv2.imread(str(tmp_path / 'b.png')).shape[1] > 1500
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'a.png').read_bytes()[:-30])
    text = one_line(main, [*words[:-1], 'cut.png', '--cfg-options', *small])
    assert 'truncated PNG' in text and text.endswith('Fetch the file again, or give another file')
    # the default is not the image itself, and tells an untrained encoder from others
    assert list(map(str, main([*words, '--cfg-options', *small]))) == ['a_untrained.png']
    assert np.array_equal(cv2.imread('a.png'), scene)
    options = dict(arch=[32, 2, 2, 64], predictor_depth=1, predictor_width=16)
    torch.save({'state_dict': init_model(config, cfg_options=options).state_dict()}, 'last.pth')
    words[1] = 'last.pth'
    assert list(map(str, main([*words, '--cfg-options', *small]))) == ['a_last.png']
