"""``tools/visualize.py`` with a detection config, from the command line to the picture."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from kitti_scenes import COARSE

GRID = {'voxel_size': [0.2, 0.2, 0.1], 'point_cloud_range': [0, -25.6, -3, 51.2, 25.6, 1]}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    from mm3d_scenes import write_kitti

    path = tmp_path_factory.mktemp('data') / 'kitti'
    write_kitti(path, frames=1)
    return path


@pytest.fixture
def main(repo):
    return runpy.run_path(str(repo / 'tools/visualize.py'))['main']


@pytest.fixture
def config(repo):
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    return str(repo / 'configs/downstream/mmdet3d/second_kitti.py')


@pytest.fixture
def options(root):
    pairs = {**GRID, 'data_root': root, 'model.test_cfg.score_thr': 0.0}
    return ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in pairs.items())]


@pytest.fixture
def sweep(root):
    return str(root / 'training/velodyne/000000.bin')


def checkpoint(path, config, root, seed):
    from mmjepa.apis import init_detector

    torch.manual_seed(seed)
    model = init_detector(config, None, 'cpu', {**GRID, 'data_root': str(root)})
    path.parent.mkdir()
    torch.save({'state_dict': model.state_dict()}, path)
    return str(path)


def test_two_detectors_beside_each_other(
    main, config, options, root, sweep, tmp_path, capsys, monkeypatch
):
    import mmjepa.visualization
    from mmjepa.visualization import save_figure

    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    figures = []
    monkeypatch.setattr(
        mmjepa.visualization,
        'save_figure',
        lambda f, *a, **k: figures.append(f) or save_figure(f, *a, **k),
    )
    files = [checkpoint(tmp_path / f'{i}/epoch_80.pth', config, root, seed=i) for i in range(2)]
    arguments = [config, files[0], '--compare', files[1], '--names', 'scratch', 'AD-L-JEPA']
    arguments += ['--input', sweep, '--score-threshold', '0', '--viewer', '--device', 'cpu']
    (written,) = main([*arguments, *options])
    assert written == tmp_path / '0/000000_epoch_80_compare.png'  # beside the checkpoint
    assert written.stat().st_size > 20_000
    out = capsys.readouterr().out
    assert 'no window, only the picture: there is no display' in out
    left, right = figures[0].axes
    # six labelled objects in both; mmdet3d keeps at most 50 boxes, all of them shown
    for ax, name in ((left, 'scratch'), (right, 'AD-L-JEPA')):
        assert ax.get_title().startswith(f'{name}: ')
        assert ax.get_title() in out
        ids = [patch.get_gid() for patch in ax.patches]
        assert sum(i.startswith('truth:') for i in ids) == 6
        assert sum(i.startswith('detection:') for i in ids) == 50
    corners = [np.array([p.get_xy() for p in ax.patches[-50:]]) for ax in (left, right)]
    assert not np.allclose(*corners)  # other weights, other boxes


def test_without_ground_truth(main, config, options, sweep, tmp_path, capsys):
    copied = tmp_path / 'own.bin'
    copied.write_bytes(Path(sweep).read_bytes())
    for more, said in (([sweep, '--no-labels'], False), ([str(copied)], True)):
        main([config, 'none', '--device', 'cpu', '--input', *more, *options])
        out = capsys.readouterr().out
        assert ('no info file of the config lists' in out) == said
        assert 'detections, no ground truth' in out


def one_line(main, arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    text = caught.value.code
    assert text.startswith('error: ') and '\n' not in text, text
    return text


def test_errors_are_one_line(main, config, options, root, sweep, tmp_path):
    run = [config, 'none', '--device', 'cpu', '--input']
    assert 'absent.bin: no such file' in one_line(main, [*run, tmp_path / 'absent.bin', *options])
    (tmp_path / 'cut.bin').write_bytes(b'123')
    assert 'cut.bin: 3 bytes' in one_line(main, [*run, tmp_path / 'cut.bin', *options])
    far = np.full((50, 4), 90, np.float32)
    far.tofile(tmp_path / 'far.bin')
    assert 'none of its 50 points' in one_line(main, [*run, tmp_path / 'far.bin', *options])
    assert 'min_iou' in one_line(main, [*run, sweep, '--min-iou', '7', *options])

    part = {'bbox_head.conv_cls.weight': torch.zeros(1)}
    torch.save({'state_dict': part}, tmp_path / 'part.pth')
    torch.save({'state_dict': {'encoder.a': torch.zeros(1)}}, tmp_path / 'jepa.pth')
    rest = ['--device', 'cpu', '--input', sweep, *options]
    assert '0/162 tensors match' in one_line(main, [config, tmp_path / 'part.pth', *rest])
    assert 'jepa_checkpoint=' in one_line(main, [config, tmp_path / 'jepa.pth', *rest])
    compare = ['--compare', tmp_path / 'absent.pth']
    assert 'absent.pth' in one_line(main, [config, 'none', *compare, *rest])
    assert list(tmp_path.rglob('*.png')) == []  # no picture of a part of it


def test_detection_options_need_a_detector(main, repo, sweep, root):
    config = repo / 'configs/adl_jepa/kitti.py'
    pairs = {**COARSE, 'data_root': root}
    options = ['--cfg-options', *(f'{k}={v}'.replace(' ', '') for k, v in pairs.items())]
    for option in (['--compare', 'none'], ['--score-threshold', '0.5'], ['--viewer']):
        text = one_line(main, [config, 'none', '--input', sweep, *option, *options])
        assert f'{option[0]} is for detection configs' in text


def test_as_many_names_as_detectors(main, capsys):
    run = ['config.py', 'a.pth', '--input', 'x.bin']
    for more in (['--names', 'a', 'b'], ['--compare', 'b.pth', '--names', 'a', 'a']):
        with pytest.raises(SystemExit):
            main([*run, *more])
        assert '--names takes' in capsys.readouterr().err
