"""Random KITTI annotations for tests of the AP; a script, too: mmdet3d's figures beside ours."""

import json
import sys

import numpy as np

SIZES = {  # length, height, width
    'Car': (3.9, 1.56, 1.6),
    'Pedestrian': (0.8, 1.73, 0.6),
    'Cyclist': (1.76, 1.73, 0.6),
    'Van': (5.0, 2.0, 1.9),
    'Person_sitting': (0.8, 1.3, 0.6),
    'DontCare': (1.0, 1.0, 1.0),
    'Truck': (8.0, 3.0, 2.5),
}
CLASSES = ('Car', 'Pedestrian', 'Cyclist')
_SHARES = (0.35, 0.2, 0.2, 0.08, 0.05, 0.07, 0.05)


def annotation(rng, names, location, rotation_y):
    """A frame's objects; image boxes follow from place and size."""
    count = len(names)
    sizes = np.array([SIZES[name] for name in names]).reshape(-1, 3)
    sizes = sizes * rng.uniform(0.93, 1.07, (count, 3))
    x, bottom, depth = location.T
    u, half = 700 * x / depth + 600, 350 * sizes[:, 0] / depth
    top, low = (700 * y / depth + 180 for y in (bottom - sizes[:, 1], bottom))
    return {
        'name': np.array(names, dtype=np.str_),
        'alpha': rotation_y - np.arctan2(x, depth),
        'bbox': np.stack([u - half, top, u + half, low], axis=1),
        'dimensions': sizes,
        'location': location,
        'rotation_y': rotation_y,
    }


def ground_truth(rng, count):
    names = rng.choice(list(SIZES), count, p=_SHARES)
    location = rng.uniform((-20, 1, 5), (20, 2, 50), (count, 3))
    frame = annotation(rng, names, location, rng.uniform(-3.1, 3.1, count))
    frame['truncated'] = rng.choice([0.0, 0.0, 0.0, 0.2, 0.4, 0.6], count)
    frame['occluded'] = rng.choice([0, 0, 1, 2, 3], count)
    frame['score'] = np.zeros(count)
    return frame


def detections(rng, truth, count):
    """Ground truths, displaced and sometimes misnamed."""
    source = rng.integers(0, len(truth['name']), count)
    names = [str(n) if rng.random() < 0.8 else str(rng.choice(CLASSES)) for n in truth['name']]
    names = [names[i] if names[i] in CLASSES else 'Car' for i in source]
    location = truth['location'][source] + rng.normal(0, 0.12, (count, 3)) * (1, 0.2, 1)
    frame = annotation(
        rng, names, location, truth['rotation_y'][source] + rng.normal(0, 0.1, count)
    )
    frame['score'] = rng.random(count)
    return frame


def frames(seed, count, num_truths=(2, 8), num_detections=12):
    """(ground truth, detections) of ``count`` frames."""
    rng = np.random.default_rng(seed)
    truths = [ground_truth(rng, int(rng.integers(*num_truths))) for _ in range(count)]
    return truths, [detections(rng, truth, num_detections) for truth in truths]


def without_close_calls(truths, found, margin=1e-5):
    """Detections whose IoU with no ground truth is within ``margin`` of a threshold."""
    import torch

    from mmjepa.evaluation.functional import overlaps_3d, rotated_overlaps
    from mmjepa.evaluation.functional.rotated_iou import camera_boxes_upright

    def upright(frame):
        keys = ('location', 'dimensions', 'rotation_y')
        return camera_boxes_upright(*(torch.from_numpy(frame[key]) for key in keys))

    kept = []
    for truth, frame in zip(truths, found, strict=True):
        a, b = upright(frame), upright(truth)
        plane = [0, 1, 3, 4, 6]
        iou = torch.cat([overlaps_3d(a, b), rotated_overlaps(a[:, plane], b[:, plane])], dim=1)
        close = torch.stack([(iou - t).abs() < margin for t in (0.25, 0.5, 0.7)]).any(0).any(1)
        kept.append({key: value[~close.numpy()] for key, value in frame.items()})
    return kept


if __name__ == '__main__':
    # numba's simulator must be asked for before mmdet3d is imported, so this is its own process
    from mmdet3d.evaluation.functional.kitti_utils.eval import kitti_eval

    gts, dts = frames(int(sys.argv[1]), int(sys.argv[2]))
    dts = without_close_calls(gts, dts)
    text, figures = kitti_eval(gts, dts, list(CLASSES))
    print('RESULT', json.dumps({'text': text, 'figures': figures}))
