"""The command line of tools/create_data.py."""

import importlib.util
import shutil

import numpy as np
import pytest

from mmjepa.datasets import mmdet3d_infos

SIM = ['--frames', '3', '--seed', '1', '--frustum-only', '--val-fraction', '0.34']


@pytest.fixture(scope='module')
def tool(repo):
    spec = importlib.util.spec_from_file_location('create_data', repo / 'tools' / 'create_data.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def sim(tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('create') / 'sim'
    assert tool.main(['sim-kitti', '--out', str(out), *SIM, '--workers', '1']) == 0
    return out


def test_sim_kitti_says_what_it_wrote(tool, tmp_path, capsys):
    out = tmp_path / 'sim'
    command = ['sim-kitti', '--out', str(out), '--frames', '2', '--frustum-only', '--workers', '1']
    assert tool.main(command) == 0
    printed = capsys.readouterr()
    assert '3 frames (1 train, 1 val, 1 test)' in printed.out
    assert 'frames/s' in printed.out
    assert '3/3 frames' in printed.err
    assert tool.main(command) == 1
    assert 'error: ' in capsys.readouterr().err
    assert tool.main([*command, '--overwrite']) == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--frames', '0'], 'frames must be at least 1'),
        (['--frames', '1', '--workers', '0'], 'workers must be at least 1'),
        (['--frames', '1', '--caster', 'open3d', '--device', 'cuda'], 'runs on the CPU'),
    ],
)
def test_bad_arguments_end_with_one_line(tool, tmp_path, capsys, options, message):
    assert tool.main(['sim-kitti', '--out', str(tmp_path / 'x'), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'x').exists()


def test_missing_required_argument(tool, capsys):
    with pytest.raises(SystemExit):
        tool.main(['sim-kitti', '--frames', '2'])
    assert '--out' in capsys.readouterr().err


def test_inspect_reads_simulated_sweeps(tool, sim, capsys):
    assert tool.main(['inspect', str(sim)]) == 0
    printed = capsys.readouterr().out
    assert 'voxel' in printed
    assert tool.main(['inspect', str(sim / 'nowhere')]) == 1


def test_kitti_names_what_is_missing(tool, tmp_path, capsys):
    (tmp_path / 'training' / 'velodyne').mkdir(parents=True)
    assert tool.main(['kitti', '--root', str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert 'training/label_2' in error
    assert 'ImageSets/train.txt' in error


def test_kitti_refuses_an_empty_image_set(tool, sim, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(sim, copy)
    (copy / 'ImageSets' / 'test.txt').write_text('')
    assert tool.main(['kitti', '--root', str(copy)]) == 1
    assert 'test.txt is empty' in capsys.readouterr().err


def test_kitti_without_mmdet3d_names_the_extra(tool, sim, capsys, monkeypatch):
    monkeypatch.setattr(mmdet3d_infos, 'find_spec', lambda name: None)
    assert tool.main(['kitti', '--root', str(sim)]) == 1
    assert "pip install 'mmjepa[mm3d]'" in capsys.readouterr().err


def test_verify_notices_missing_infos(sim):
    with pytest.raises(RuntimeError, match=r'kitti_infos_train\.pkl is missing'):
        mmdet3d_infos.verify_infos(sim)


@pytest.mark.slow
def test_mmdet3d_accepts_simulated_data_unchanged(tool, sim, tmp_path, capfd):
    pytest.importorskip('mmdet3d')
    before = {path: path.read_bytes() for path in sim.rglob('*') if path.is_file()}
    out = tmp_path / 'infos'
    assert tool.main(['kitti', '--root', str(sim), '--out', str(out)]) == 0
    printed = capfd.readouterr().out
    assert 'train 2, val 1, trainval 3, test 1' in printed
    assert {path: path.read_bytes() for path in sim.rglob('*') if path.is_file()} == before
    reduced = sorted((out / 'training' / 'velodyne_reduced').glob('*.bin'))
    assert len(reduced) == 3
    assert np.fromfile(reduced[0], np.float32).size % 4 == 0
    (out / 'ImageSets').unlink()  # a set with another number of frames is noticed
    (out / 'ImageSets').mkdir()
    for name in mmdet3d_infos.SETS:
        (out / 'ImageSets' / f'{name}.txt').write_text('000000\n')
    with pytest.raises(RuntimeError, match='holds 2 frames'):
        mmdet3d_infos.verify_infos(out)
