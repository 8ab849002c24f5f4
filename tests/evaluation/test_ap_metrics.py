"""KittiAPMetric on made-up predictions of mmdet3d's kind."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ap_samples import CLASSES, evaluate, lidar_boxes, sample
from kitti_scenes import CALIB
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, DefaultScope
from mmengine.structures import InstanceData

from mmjepa.datasets.info_files import InfoFileError, write_plain
from mmjepa.datasets.kitti import KittiCalib, KittiObjects
from mmjepa.evaluation import KittiAPMetric
from mmjepa.evaluation.functional import kitti_annotation
from mmjepa.evaluation.metrics import kitti_ap_metric, kitti_ground_truth, lidar_predictions
from mmjepa.evaluation.metrics.kitti_detections import camera_detections
from mmjepa.evaluation.metrics.kitti_ground_truth import TruthFrame, frames_of_infos
from mmjepa.evaluation.metrics.lidar_predictions import LiDARPredictions

structures = pytest.importorskip('mmdet3d.structures')

MMDET3D = ('Pedestrian', 'Cyclist', 'Car', 'Van', 'Truck', 'Person_sitting', 'Tram', 'Misc')
IMAGE_HW = (375, 1242)


def objects_of(boxes, labels, calib):
    """The boxes as rows of a label file; image boxes by projection."""
    frame = TruthFrame(calib.r0 @ calib.velo_to_cam, calib.p2, IMAGE_HW, None)
    names = [CLASSES[label] for label in labels]
    predictions = LiDARPredictions(boxes, np.ones(len(boxes)), labels)
    found = camera_detections(predictions, names, frame, (-99,) * 3 + (99,) * 3)
    count = len(found['name'])
    assert count == len(boxes)
    return KittiObjects(
        names=found['name'],
        truncated=np.zeros(count),
        occluded=np.zeros(count, dtype=np.int64),
        alpha=found['alpha'],
        bbox=found['bbox'],
        dims=found['dimensions'][:, [1, 2, 0]],
        location=found['location'],
        rotation_y=found['rotation_y'],
    )


def info_of(name, objects, calib, categories):
    """One frame of mmdet3d's info file; lists where its converter writes lists."""
    annotation = kitti_annotation(objects)
    instances = []
    for i, kind in enumerate(objects.names):
        box = [*annotation['location'][i], *annotation['dimensions'][i], objects.rotation_y[i]]
        label = categories.get(str(kind), -1)
        row = {'bbox_label': label, 'bbox_label_3d': label, 'bbox_3d': [float(v) for v in box]}
        row['bbox'] = objects.bbox[i].tolist()
        row |= {key: float(annotation[key][i]) for key in ('truncated', 'occluded', 'alpha')}
        instances.append(row)
    return {
        'sample_idx': int(name),
        'images': {
            'CAM2': {
                'height': IMAGE_HW[0],
                'width': IMAGE_HW[1],
                'cam2img': np.vstack([calib.p2, [0, 0, 0, 1]]).tolist(),
                'lidar2cam': np.vstack([calib.r0 @ calib.velo_to_cam, [0, 0, 0, 1]]).tolist(),
            }
        },
        'lidar_points': {'lidar_path': f'{name}.bin', 'num_pts_feats': 4},
        'instances': instances,
    }


@pytest.fixture
def folder(tmp_path):
    """Labels, calibration and info file of 50 frames; .boxes: name -> (boxes, labels)."""
    categories = {name: label for label, name in enumerate(MMDET3D)}
    (tmp_path / 'label_2').mkdir()
    (tmp_path / 'calib').mkdir()
    boxes, infos = {}, []
    for index in range(50):
        name = f'{7 * index:06d}'
        (tmp_path / 'calib' / f'{name}.txt').write_text(CALIB)
        calib = KittiCalib.from_file(tmp_path / 'calib' / f'{name}.txt')
        boxes[name] = lidar_boxes(index)
        objects = objects_of(*boxes[name], calib)
        objects.write(tmp_path / 'label_2' / f'{name}.txt')
        infos.append(info_of(name, objects, calib, categories))
    metainfo = {'categories': categories, 'dataset': 'kitti', 'info_version': '1.1'}
    content = {'metainfo': metainfo, 'data_list': infos}
    write_plain(content, tmp_path / 'infos.pkl')
    return SimpleNamespace(path=tmp_path, boxes=boxes, content=content)


@pytest.fixture
def said(monkeypatch):
    """What the metrics log."""
    lines = []
    for module in (kitti_ap_metric, kitti_ground_truth, lidar_predictions):
        monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines


def built(folder, source='ann_file', **settings):
    path = {'ann_file': 'infos.pkl', 'label_dir': 'label_2'}[source]
    metric = KittiAPMetric(**{source: str(folder.path / path), **settings})
    metric.dataset_meta = {'classes': CLASSES}
    return metric


def perfect(folder):
    return [sample(name, *boxes) for name, boxes in folder.boxes.items()]


@pytest.mark.parametrize('source', ['ann_file', 'label_dir'])
def test_perfect_predictions(folder, source, said):
    figures = evaluate(built(folder, source), perfect(folder))
    for name in (*CLASSES, 'mean'):
        for measure in ('2d', 'bev', '3d', 'aos'):
            value = figures[f'kitti/{name}_{measure}_ap40_moderate']
            # two decimals in the label files
            assert value == pytest.approx(100, abs=1e-2 if measure == 'aos' else 1e-9)
    assert figures['kitti/Car_num_gt_moderate'] == 150
    assert 'Car 3d @0.70' in '\n'.join(said)
    assumed = any('50 of 50 frames have no image' in line for line in said)
    assert assumed == (source == 'label_dir')


def test_frames_are_found_by_name_not_by_order(folder):
    figures = evaluate(built(folder), perfect(folder)[::-1])
    assert figures['kitti/mean_3d_ap40_easy'] == pytest.approx(100)
    shifted = [
        sample(name, *boxes)
        for name, boxes in zip(folder.boxes, list(folder.boxes.values())[1:], strict=False)
    ]
    assert evaluate(built(folder), shifted)['kitti/mean_3d_ap40_easy'] < 60


def test_turned_and_displaced_predictions(folder):
    turned = {n: (b + [0, 0, 0, 0, 0, 0, math.pi], lab) for n, (b, lab) in folder.boxes.items()}
    figures = evaluate(built(folder), [sample(n, *b) for n, b in turned.items()])
    assert figures['kitti/Car_3d_ap40_moderate'] == pytest.approx(100)
    assert figures['kitti/Car_aos_ap40_moderate'] == pytest.approx(0, abs=1e-6)
    raised = {n: (b + [0, 0, 0.3, 0, 0, 0, 0], lab) for n, (b, lab) in folder.boxes.items()}
    figures = evaluate(built(folder), [sample(n, *b) for n, b in raised.items()])
    assert figures['kitti/Car_bev_ap40_moderate'] == pytest.approx(100)
    assert figures['kitti/Car_3d_ap40_moderate'] == 0  # 1.2 / 1.8 < 0.7
    assert figures['kitti/Car_3d_ap40_moderate_loose'] == pytest.approx(100)


def test_by_name_in_a_config_of_mmdet3d_through_an_evaluator(folder):
    """As tools/train.py builds it: mmdet3d's scope, data samples, the evaluator's prefix."""
    config = Config(dict(
        type='mmjepa.KittiAPMetric', ann_file=str(folder.path / 'infos.pkl'),
        iou_sets=dict(strict=dict(Car=(0.7, 0.7, 0.7), Pedestrian=[0.5] * 3, Cyclist=[0.5] * 3)),
        recall=[40], prefix='val',
    ))  # fmt: skip
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        evaluator = Evaluator([METRICS.build(config._cfg_dict)])
    evaluator.dataset_meta = {'classes': CLASSES}
    samples = []
    for one in perfect(folder):
        data = structures.Det3DDataSample(metainfo={'lidar_path': one['lidar_path']})
        data.pred_instances_3d = InstanceData(**one['pred_instances_3d'])
        samples.append(data)
    evaluator.process(samples, {})
    figures = evaluator.evaluate(50)
    assert figures['val/mean_3d_ap40_moderate'] == pytest.approx(100)
    assert not any('ap11' in key or 'loose' in key for key in figures)


def test_result_files_hold_the_detections(folder, said):
    samples = perfect(folder)
    first = next(iter(folder.boxes))
    samples[0] = sample(first, np.zeros((0, 7)), np.zeros(0, dtype=np.int64))
    out = folder.path / 'results'
    evaluate(built(folder, format_dir=str(out)), samples)
    assert len(list(out.glob('*.txt'))) == 50
    assert (out / f'{first}.txt').read_text() == ''
    for name in list(folder.boxes)[1:4]:
        truth = KittiObjects.from_file(folder.path / 'label_2' / f'{name}.txt')
        found = KittiObjects.from_file(out / f'{name}.txt')
        assert found.names.tolist() == truth.names.tolist()
        for key in ('bbox', 'dims', 'location', 'rotation_y', 'alpha'):
            np.testing.assert_allclose(getattr(found, key), getattr(truth, key), atol=0.006)
        assert found.score is not None and found.score[0] == pytest.approx(0.9)


def test_a_test_split_is_written_and_not_evaluated(folder):
    for info in folder.content['data_list']:
        del info['instances']
    write_plain(folder.content, folder.path / 'infos.pkl')
    with pytest.raises(ValueError, match='frame 000000: no labels.*format_only=True'):
        evaluate(built(folder), perfect(folder))
    out = folder.path / 'results'
    metric = built(folder, format_dir=str(out), format_only=True)
    assert evaluate(metric, perfect(folder)) == {}
    assert len(list(out.glob('*.txt'))) == 50


def test_image_box_by_hand():
    """A box 10 m ahead, 2 m to the left, seen by a camera 1 m behind and 0.5 m under the LiDAR."""
    to_camera = np.array([[0, -1.0, 0, 0], [0, 0, -1, -0.5], [1, 0, 0, 1]])
    projection = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
    frame = TruthFrame(to_camera, projection, IMAGE_HW, None)
    boxes = np.array([[10.0, 2, -1.7, 4, 2, 1.5, 0]])
    one = LiDARPredictions(boxes, np.array([0.5]), np.array([2]))
    found = camera_detections(one, ['Car'], frame, (0, -40, -3, 70.4, 40, 0.0))
    np.testing.assert_allclose(found['location'], [[-2, 1.2, 11]], atol=1e-12)
    np.testing.assert_allclose(found['dimensions'], [[4, 1.5, 2]])
    assert found['rotation_y'] == pytest.approx(-np.pi / 2)
    assert found['alpha'] == pytest.approx(-np.pi / 2 + np.arctan2(2, 11))
    # corners: x -3 and -1, y -0.3 and 1.2, depth 9 and 13
    expected = [600 - 2100 / 9, 180 - 210 / 9, 600 - 700 / 13, 180 + 840 / 9]
    np.testing.assert_allclose(found['bbox'], [expected])


def test_converts_and_drops_boxes_as_mmdet3d_does():
    mmdet3d_metrics = pytest.importorskip('mmdet3d.evaluation.metrics')
    rng = np.random.default_rng(0)
    count = 400
    boxes = rng.uniform((-5, -45, -4, 0.5, 0.5, 0.5, -7), (80, 45, 1, 5, 3, 3, 7), (count, 7))
    labels, scores = rng.integers(0, 3, count), rng.random(count)
    turn, _ = np.linalg.qr(np.eye(3) + 0.02 * rng.normal(size=(3, 3)))
    to_camera = np.eye(4)
    straight = np.array([[0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3]])
    to_camera[:3] = (turn * np.sign(np.diag(turn))) @ straight
    projection = np.eye(4)
    projection[:3] = [[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]]
    camera = {'lidar2cam': to_camera, 'cam2img': projection, 'height': 375, 'width': 1242}
    limit = [0, -40, -3, 70.4, 40, 0.0]
    predictions = sample('x', boxes, labels, scores)['pred_instances_3d']
    theirs = mmdet3d_metrics.KittiMetric.convert_valid_bboxes(
        SimpleNamespace(default_cam_key='CAM2', pcd_limit_range=limit),
        predictions, {'sample_idx': 0, 'images': {'CAM2': camera}},
    )  # fmt: skip
    frame = TruthFrame(to_camera[:3], projection[:3], IMAGE_HW, None)
    ours = camera_detections(
        LiDARPredictions(boxes, scores, labels), [CLASSES[k] for k in labels], frame, limit
    )
    assert 50 < len(theirs['scores']) < 350
    np.testing.assert_allclose(ours['score'], theirs['scores'], atol=1e-6)
    assert ours['name'].tolist() == [CLASSES[k] for k in theirs['label_preds']]
    camera_boxes = np.hstack([ours['location'], ours['dimensions'], ours['rotation_y'][:, None]])
    difference = camera_boxes - theirs['box3d_camera']
    difference[:, 6] = np.sin(difference[:, 6])
    np.testing.assert_allclose(difference, 0, atol=1e-4)
    low, high = theirs['bbox'][:, :2].clip(0), theirs['bbox'][:, 2:].clip(max=(1242, 375))
    np.testing.assert_allclose(ours['bbox'], np.hstack([low, high]), rtol=1e-3, atol=0.05)


def test_names_of_label_minus_one(folder, said):
    """Names outside mmdet3d's eight share label -1: DontCare is told by its missing size."""
    content = folder.content
    content['metainfo']['categories'] |= {'Bus': -1, 'DontCare': -1}
    stranger = dict(content['data_list'][0]['instances'][0], bbox_label=-1)
    dontcare = dict(stranger, bbox_3d=[-1000.0] * 3 + [-1.0] * 3 + [-10.0])
    content['data_list'][0]['instances'] += [stranger, dontcare]
    write_plain(content, folder.path / 'infos.pkl')
    frames = frames_of_infos(folder.path / 'infos.pkl', 'CAM2')
    assert frames['000000'].annotation['name'][-2:].tolist() == ['Bus', 'DontCare']
    evaluate(built(folder), perfect(folder))
    assert any("KITTI doesn't know (bus: 1)" in line for line in said)


def test_a_part_of_the_frames_is_evaluated_and_said(folder, said):
    figures = evaluate(built(folder), perfect(folder)[:10])
    assert figures['kitti/Car_num_gt_easy'] == 30
    assert any('10 of the 50 frames' in line for line in said)
    assert any('Car has 30 easy' in line for line in said)


def write_old(folder):
    write_plain(folder.content['data_list'], folder.path / 'infos.pkl')


def write_empty(folder):
    write_plain({**folder.content, 'data_list': []}, folder.path / 'infos.pkl')


def write_half(folder):
    path = folder.path / 'infos.pkl'
    path.write_bytes(path.read_bytes()[:1000])


def write_without(*keys):
    def write(folder):
        part = folder.content['data_list'][3]
        for key in keys[:-1]:
            part = part[key]
        del part[keys[-1]]
        write_plain(folder.content, folder.path / 'infos.pkl')

    return write


def write_unlabelled(folder):
    del folder.content['metainfo']['categories']
    write_plain(folder.content, folder.path / 'infos.pkl')


def write_stranger(folder):
    folder.content['data_list'][0]['instances'][0]['bbox_label'] = 11
    write_plain(folder.content, folder.path / 'infos.pkl')


def test_label_minus_one_without_a_name_as_the_converter_writes_it(folder, said):
    """Categories are the eight classes; DontCare areas have label -1 and no size."""
    whole = evaluate(built(folder), perfect(folder))
    content = folder.content
    content['metainfo']['categories'] = {
        name: label for name, label in content['metainfo']['categories'].items() if label >= 0
    }
    first = content['data_list'][0]['instances']
    dontcare = dict(first[0], bbox_label=-1, bbox_3d=[-1000.0] * 3 + [-1.0] * 3 + [-10.0])
    dontcare['bbox'] = [0.0, 0.0, 1.0, 1.0]
    first.append(dontcare)
    write_plain(content, folder.path / 'infos.pkl')
    said.clear()
    assert evaluate(built(folder), perfect(folder)) == pytest.approx(whole)
    assert not any('unknown' in line for line in said)
    first.append(dict(first[0], bbox_label=-1))
    write_plain(content, folder.path / 'infos.pkl')
    evaluate(built(folder), perfect(folder))
    assert any('unknown' in line for line in said)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (write_old, r'infos.pkl is an info file of mmdet3d 0.x.*create_data.py'),
        (write_empty, r'infos.pkl holds no frame.*ImageSets/val.txt'),
        (write_half, r'infos.pkl .*truncated'),
        (write_without('images', 'CAM2'), "infos.pkl, frame 3: no key 'CAM2'"),
        (write_without('instances', 2, 'alpha'), "infos.pkl, frame 3: no key 'alpha'"),
        (write_unlabelled, r"no metainfo\['categories'\]"),
        (write_stranger, 'label 11 is not in metainfo'),
        (lambda f: (f.path / 'infos.pkl').unlink(), 'infos.pkl: no such file'),
    ],
)
def test_damaged_info_files(folder, damage, message):
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        evaluate(built(folder), perfect(folder))
    assert '\n' not in str(caught.value)
    assert issubclass(InfoFileError, ValueError)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s[0].pop('lidar_path'), 'no lidar_path.*meta_keys of Pack3DDetInputs'),
        (lambda s: s[0].pop('pred_instances_3d'), 'frame 000000: the model gave no pred_instances'),
        (lambda s: s[0].update(lidar_path='a/000001.bin'), '1 of 50 predicted frames are not in'),
        (lambda s: s[0].update(lidar_path=s[1]['lidar_path']), 'frame 000007 was predicted 2 '),
        (
            lambda s: s[2]['pred_instances_3d'].update(labels_3d=torch.full((9,), 3)),
            'frame 000014: label 3, but the data set has the 3 classes Pedestrian, Cyclist, Car',
        ),
        (
            lambda s: s[2]['pred_instances_3d'].update(scores_3d=torch.zeros(4)),
            r'frame 000014: 9 boxes, scores \(4,\)',
        ),
        (
            lambda s: s[2]['pred_instances_3d'].update(
                bboxes_3d=structures.CameraInstance3DBoxes(torch.zeros(9, 7))
            ),
            'boxes are CameraInstance3DBoxes, this metric takes LiDARInstance3DBoxes',
        ),
    ],
)
def test_bad_predictions(folder, change, message):
    samples = perfect(folder)
    change(samples)
    with pytest.raises(ValueError, match=message):
        evaluate(built(folder), samples)


def test_detections_that_are_not_finite_are_left_out_aloud(folder, said):
    samples = perfect(folder)
    for frame in samples:
        found = frame['pred_instances_3d']
        found['scores_3d'][0] = math.nan
        found['bboxes_3d'].tensor[1, 3] = math.inf
    less = evaluate(built(folder), samples)
    assert any('frame 000014: left out 2 of 9 detections' in line for line in said)
    for frame in samples:
        found = frame['pred_instances_3d']
        found.update({name: values[2:] for name, values in found.items()})
    assert evaluate(built(folder), samples) == less
    assert less != evaluate(built(folder), perfect(folder))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({}, 'needs one of ann_file and label_dir'),
        ({'ann_file': 'a', 'label_dir': 'b'}, 'needs one of ann_file and label_dir'),
        ({'ann_file': 'a', 'format_only': True}, 'needs format_dir'),
        ({'ann_file': 'a', 'recall': [4]}, 'recall is a list of 40 and 11'),
        ({'ann_file': 'a', 'iou_sets': ['tight']}, 'iou_sets is a list of strict, loose'),
        ({'ann_file': 'a', 'pcd_limit_range': [0, 1]}, 'must be 6 numbers'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        KittiAPMetric(**settings)


def test_nothing_to_evaluate(folder):
    with pytest.raises(ValueError, match='nothing was predicted.*empty'):
        built(folder).evaluate(0)
    metric = built(folder)
    metric.dataset_meta = {}
    with pytest.raises(ValueError, match=r"no metainfo\['classes'\]"):
        evaluate(metric, perfect(folder))


def test_real_labels_found_perfectly(shared_dir):
    """Six real frames, two without image: labels -> LiDAR boxes -> back through calibration."""
    folder = shared_dir / 'data' / 'kitti' / 'training'
    metric = KittiAPMetric(label_dir=str(folder / 'label_2'), pcd_limit_range=[-99] * 3 + [99] * 3)
    metric.dataset_meta = {'classes': CLASSES}
    samples = []
    for path in sorted((folder / 'label_2').glob('*.txt')):
        objects = KittiObjects.from_file(path)
        objects = objects.select(np.isin(objects.names, CLASSES))
        boxes = objects.boxes_lidar(KittiCalib.from_file(folder / 'calib' / path.name))
        boxes[:, 2] -= boxes[:, 5] / 2
        labels = np.array([CLASSES.index(name) for name in objects.names], dtype=np.int64)
        samples.append(sample(path.stem, boxes, labels))
    figures = evaluate(metric, samples)
    count = figures['kitti/Car_num_gt_moderate']
    assert count >= 5
    for measure in ('2d', 'bev', '3d'):
        value = figures[f'kitti/Car_{measure}_ap40_moderate']
        assert value == pytest.approx(100 * (count - 1) / 40)
