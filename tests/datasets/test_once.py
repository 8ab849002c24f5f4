"""ONCE: from its published layout to mmdet3d's info files, and through the data set class."""

import json
import shutil

import numpy as np
import pytest
from mm3d_reading import count_points, read_with_mmdet3d
from mm3d_scenes import ONCE, write_once, write_once_raw

from mmjepa.datasets.info_files import InfoFileError, load_plain, read_infos, write_plain
from mmjepa.datasets.mmdet3d_infos import subset_database
from mmjepa.datasets.once import CLASSES, convert_once, verify_once


@pytest.fixture
def root(tmp_path):
    write_once_raw(tmp_path / 'once')
    return tmp_path / 'once'


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A converted data set, not to be changed."""
    root = tmp_path_factory.mktemp('once') / 'once'
    write_once(root)
    return root


def change(root, edit, sequence='000076'):
    """Changes the annotations of a sequence."""
    path = root / f'data/{sequence}/{sequence}.json'
    content = json.loads(path.read_text())
    edit(content['frames'])
    path.write_text(json.dumps(content))


def test_convert_in_place(root):
    raw = {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}
    report = convert_once(root)
    assert report.counts == {'train': 2, 'val': 2}
    assert report.objects == dict.fromkeys(CLASSES, 2)
    assert (report.points, report.instances, report.holding) == (2000, 5, 5)
    assert '2 frames without labelled boxes' in report.text()
    assert all(path.read_bytes() == data for path, data in raw.items())
    assert not list(root.glob('.create_data*'))
    infos = read_infos(root / 'once_infos_train.pkl')
    assert infos['metainfo']['categories'] == {name: i for i, name in enumerate(CLASSES)}
    truth = json.loads((root / 'data/000076/000076.json').read_text())['frames'][0]
    frame = infos['data_list'][0]
    boxes = [entry['bbox_3d'] for entry in frame['instances']]
    np.testing.assert_array_equal(boxes, truth['annos']['boxes_3d'])  # same frame as the points
    labels = [CLASSES[entry['bbox_label_3d']] for entry in frame['instances']]
    assert labels == truth['annos']['names']
    assert all(entry['num_lidar_pts'] >= 100 for entry in frame['instances'])
    assert (frame['sequence_id'], frame['frame_id']) == ('000076', truth['frame_id'])


def test_out_takes_everything_and_root_nothing(root, tmp_path):
    before = {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}
    report = convert_once(root, tmp_path / 'out')
    assert {path: path.read_bytes() for path in root.rglob('*') if path.is_file()} == before
    assert verify_once(tmp_path / 'out').counts == report.counts
    assert (tmp_path / 'out/data').resolve() == (root / 'data').resolve()
    with pytest.raises(FileExistsError, match='not empty'):
        convert_once(root, tmp_path / 'out')


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (
            lambda frames: frames[1]['annos']['names'].__setitem__(0, 'Tricycle'),
            r"000076\.json, frame \d+: class 'Tricycle' is none of Car, Bus",
        ),
        (lambda frames: frames[0]['annos']['names'].pop(), r'finite and \(4, 7\)'),
        (lambda frames: frames[0]['annos']['boxes_3d'][0].pop(), 'boxes_3d cannot be read'),
        (
            lambda frames: frames[0]['annos']['boxes_3d'][0].__setitem__(3, -1),
            'length, width or height that is not positive',
        ),
        (
            lambda frames: frames[0]['annos']['boxes_3d'][0].__setitem__(0, float('nan')),
            'must be finite',
        ),
        (lambda frames: frames[0].pop('frame_id'), r'000076\.json is damaged'),
        (
            lambda frames: [frame.pop('annos', None) for frame in frames],
            r'train\.txt: none of its 1 sequences has a frame with annos',
        ),
    ],
)
def test_bad_annotations(root, edit, message):
    change(root, edit)
    with pytest.raises(ValueError, match=message):
        convert_once(root)
    assert not list(root.glob('once_*'))
    assert not list(root.glob('.create_data*'))


def test_missing_files(root):
    sweep = min((root / 'data/000027/lidar_roof').iterdir())
    sweep.unlink()
    with pytest.raises(FileNotFoundError, match=rf'{sweep.name} is missing.*sequence 000027'):
        convert_once(root)
    (root / 'data/000027/000027.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'000027\.json is missing: unpack'):
        convert_once(root)
    (root / 'ImageSets/val.txt').write_text('\n')
    with pytest.raises(ValueError, match=r'val\.txt is empty'):
        convert_once(root)
    (root / 'ImageSets/val.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'val\.txt is missing; ONCE is laid out as'):
        convert_once(root)


def test_points_in_another_frame_are_noticed(root):
    def lift(frames):
        for frame in frames:
            for box in frame.get('annos', {}).get('boxes_3d', []):
                box[2] += 30

    change(root, lift)
    with pytest.raises(RuntimeError, match='not in the same frame'):
        convert_once(root)


def test_frames_without_boxes_are_left_out(root):
    change(root, lambda frames: frames[0].update(annos={'names': [], 'boxes_3d': []}))
    report = convert_once(root)
    assert report.counts == {'train': 1, 'val': 2}
    assert '3 frames without labelled boxes' in report.text()


def test_verify_compares_with_the_annotations(root):
    convert_once(root)
    change(root, lambda frames: frames.pop(0))
    with pytest.raises(RuntimeError, match=r'holds 2 frames, the annotations of .*train\.txt 1'):
        verify_once(root)


def test_subset(made, tmp_path):
    path = subset_database(
        made / 'once_dbinfos_train.pkl', made / 'once_infos_train.pkl', 1, tmp_path
    )
    assert {name: len(entries) for name, entries in load_plain(path).items()} == dict.fromkeys(
        CLASSES, 1
    )
    frames = (tmp_path / 'once_dbinfos_train_first1_frames.txt').read_text().split()
    infos = read_infos(made / 'once_infos_train.pkl')
    assert frames == [infos['data_list'][0]['frame_id']]


@pytest.fixture
def once_dataset():
    """The class, which needs mmdet3d."""
    pytest.importorskip('mmdet3d')
    from mmjepa.downstream.lidar.once_dataset import ONCEDataset

    return ONCEDataset


def test_dataset_with_pasted_objects(once_dataset, made):
    data = read_with_mmdet3d('ONCEDataset', made, 'once', 'data', list(CLASSES), 4)
    sample = data[0]
    boxes = sample['data_samples'].gt_instances_3d
    counts = count_points(sample)
    assert len(data) == 2
    assert len(counts) > 5
    assert (counts >= 100).all()  # own and pasted boxes stand where their points are
    sizes = boxes.bboxes_3d.tensor[:5, 3:6].numpy()
    np.testing.assert_allclose(sizes, [ONCE[CLASSES[k]] for k in boxes.labels_3d[:5]], rtol=1e-6)
    z = boxes.bboxes_3d.gravity_center[:5, 2].numpy()
    np.testing.assert_allclose(z, -1.7 + sizes[:, 2] / 2, atol=1e-5)


def test_dataset_for_evaluation(once_dataset, made):
    data = read_with_mmdet3d('ONCEDataset', made, 'once', 'data', ['Car', 'Cyclist'], 4, 'val')
    info = data.get_data_info(1)['eval_ann_info']
    assert sorted(info['gt_labels_3d'].tolist()) == [0, 1]  # the other classes are left out
    assert info['gt_bboxes_3d'].tensor.shape == (2, 7)
    assert (info['num_lidar_pts'] >= 100).all()
    assert list(data.metainfo['classes']) == ['Car', 'Cyclist']


def test_dataset_without_objects(once_dataset, made, tmp_path):
    content = read_infos(made / 'once_infos_val.pkl')
    content['data_list'][0]['instances'] = []
    write_plain(content, tmp_path / 'once_infos_val.pkl')
    data = once_dataset(str(tmp_path), 'once_infos_val.pkl', test_mode=True)
    info = data.get_data_info(0)['eval_ann_info']
    assert info['gt_bboxes_3d'].tensor.shape == (0, 7)
    assert (info['gt_labels_3d'].shape, info['num_lidar_pts'].shape) == ((0,), (0,))


def test_dataset_refuses_what_it_cannot_read(once_dataset, made, tmp_path):
    with pytest.raises(ValueError, match=r"metainfo\.classes: \['Van'\] are none of ONCE"):
        once_dataset(str(made), 'once_infos_val.pkl', metainfo={'classes': ['Car', 'Van']})
    write_plain([{'frame_id': '1'}], tmp_path / 'once_infos_val.pkl')
    with pytest.raises(InfoFileError, match=r'mmdet3d 0\.x.*create_data\.py once'):
        once_dataset(str(tmp_path), 'once_infos_val.pkl')
    content = read_infos(made / 'once_infos_val.pkl')
    write_plain({**content, 'data_list': []}, tmp_path / 'once_infos_val.pkl')
    with pytest.raises(ValueError, match='holds no frame'):
        once_dataset(str(tmp_path), 'once_infos_val.pkl')
    write_plain({**content, 'metainfo': {'dataset': 'kitti'}}, tmp_path / 'once_infos_val.pkl')
    with pytest.raises(ValueError, match="of data set 'kitti', not of ONCE"):
        once_dataset(str(tmp_path), 'once_infos_val.pkl')


def test_an_unfinished_conversion_leaves_nothing(root, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmjepa.datasets.once.verify_once', interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_once(root, tmp_path / 'out')
    assert [path.name for path in tmp_path.iterdir()] == ['once']
    shutil.rmtree(root / 'data')  # links were removed, not what they named
