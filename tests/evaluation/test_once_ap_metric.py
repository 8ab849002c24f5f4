"""ONCEAPMetric on made-up predictions of mmdet3d's kind."""

import math

import numpy as np
import pytest
from ap_samples import evaluate, instance_boxes, lidar_boxes, sample
from mmengine.registry import METRICS, DefaultScope

from mmjepa.evaluation import ONCEAPMetric

pytest.importorskip('mmdet3d.structures')

CLASSES = ['Car', 'Bus', 'Truck', 'Pedestrian', 'Cyclist']


def labelled(name, boxes, labels, found=None, **extra):
    truth = {
        'gt_bboxes_3d': instance_boxes(boxes),
        'gt_labels_3d': np.array(labels),
    }
    return sample(name, *(found or (boxes, labels)), **{'eval_ann_info': truth, **extra})


def boxes_around(seed):
    boxes, _ = lidar_boxes(seed, 5)
    boxes[:, 0] *= -1  # anywhere around the car
    return boxes, np.arange(5)


def built(**settings):
    with DefaultScope.overwrite_default_scope('mmdet3d'):
        metric = METRICS.build(dict(type='mmjepa.ONCEAPMetric', **settings))
    assert isinstance(metric, ONCEAPMetric)
    metric.dataset_meta = {'classes': CLASSES}
    return metric


def test_perfect_turned_and_of_another_height():
    frames = [boxes_around(seed) for seed in range(4)]
    samples = [labelled(f'{i}', *boxes) for i, boxes in enumerate(frames)]
    figures = evaluate(built(), samples)
    assert figures['once/Vehicle_num_gt_overall'] == 12
    assert figures['once/mean_ap_overall'] == pytest.approx(100)
    turned = [
        labelled(f'{i}', b, lab, (b + [0, 0, 0, 0, 0, 0, math.pi], lab))
        for i, (b, lab) in enumerate(frames)
    ]
    assert evaluate(built(prefix='x'), turned)['x/mean_ap_overall'] == 0
    merged = [labelled(f'{i}', b, lab, (b, np.array([2, 0, 1, 3, 4])))
              for i, (b, lab) in enumerate(frames)]  # fmt: skip
    assert evaluate(built(), merged)['once/mean_ap_overall'] == pytest.approx(100)


def test_labels_below_zero_take_no_part():
    boxes, labels = boxes_around(0)
    labels = np.array([0, -1, 2, 3, 4])
    keep = labels >= 0
    found = boxes[keep], labels[keep]
    figures = evaluate(built(), [labelled('a', boxes, labels, found)])
    assert figures['once/Vehicle_num_gt_overall'] == 2
    assert figures['once/mean_ap_overall'] == pytest.approx(100)


def test_boxes_stand_on_their_z():
    """Both sides are lifted to the middle: 3D distance decides the range, 30.02 m here."""
    box = np.array([[29.9, 0, 2.2, 4.0, 2.0, 1.0, 0.0]])  # centre at z = 2.7
    figures = evaluate(built(), [labelled('a', box, [0])])
    assert figures['once/Vehicle_num_gt_30_50m'] == 1


@pytest.mark.parametrize(
    ('sample_of', 'classes', 'message'),
    [
        (lambda b, lab: sample('a', b, lab), CLASSES, 'a.bin: no ground truth in'),
        (
            lambda b, lab: labelled('a', b, lab, eval_ann_info=None),
            CLASSES,
            'test_mode=True, load_eval_anns=True',
        ),
        (lambda b, lab: labelled('a', b, lab), ['Car', 'Bus'], 'the data set has the 2 classes'),
        (lambda b, lab: labelled('a', b, lab), list('abcde'), 'none of the classes a, b, c'),
    ],
)
def test_bad_input(sample_of, classes, message):
    metric = built()
    metric.dataset_meta = {'classes': classes}
    with pytest.raises(ValueError, match=message):
        evaluate(metric, [sample_of(*boxes_around(0))])
    with pytest.raises(ValueError, match='nothing was predicted'):
        built().evaluate(0)
