"""Made-up predictions in the form that mmdet3d's detectors give them to an evaluator."""

import numpy as np
import torch

CLASSES = ['Pedestrian', 'Cyclist', 'Car']
# as they stand on the road of a LiDAR 1.7 m up; dx, dy, dz
SIZES = {'Pedestrian': (0.6, 0.6, 1.8), 'Cyclist': (1.8, 0.6, 1.7), 'Car': (4.0, 1.6, 1.5)}


def instance_boxes(boxes):
    """mmdet3d's boxes from (N, 7)."""
    from mmdet3d.structures import LiDARInstance3DBoxes

    return LiDARInstance3DBoxes(torch.tensor(boxes, dtype=torch.float32))


def lidar_boxes(seed, count=9):
    """(N, 7) bottom centre and (N,) labels; in view, apart from each other, 40 px and higher."""
    rng = np.random.default_rng(seed)
    spots = [(x, y) for x in (9.0, 14.0, 20.0) for y in (-4.0, 0.0, 4.0)][:count]
    labels = np.arange(len(spots)) % 3
    boxes = [
        (x + rng.uniform(-1, 1), y, -1.7, *SIZES[CLASSES[label]], rng.uniform(-3, 3))
        for (x, y), label in zip(spots, labels, strict=True)
    ]
    return np.array(boxes).reshape(-1, 7), labels


def sample(name, boxes, labels, scores=None, **extra):
    """A data sample as an evaluator hands it over."""
    scores = np.linspace(0.9, 0.5, len(boxes)) if scores is None else scores
    predictions = {
        'bboxes_3d': instance_boxes(boxes),
        'scores_3d': torch.tensor(scores, dtype=torch.float32),
        'labels_3d': torch.tensor(labels),
    }
    return {'pred_instances_3d': predictions, 'lidar_path': f'some/where/{name}.bin', **extra}


def evaluate(metric, samples):
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(len(samples))
