"""Ground-truth databases, and their part for the first frames."""

import shutil

import numpy as np
import pytest
from mm3d_scenes import write_kitti, write_nuscenes, write_waymo

from mmjepa.datasets.info_files import load_plain, read_infos, write_plain
from mmjepa.datasets.mmdet3d_infos import fraction_count, subset_database, write_subset
from mmjepa.datasets.mmdet3d_infos.gt_database import LabelledFrame, write_gt_database


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Finished data sets, not to be changed."""
    base = tmp_path_factory.mktemp('made')
    writers = {'kitti': write_kitti, 'nuscenes': write_nuscenes, 'waymo': write_waymo}
    for name, write in writers.items():
        write(base / name)
    return base


def test_database_holds_the_points_of_each_box(tmp_path):
    points = np.array([[5, 0, 1, 0.1], [5.4, 0, 1, 0.2], [9, 9, 9, 0.3]], dtype=np.float32)
    boxes = np.array([[5, 0, 1, 2, 2, 2, 0.3], [5.4, 0, 1, 0.4, 0.4, 2, 0], [20, 0, 0, 1, 1, 1, 0]])
    frames = [
        LabelledFrame(points, [], boxes[:0]),
        LabelledFrame(points, ['Car', 'Cyclist', 'Car'], boxes, np.array([2, -1, 0])),
    ]
    counts = write_gt_database(tmp_path, 'kitti', frames, ['Car', 'Cyclist', 'Bus'])
    assert counts == {'Car': 2, 'Cyclist': 1, 'Bus': 0}
    infos = load_plain(tmp_path / 'kitti_dbinfos_train.pkl')
    first = infos['Car'][0]
    assert (first['image_idx'], first['gt_idx'], first['difficulty']) == (1, 0, 2)
    np.testing.assert_allclose(first['box3d_lidar'], [5, 0, 0, 2, 2, 2, 0.3], rtol=1e-6)
    stored = np.fromfile(tmp_path / first['path'], np.float32).reshape(-1, 4)
    # the box that overlaps it keeps its point, too
    np.testing.assert_allclose(stored, [[0, 0, 1, 0.1], [0.4, 0, 1, 0.2]], atol=1e-6)
    assert [infos[name][0]['num_points_in_gt'] for name in ('Car', 'Cyclist')] == [2, 1]
    assert infos['Car'][1]['num_points_in_gt'] == 0


@pytest.mark.parametrize(('fraction', 'count'), [(0.05, 185), (0.2, 742), ('0.5', 1856), (1, 3712)])
def test_fractions_of_kitti(fraction, count):
    assert fraction_count(fraction, 3712) == count


def test_fractions_are_decimal():
    assert fraction_count(0.29, 100) == 29  # 28.999... in binary
    with pytest.raises(ValueError, match='leaves none of 10'):
        fraction_count(0.05, 10)
    with pytest.raises(ValueError, match=r'in \(0, 1\], got 1.5'):
        fraction_count(1.5, 10)
    with pytest.raises(ValueError, match="got 'many'"):
        fraction_count('many', 10)


@pytest.mark.parametrize('name', ['kitti', 'nuscenes', 'waymo'])
def test_subset_holds_the_objects_of_the_first_frames(made, tmp_path, name):
    root = made / name
    dbinfos, infos = root / f'{name}_dbinfos_train.pkl', root / f'{name}_infos_train.pkl'
    path = subset_database(dbinfos, infos, 1, tmp_path)
    assert path.name == f'{name}_dbinfos_train_first1.pkl'
    whole, part = load_plain(dbinfos), load_plain(path)
    frame = read_infos(infos)['data_list'][0]
    assert sum(map(len, part.values())) == len(frame['instances'])
    for kind, entries in part.items():
        assert {entry['path'] for entry in entries} == {
            entry['path'] for entry in whole[kind] if entry['image_idx'] == 0
        }
        assert all((root / entry['path']).is_file() for entry in entries)
    again = path.read_bytes()
    subset_database(dbinfos, infos, 1, tmp_path)
    assert path.read_bytes() == again
    everything = load_plain(subset_database(dbinfos, infos, 2, tmp_path))
    assert {k: len(v) for k, v in everything.items()} == {k: len(v) for k, v in whole.items()}


def test_subset_of_every_nth_frame(tmp_path):
    write_kitti(tmp_path, frames=5)
    files = tmp_path / 'kitti_dbinfos_train.pkl', tmp_path / 'kitti_infos_train.pkl'
    report = write_subset(*files, 2, every=2)
    assert report.frame_list.read_text().split() == ['000000', '000002']
    places = {entry['image_idx'] for entry in load_plain(report.database)['Car']}
    assert places == {0, 2}
    assert report.database.name == 'kitti_dbinfos_train_every2_first2.pkl'
    with pytest.raises(ValueError, match=r'lie in 1\.\.3'):
        write_subset(*files, 4, every=2)
    with pytest.raises(ValueError, match='every must be at least 1'):
        write_subset(*files, 1, every=0)


def edit(path, change):
    content = load_plain(path)
    change(content)
    write_plain(content, path)


def test_subset_needs_files_that_belong_together(made, tmp_path):
    root = shutil.copytree(made / 'kitti', tmp_path / 'kitti')
    files = root / 'kitti_dbinfos_train.pkl', root / 'kitti_infos_train.pkl'
    edit(files[1], lambda content: content['data_list'][1]['instances'].clear())
    with pytest.raises(ValueError, match='6 objects of frame 1, .* only 0'):
        subset_database(*files, 1)
    edit(files[1], lambda content: content['data_list'].pop())
    with pytest.raises(ValueError, match='frame 1 of an object is none of the 1'):
        subset_database(*files, 1)


def test_classes_missing_from_a_subset_are_told(tmp_path, made):
    infos = read_infos(made / 'kitti/kitti_infos_train.pkl')
    content = load_plain(made / 'kitti/kitti_dbinfos_train.pkl')
    content['Cyclist'] = [entry for entry in content['Cyclist'] if entry['image_idx'] == 1]
    write_plain(content, tmp_path / 'kitti_dbinfos_train.pkl')
    write_plain(infos, tmp_path / 'kitti_infos_train.pkl')
    report = write_subset(
        tmp_path / 'kitti_dbinfos_train.pkl', tmp_path / 'kitti_infos_train.pkl', 1
    )
    assert report.objects == {'Car': 2, 'Pedestrian': 2, 'Cyclist': 0}
    assert 'no Cyclist among them' in report.text()
