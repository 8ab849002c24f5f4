"""Generated and real data through mmdet3d's own data sets and converters."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from mm3d_reading import count_points, read_with_mmdet3d
from mm3d_scenes import (
    KITTI,
    NUSCENES,
    WAYMO,
    write_kitti,
    write_kitti_raw,
    write_nuscenes,
    write_waymo,
)

from mmjepa.datasets.info_files import load_plain, read_infos
from mmjepa.datasets.kitti import KittiObjects
from mmjepa.datasets.mmdet3d_infos import (
    convert_kitti,
    convert_nuscenes,
    write_subset,
)

# without importing it: collecting the tests stays quick
pytestmark = pytest.mark.skipif(find_spec('mmdet3d') is None, reason='needs mmdet3d')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Finished data sets, not to be changed."""
    base = tmp_path_factory.mktemp('made')
    for name, write in (('kitti', write_kitti), ('nus', write_nuscenes), ('waymo', write_waymo)):
        write(base / name)
    return base


@pytest.mark.parametrize(
    ('kind', 'folder', 'infos', 'points', 'classes', 'dim'),
    [
        ('KittiDataset', 'kitti', 'kitti', 'training/velodyne_reduced', KITTI, 4),
        ('NuScenesDataset', 'nus', 'nuscenes', 'samples/LIDAR_TOP', NUSCENES, 5),
        ('WaymoDataset', 'waymo', 'waymo', 'training/velodyne', WAYMO, 6),
    ],
)
def test_mmdet3d_reads_generated_data(made, kind, folder, infos, points, classes, dim):
    root = made / folder
    names = list(classes)
    train = read_with_mmdet3d(kind, root, infos, points, names, dim)
    sample = train[0]
    counts = count_points(sample)
    own = len(read_infos(root / f'{infos}_infos_train.pkl')['data_list'][0]['instances'])
    assert len(train) == 2
    assert len(counts) > own  # objects were pasted, and stand where their points are
    assert (counts >= 100).all()
    val = read_with_mmdet3d(kind, root, infos, points, names, dim, split='val')
    assert len(val.get_data_info(1)['eval_ann_info']['gt_labels_3d']) == own
    assert val[1]['inputs']['points'].shape[1] == dim


@pytest.mark.slow
def test_real_kitti_frames(shared_dir, tmp_path):
    """Six frames without image sets, two of them without image."""
    root, out = shared_dir / 'data/kitti', tmp_path / 'out'
    before = sorted(path.relative_to(root) for path in root.rglob('*'))
    report = convert_kitti(root, out)
    assert sorted(path.relative_to(root) for path in root.rglob('*')) == before
    assert report.counts == {'train': 5, 'val': 1, 'trainval': 6, 'test': 0}
    text = report.text()
    assert '2 of 6 training frames have no image (002155, ...)' in text
    assert 'Car 17' in text and 'DontCare 12' in text
    info = {i['sample_idx']: i for i in read_infos(out / 'kitti_infos_trainval.pkl')['data_list']}
    assert (info[2155]['images']['CAM2']['height'], info[7347]['images']['CAM2']['width']) == (
        *(375, 1242),
    )
    assert not (out / 'training/image_2/002155.png').exists()  # no image is made up
    names = ['Pedestrian', 'Cyclist', 'Car']
    points = 'training/velodyne_reduced'
    train = read_with_mmdet3d('KittiDataset', out, 'kitti', points, names, 4, paste=False)
    for i, frame in enumerate(('000000', '000001', '000002', '000003', '002155')):
        labels = KittiObjects.from_file(root / f'training/label_2/{frame}.txt')
        wanted = sorted(names.index(name) for name in labels.names if name in names)
        annotations = train.get_data_info(i)['ann_info']
        found = annotations['gt_labels_3d']
        assert sorted(found[found >= 0].tolist()) == wanted
    assert all((count_points(train[i]) > 0).any() for i in range(5))
    # mmdet3d numbers the database's frames by their place, not by KITTI's number
    files = out / 'kitti_dbinfos_train.pkl', out / 'kitti_infos_train.pkl'
    assert max(e['image_idx'] for v in load_plain(files[0]).values() for e in v) == 4
    first, second = write_subset(*files, 1), write_subset(*files, 2)
    assert first.frame_list.read_text().split() == ['000000']
    assert first.objects['Pedestrian'] == sum(first.objects.values()) == 1
    labels = KittiObjects.from_file(root / 'training/label_2/000001.txt').without_dontcare()
    assert sum(second.objects.values()) == 1 + len(labels)


@pytest.mark.slow
def test_generated_kitti_is_what_mmdet3d_makes(made, tmp_path):
    """And frames without objects pass its converter."""
    write_kitti_raw(tmp_path / 'raw')
    (tmp_path / 'raw/training/label_2/000003.txt').write_text('')
    dontcare = 'DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n'
    (tmp_path / 'raw/training/label_2/000001.txt').write_text(dontcare)
    convert_kitti(tmp_path / 'raw', tmp_path / 'out')
    for name, frame in (('train', 0), ('val', 0)):
        theirs = read_infos(tmp_path / f'out/kitti_infos_{name}.pkl')['data_list'][frame]
        ours = read_infos(made / f'kitti/kitti_infos_{name}.pkl')['data_list'][frame]
        del theirs['cam_instances']
        assert_alike(ours, theirs)
    ours = load_plain(made / 'kitti/kitti_dbinfos_train.pkl')
    theirs = load_plain(tmp_path / 'out/kitti_dbinfos_train.pkl')
    for name, entries in theirs.items():
        kept = [entry for entry in ours[name] if entry['image_idx'] == 0]
        assert_alike(kept, [{k: v for k, v in e.items() if k != 'score'} for e in entries])


@pytest.mark.slow
def test_convert_nuscenes(made, tmp_path):
    """mmdet3d's converter on the generated tables; an animal doesn't become a barrier."""
    pytest.importorskip('nuscenes')
    root = shutil.copytree(made / 'nus', tmp_path / 'nus')
    table = root / 'v1.0-trainval/instance.json'
    rows = json.loads(table.read_text())
    car = next(row for row in rows if row['category_token'] == 'car')
    car['category_token'] = 'animal'
    table.write_text(json.dumps(rows))
    before = sorted(root.rglob('*'))
    report = convert_nuscenes(root, root.parent / 'out')
    assert sorted(root.rglob('*')) == before
    assert report.counts == {'train': 2, 'val': 2}
    assert (report.objects['car'], report.objects['barrier']) == (1, 2)
    assert "1 objects outside the ten classes, which mmdet3d's converter calls 'barrier'" in (
        report.text()
    )
    theirs = read_infos(root.parent / 'out/nuscenes_infos_val.pkl')['data_list']
    ours = read_infos(made / 'nus/nuscenes_infos_val.pkl')['data_list']
    for a, b in zip(ours, theirs, strict=True):
        for key in ('token', 'timestamp', 'ego2global', 'instances'):
            assert_alike(a[key], b[key])
        for key in ('lidar_path', 'lidar2ego', 'num_pts_feats'):
            assert_alike(a['lidar_points'][key], b['lidar_points'][key])
        sweep, other = a['lidar_sweeps'][0], b['lidar_sweeps'][0]
        del other['lidar_points']['num_pts_feats']
        assert_alike(sweep, other)


def assert_alike(ours, theirs, where=''):
    """Equal, numbers to 1e-3 relative or absolute (labels have two decimals)."""
    if isinstance(ours, dict):
        assert set(ours) == set(theirs), where
        for key in ours:
            assert_alike(ours[key], theirs[key], f'{where}.{key}')
    elif isinstance(ours, list) and ours and isinstance(ours[0], dict | list):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(*pair, f'{where}[{i}]')
    elif isinstance(ours, str):
        assert ours == theirs, where
    else:
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3, err_msg=where)
