"""KITTI AP by the loops of its development kit, object by object: a second opinion for tests."""

import math
import time

import numpy as np
import torch

from mmjepa.evaluation.functional import paired_overlaps_3d
from mmjepa.evaluation.functional.rotated_iou import camera_boxes_upright, paired_image_overlaps


def loop_overlaps(truth, found):
    """Of one frame, (D, G) each: overlap in 2D, bird's eye view, 3D; share of each detection."""
    i, j = np.meshgrid(*(np.arange(len(f['name'])) for f in (found, truth)), indexing='ij')
    i, j = i.ravel(), j.ravel()
    image = [torch.from_numpy(f['bbox'])[k] for f, k in ((found, i), (truth, j))]
    keys = ('location', 'dimensions', 'rotation_y')
    boxes = [
        camera_boxes_upright(*(torch.from_numpy(f[key]) for key in keys))[k]
        for f, k in ((found, i), (truth, j))
    ]
    flat = [box.clone() for box in boxes]
    for box in flat:  # all at one height: volumes are areas
        box[:, 2], box[:, 5] = 0, 1
    shape = (len(found['name']), len(truth['name']))
    values = [paired_image_overlaps(*image), paired_overlaps_3d(*flat), paired_overlaps_3d(*boxes)]
    values.append(paired_image_overlaps(*image, 'first'))
    return [value.numpy().reshape(shape) for value in values]


def choose(overlap, flags, score, taken, minimum, least):
    """Detection for one ground truth, overlaps (D,): -1 for none; least=None: first pass."""
    best, best_value, best_ignored = -1, 0.0, False
    for d in range(len(score)):
        if flags[d] == -1 or taken[d] or overlap[d] <= minimum:
            continue
        if least is None:
            if best < 0 or score[d] > best_value:
                best, best_value = d, score[d]
        elif score[d] < least:
            continue
        elif flags[d] == 0:
            if best < 0 or best_ignored or overlap[d] > best_value:
                best, best_value, best_ignored = d, overlap[d], False
        elif best < 0:
            best, best_ignored = d, True
    return best


def one_frame(prepared, minimum, least):
    """(right, wrong, similarity, scores of the right ones)."""
    overlap, share, t_flag, d_flag, score, t_alpha, d_alpha = prepared
    taken = [False] * len(score)
    scores, similarity = [], 0.0
    for g, flag in enumerate(t_flag):
        if flag == -1:
            continue
        best = choose(overlap[:, g], d_flag, score, taken, minimum, least)
        if best < 0:
            continue
        taken[best] = True
        if flag == 0 and d_flag[best] == 0:
            scores.append(score[best])
            similarity += (1 + math.cos(t_alpha[g] - d_alpha[best])) / 2
    wrong = 0
    for d in range(len(score)):
        stray = not taken[d] and d_flag[d] == 0 and (least is None or score[d] >= least)
        wrong += stray and not (share[d] > minimum).any()
    return len(scores), wrong, similarity, scores


def flags_of(truth, found, name, level):
    """Flags of a frame's ground truths and detections: 0 counts, 1 ignored, -1 other."""
    truncation, lowest = (0.15, 0.3, 0.5)[level], (40, 25, 25)[level]
    neighbour = {'Car': 'Van', 'Pedestrian': 'Person_sitting'}.get(name)
    t_flag, d_flag = [], []
    for k, other in enumerate(truth['name']):
        hard = truth['occluded'][k] > level or truth['truncated'][k] > truncation
        hard = hard or truth['bbox'][k, 3] - truth['bbox'][k, 1] <= lowest
        same = other == name
        t_flag.append(int(hard) if same else (1 if other == neighbour else -1))
    for k, other in enumerate(found['name']):
        low = abs(found['bbox'][k, 3] - found['bbox'][k, 1]) < lowest
        d_flag.append(1 if low else (0 if other == name else -1))
    return t_flag, d_flag


def loop_ap(truths, found, name, measure, level, minimum):
    """AP40 and AOS40 of a class at a difficulty, in percent."""
    kind = ('2d', 'bev', '3d').index(measure)
    prepared, counted = [], 0
    for truth, detections in zip(truths, found, strict=True):
        t_flag, d_flag = flags_of(truth, detections, name, level)
        counted += t_flag.count(0)
        overlaps = loop_overlaps(truth, detections)
        regions = (truth['name'] == 'DontCare') & (kind == 0)
        angles = truth['alpha'], detections['alpha']
        prepared.append(
            (overlaps[kind], overlaps[3][:, regions], t_flag, d_flag, detections['score'], *angles)
        )
    scores = sorted((s for p in prepared for s in one_frame(p, minimum, None)[3]), reverse=True)
    curve, wanted = [], 0.0
    for k, score in enumerate(scores):
        left = (k + 1) / counted
        if k + 1 < len(scores) and (k + 2) / counted - wanted < wanted - left:
            continue
        wanted += 1 / 40
        results = [one_frame(p, minimum, score) for p in prepared]
        right, wrong, similarity = (sum(r[c] for r in results) for c in range(3))
        total = right + wrong
        curve.append((right / total, similarity / total) if total else (0.0, 0.0))
    curve += [(0.0, 0.0)] * (41 - len(curve))
    best = [tuple(max(c[m] for c in curve[k:]) for m in (0, 1)) for k in range(41)]
    return tuple(100 * sum(b[m] for b in best[1:]) / 40 for m in (0, 1))


def seconds_on_one_core(function, *arguments):
    """CPU time of a call with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.process_time()
        function(*arguments)
        return time.process_time() - start
    finally:
        torch.set_num_threads(threads)
