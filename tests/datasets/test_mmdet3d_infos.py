"""Conversions for mmdet3d: which frames, where the result lands, and what a check notices."""

import shutil

import numpy as np
import pytest
from mm3d_scenes import (
    add_images,
    write_kitti,
    write_kitti_raw,
    write_nuscenes,
    write_waymo,
)

from mmjepa.datasets.info_files import InfoFileError, load_plain, read_infos, write_plain
from mmjepa.datasets.mmdet3d_infos import (
    SETS,
    convert_kitti,
    convert_nuscenes,
    kitti,
    verify_kitti,
    verify_nuscenes,
    verify_waymo,
)
from mmjepa.datasets.mmdet3d_infos.workspace import Workspace


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Finished data sets, not to be changed."""
    base = tmp_path_factory.mktemp('made')
    for name, write in (('kitti', write_kitti), ('nus', write_nuscenes), ('waymo', write_waymo)):
        write(base / name)
    return base


@pytest.fixture
def copied(made, tmp_path):
    """A function that copies one of them into the test's folder."""
    return lambda name: shutil.copytree(made / name, tmp_path / 'data' / name)


@pytest.fixture
def raw(tmp_path):
    """A KITTI folder without images and info files."""
    write_kitti_raw(tmp_path / 'raw')
    return tmp_path / 'raw'


@pytest.fixture
def converter(made, monkeypatch):
    """Stands in for mmdet3d's converter: copies what it would write, or raises what is set."""
    state = {'error': None, 'damage': None}

    def run(space):
        shutil.copytree(made / 'kitti/kitti_gt_database', space.result / 'kitti_gt_database')
        reduced = 'training/velodyne_reduced'
        shutil.copytree(made / 'kitti' / reduced, space.result / reduced)
        for name in SETS:
            if state['error'] and name == 'val':
                raise state['error']
            shutil.copy(made / f'kitti/kitti_infos_{name}.pkl', space.result)
        shutil.copy(made / 'kitti/kitti_dbinfos_train.pkl', space.result)
        if state['damage']:
            (space.result / state['damage']).unlink()

    monkeypatch.setattr(kitti, 'run_mmdet3d', run)
    return state


# ------------------------------------------------------------------ where the result is written


def test_out_takes_everything_and_root_nothing(raw, tmp_path, converter):
    before = contents(raw)
    out = tmp_path / 'deep' / 'out'
    report = convert_kitti(raw, out)
    assert contents(raw) == before
    assert (report.out, report.counts['train'], report.counts['val']) == (out, 2, 2)
    assert (report.instances, report.holding) == (6, 6)
    assert '4 of 4 training frames have no image' in report.text()
    assert verify_kitti(out).counts == report.counts
    assert (out / 'training/velodyne').resolve() == (raw / 'training/velodyne').resolve()
    assert [path.name for path in out.parent.iterdir()] == ['out']
    with pytest.raises(FileExistsError, match='not empty'):
        convert_kitti(raw, out)
    with pytest.raises(ValueError, match='lies inside --root'):
        convert_kitti(raw, raw / 'infos')


def test_in_place_replaces_an_earlier_result(raw, converter):
    add_images(raw)
    (raw / 'kitti_gt_database').mkdir()
    (raw / 'kitti_gt_database/stale.bin').write_bytes(b'old')
    write_plain([], raw / 'kitti_infos_val.pkl')
    lists = (raw / 'ImageSets/train.txt').read_bytes()
    assert convert_kitti(raw).out == raw
    assert verify_kitti(raw).counts == {'train': 2, 'val': 2, 'trainval': 4, 'test': 0}
    assert not (raw / 'kitti_gt_database/stale.bin').exists()
    assert not list(raw.glob('.create_data*'))
    assert (raw / 'ImageSets/train.txt').read_bytes() == lists
    assert not (raw / 'training/velodyne').is_symlink()


@pytest.mark.parametrize('place', ['out', 'root'])
@pytest.mark.parametrize(
    ('state', 'raised'),
    [
        ({'error': KeyboardInterrupt()}, KeyboardInterrupt),
        ({'error': RuntimeError('converter failed')}, RuntimeError),
        ({'damage': 'kitti_infos_val.pkl'}, RuntimeError),
        ({'damage': 'training/velodyne_reduced/000003.bin'}, RuntimeError),
    ],
)
def test_whatever_ends_a_conversion_leaves_nothing(raw, tmp_path, converter, place, state, raised):
    add_images(raw)
    converter.update(state)
    before = contents(tmp_path)
    with pytest.raises(raised):
        convert_kitti(raw, tmp_path / 'out' if place == 'out' else None)
    assert contents(tmp_path) == before
    with pytest.raises(RuntimeError, match=r'kitti_infos_train\.pkl is missing'):
        verify_kitti(tmp_path / 'out' if place == 'out' else raw)


def test_a_killed_publication_in_place_is_not_taken_for_good(raw, converter, monkeypatch):
    add_images(raw)
    convert_kitti(raw)
    replace, left = kitti.os.replace, [3]

    def fail_soon(source, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr('mmjepa.datasets.mmdet3d_infos.workspace.os.replace', fail_soon)
    with pytest.raises(KeyboardInterrupt):
        convert_kitti(raw)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match='is missing'):
        verify_kitti(raw)
    assert (raw / 'training/velodyne/000000.bin').is_file()


def test_remains_of_a_killed_conversion_are_told(raw, tmp_path, converter, capsys):
    (tmp_path / '.out.create_data-xyz').mkdir()
    convert_kitti(raw, tmp_path / 'out')
    assert '.out.create_data-xyz' in capsys.readouterr().out


def test_workspace_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    space = Workspace(tmp_path / 'root', tmp_path / 'file' / 'out', 'kitti')
    with pytest.raises(OSError, match='cannot be written to .*--out'), space:
        pass


# ------------------------------------------------------------------------ what a check notices


def edit(path, change):
    content = load_plain(path)
    change(content)
    write_plain(content, path)


def test_verify_kitti(copied):
    root = copied('kitti')
    assert '6 of them hold points' in verify_kitti(root).text()
    infos = root / 'kitti_infos_train.pkl'
    good = infos.read_bytes()
    edit(infos, lambda content: content['data_list'].pop())
    with pytest.raises(RuntimeError, match=r'holds 1 frames, ImageSets/train\.txt 2'):
        verify_kitti(root)
    write_plain(read_infos(root / 'kitti_infos_val.pkl')['data_list'], infos)
    with pytest.raises(InfoFileError, match=r'mmdet3d 0\.x'):
        verify_kitti(root)
    infos.write_bytes(good[:100])
    with pytest.raises(InfoFileError, match='truncated'):
        verify_kitti(root)
    infos.write_bytes(good)
    edit(infos, lambda content: content['metainfo'].update(dataset='waymo'))
    with pytest.raises(RuntimeError, match="dataset 'waymo', expected 'kitti'"):
        verify_kitti(root)


def test_verify_kitti_reads_a_sample_back(copied):
    root = copied('kitti')
    infos = root / 'kitti_infos_trainval.pkl'
    good = infos.read_bytes()
    edit(infos, lambda content: content['data_list'][0]['instances'].pop())
    with pytest.raises(RuntimeError, match='5 boxes in the info file, 6 in its label file'):
        verify_kitti(root)
    infos.write_bytes(good)
    camera = ['data_list', 0, 'images', 'CAM2', 'lidar2cam', 0]

    def turn(content):
        for key in camera:
            content = content[key]
        content[3] += 1.0

    edit(infos, turn)
    with pytest.raises(RuntimeError, match=r'calibration is not that of calib/000000\.txt'):
        verify_kitti(root)
    infos.write_bytes(good)
    sweep = root / 'training/velodyne_reduced/000000.bin'
    points = np.fromfile(sweep, np.float32).reshape(-1, 4)
    (points + np.float32([0, 0, 50, 0])).tofile(sweep)
    with pytest.raises(RuntimeError, match='none of the 6 boxes .* holds a point'):
        verify_kitti(root)
    points.ravel()[:-1].tofile(sweep)
    with pytest.raises(RuntimeError, match='are not 4 per point'):
        verify_kitti(root)
    sweep.unlink()
    with pytest.raises(RuntimeError, match=r'1 of 2 sweeps are missing.*000000\.bin'):
        verify_kitti(root)


def test_verify_the_database(copied):
    root = copied('kitti')
    path = root / 'kitti_dbinfos_train.pkl'
    good = path.read_bytes()
    edit(path, lambda content: content['Car'][1].update(image_idx=7))
    with pytest.raises(RuntimeError, match='frame 7 of an object is none of the 2'):
        verify_kitti(root)
    path.write_bytes(good)
    entry = load_plain(path)['Car'][0]
    (root / entry['path']).write_bytes(b'1234')
    with pytest.raises(RuntimeError, match='has 4 bytes'):
        verify_kitti(root)
    (root / entry['path']).unlink()
    with pytest.raises(RuntimeError, match=f'{entry["path"]} is missing'):
        verify_kitti(root)
    write_plain({'Car': []}, path)
    with pytest.raises(RuntimeError, match='holds no object'):
        verify_kitti(root)
    path.write_bytes(good)


def test_missing_classes_are_told(copied):
    root = copied('kitti')
    edit(root / 'kitti_dbinfos_train.pkl', lambda content: content.pop('Cyclist'))
    assert 'no Cyclist among the training objects' in verify_kitti(root).text()


def test_verify_nuscenes(copied):
    root = copied('nus')
    report = verify_nuscenes(root)
    assert (report.counts, report.instances) == ({'train': 2, 'val': 2}, 10)
    infos = root / 'nuscenes_infos_val.pkl'
    edit(infos, lambda content: content['data_list'].pop())
    with pytest.raises(RuntimeError, match=r'3 frames, v1\.0-trainval/sample\.json 4'):
        verify_nuscenes(root)
    edit(infos, lambda content: content['data_list'].clear())
    with pytest.raises(RuntimeError, match='holds no frame'):
        verify_nuscenes(root)


def test_convert_nuscenes_names_what_is_missing(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no tables found.*v1\.0-trainval'):
        convert_nuscenes(tmp_path)
    root = copied('nus')
    (root / 'v1.0-trainval/visibility.json').unlink()
    shutil.rmtree(root / 'maps')
    with pytest.raises(FileNotFoundError, match=r'maps, v1\.0-trainval/visibility\.json'):
        convert_nuscenes(root)


def test_verify_waymo(copied, tmp_path):
    root = copied('waymo')
    assert (verify_waymo(root).points, verify_waymo(root).holding) == (2100, 6)
    root.rename(tmp_path / 'kitti_format')
    assert verify_waymo(tmp_path).out == tmp_path / 'kitti_format'
    (tmp_path / 'kitti_format/training/velodyne/1000001.bin').unlink()
    with pytest.raises(RuntimeError, match=r'1 of 2 sweeps are missing.*1000001\.bin'):
        verify_waymo(tmp_path)
    told = r'no waymo_infos_\*\.pkl.*run the converter first: tools/create_data.*prints how'
    with pytest.raises(FileNotFoundError, match=told):
        verify_waymo(tmp_path / 'elsewhere')
