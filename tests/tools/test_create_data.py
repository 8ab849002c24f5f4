"""The command line of tools/create_data.py."""

import importlib.util
import shutil

import numpy as np
import pytest
from mm3d_scenes import write_kitti, write_nuscenes, write_once_raw, write_waymo

from mmjepa.datasets.mmdet3d_infos import workspace

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


def test_sim_video_says_what_it_wrote(tool, tmp_path, capsys):
    out = tmp_path / 'sim'
    command = ['sim-video', '--out', str(out), '--clips', '20', '--frames', '4', '--size', '16']
    command += ['--classes', 'left', 'bounce', '--test-fraction', '0.3', '--batch-size', '8']
    assert tool.main(command) == 0
    printed = capsys.readouterr()
    assert '20 clips (14 train, 6 test) of 2 classes, 20 written' in printed.out
    assert 'clips: 20/20' in printed.err
    assert np.load(out / 'clips' / '000019.npy').shape == (4, 16, 16, 3)
    assert (out / 'classes.txt').read_text() == 'left\nbounce\n'
    assert tool.main(command) == 1
    assert 'already holds generated clips: --overwrite' in capsys.readouterr().err
    assert tool.main([*command, '--overwrite', '--seed', '3', '--drift', '0.2']) == 0
    assert tool.main([*command[:3], '--clips', '20', '--classes', 'left', 'sideways']) == 1
    assert 'classes must be two or more of left, right' in capsys.readouterr().err


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
    assert error.count('\n') == 1


def test_kitti_refuses_an_empty_validation_set(tool, sim, tmp_path, capsys):
    copy = tmp_path / 'copy'
    shutil.copytree(sim, copy)
    (copy / 'ImageSets' / 'val.txt').write_text('')
    assert tool.main(['kitti', '--root', str(copy)]) == 1
    error = capsys.readouterr().err
    assert 'val.txt is empty' in error
    assert '--out ANOTHER_FOLDER --val-fraction 0.2' in error


def test_kitti_without_mmdet3d_names_the_extra(tool, sim, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workspace, 'find_spec', lambda name: None)
    before = sorted(tmp_path.rglob('*'))
    assert tool.main(['kitti', '--root', str(sim), '--out', str(tmp_path / 'out')]) == 1
    assert "pip install 'mmjepa[mm3d]'" in capsys.readouterr().err
    assert sorted(tmp_path.rglob('*')) == before


def test_nuscenes_without_devkit(tool, tmp_path, capsys, monkeypatch):
    write_nuscenes(tmp_path / 'nus')
    monkeypatch.setattr('mmjepa.datasets.mmdet3d_infos.nuscenes.find_spec', lambda name: None)
    assert tool.main(['nuscenes', '--root', str(tmp_path / 'nus')]) == 1
    assert 'nuscenes-devkit' in capsys.readouterr().err


def test_once(tool, tmp_path, capsys):
    write_once_raw(tmp_path / 'once')
    command = ['once', '--root', str(tmp_path / 'once')]
    assert tool.main([*command, '--verify-only']) == 1
    assert 'once_infos_train.pkl is missing' in capsys.readouterr().err
    assert tool.main([*command, '--out', str(tmp_path / 'out')]) == 0
    assert 'train 2, val 2 frames' in capsys.readouterr().out
    assert not list((tmp_path / 'once').glob('once_*'))
    command = ['once', '--root', str(tmp_path / 'out'), '--verify-only']
    assert tool.main(command) == 0
    assert '5 of them hold points' in capsys.readouterr().out


def test_waymo_prints_commands_until_the_files_are_there(tool, tmp_path, capsys):
    root = tmp_path / 'waymo'
    assert tool.main(['waymo', '--root', str(root)]) == 1
    printed = capsys.readouterr()
    assert f'create_data.py waymo --root-path {root} --out-dir {root}' in printed.out
    assert 'waymo-open-dataset-tf-2-6-0' in printed.out
    assert 'no waymo_infos_*.pkl' in printed.err
    write_waymo(root / 'kitti_format')
    assert tool.main(['waymo', '--root', str(root), '--verify-only']) == 0
    printed = capsys.readouterr().out
    assert 'train 2, val 2 frames' in printed
    assert 'conda' not in printed


def test_verify_only_and_subset(tool, tmp_path, capsys):
    write_kitti(tmp_path / 'kitti', frames=5)
    root = ['--root', str(tmp_path / 'kitti')]
    assert tool.main(['kitti', *root, '--verify-only']) == 0
    assert 'train 5, val 5, trainval 10, test 0 frames' in capsys.readouterr().out
    assert tool.main(['subset', *root, '--fraction', '0.5']) == 0
    printed = capsys.readouterr().out
    assert 'objects of 2 of 5 frames (Car 4, Pedestrian 4, Cyclist 4)' in printed
    assert (tmp_path / 'kitti/kitti_dbinfos_train_first2.pkl').is_file()
    assert tool.main(['subset', *root, '--count', '1', '--out', str(tmp_path / 'sub')]) == 0
    frames = tmp_path / 'sub/kitti_dbinfos_train_first1_frames.txt'
    assert frames.read_text() == '000000\n'
    assert tool.main(['subset', *root, '--count', '9']) == 1
    assert 'lie in 1..5' in capsys.readouterr().err
    assert tool.main(['subset', '--root', str(tmp_path), '--count', '1']) == 1
    assert 'found none' in capsys.readouterr().err


def test_interruption_is_told(tool, monkeypatch, tmp_path, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmjepa.datasets.once.convert_once', interrupted)
    assert tool.main(['once', '--root', str(tmp_path)]) == 130
    assert 'nothing half-written' in capsys.readouterr().err


@pytest.mark.slow
def test_mmdet3d_accepts_simulated_data_unchanged(tool, sim, tmp_path, capfd):
    pytest.importorskip('mmdet3d')
    before = {path: path.read_bytes() for path in sim.rglob('*') if path.is_file()}
    out = tmp_path / 'infos'
    assert tool.main(['kitti', '--root', str(sim), '--out', str(out)]) == 0
    printed = capfd.readouterr().out
    assert 'train 2, val 1, trainval 3, test 1' in printed
    assert 'image' not in printed.partition('read back')[2]  # every frame has one
    assert {path: path.read_bytes() for path in sim.rglob('*') if path.is_file()} == before
    reduced = sorted((out / 'training' / 'velodyne_reduced').glob('*.bin'))
    assert len(reduced) == 3
    assert np.fromfile(reduced[0], np.float32).size % 4 == 0
    # a set with another number of frames is noticed
    (out / 'ImageSets' / 'train.txt').write_text('000000\n')
    assert tool.main(['kitti', '--root', str(out), '--verify-only']) == 1
    assert 'holds 2 frames, ImageSets/train.txt 1' in capfd.readouterr().err
