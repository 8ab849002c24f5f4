"""What configs and data say about an experiment, found out before anything long starts.

Runs in a process of its own (``python -m mmjepa.benchmark.label_efficiency.examine REQUEST REPLY``)
since it imports torch, and mmdet3d through the downstream configs.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmjepa.datasets.info_files import read_infos
from mmjepa.datasets.mmdet3d_infos import fraction_count
from mmjepa.engine.config import ConfigError, OptionAction, check_config, load_config
from mmjepa.engine.errors import one_line_errors
from mmjepa.engine.finetune import LONGEST, check_info_files
from mmjepa.evaluation.functional.greedy_matching import COUNTED
from mmjepa.evaluation.functional.kitti_annotations import ground_truth_columns, truth_flags
from mmjepa.evaluation.functional.kitti_ap import DIFFICULTIES
from mmjepa.evaluation.metrics.kitti_ground_truth import frames_of_infos
from mmjepa.registry import DATASETS

from .choices import BY_ITERATION
from .preflight import INFOS

ENOUGH = 100  # objects of a class and difficulty, for a figure to mean something
SAMPLES = 41  # with fewer, R40 cannot reach 1


def examine(request: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the configs with their options, and the data.

    Args:
        request: ``data`` (the folder), ``fractions`` (a list), ``pretraining`` (arm -> ``config``
            and ``options``), ``finetuning`` (the same two); options are ``KEY=VALUE``.

    Returns:
        JSON-ready: ``pretraining`` (arm -> ``resolved`` config, ``data`` fingerprints,
        ``iterations``, ``frames``, ``batch_size``), ``finetuning`` (``resolved``, ``data``,
        ``frames`` and ``iterations`` of each fraction, ``train_frames``, ``val_frames``,
        ``batch_size``) and ``notes`` in words.

    Raises:
        ConfigError: a config lacks something, or the stages differ in their grid.
        FileNotFoundError, ValueError: data that is missing, damaged or too little.
    """
    data = Path(request['data'])
    notes: list[str] = []
    # those of pre-training first: they need no mmdet3d and tell of mistakes sooner
    configs = {
        arm: _load(asked, seed=0, max_iters=9) for arm, asked in request['pretraining'].items()
    }
    box, finetuning = _finetuning(request['finetuning'], data, request['fractions'])
    pretraining = {}
    for arm, config in configs.items():
        _compare_grids(arm, _grid(config.model.data_preprocessor), box)
        notes += _label_notes(arm, config)
        pretraining[arm] = _pretraining(config, data)
    notes += object_notes(data / INFOS[1], finetuning.pop('classes'), box['point_cloud_range'])
    return dict(pretraining=pretraining, finetuning=finetuning, notes=notes)


def _load(asked: Mapping[str, Any], **own: Any) -> Config:
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=OptionAction)
    options = parser.parse_args(['--options', *asked['options']]).options
    config = load_config(asked['config'], options)
    check_config(load_config(asked['config'], dict(options, **own)))
    return config


def _finetuning(
    asked: Mapping[str, Any], data: Path, fractions: Sequence[float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Grid, and what :func:`examine` returns of fine-tuning."""
    own = dict(seed=0, max_iters=9, val_interval=9, label_fraction=0.5, jepa_checkpoint=None)
    config = _load(asked, **own, **{BY_ITERATION: False})
    _check_metric(config, asked['config'])
    check_info_files(config)
    train = len(read_infos(data / INFOS[0])['data_list'])
    val = len(read_infos(data / INFOS[1])['data_list'])
    batch = config.train_dataloader.batch_size
    frames = [fraction_count(fraction, train) for fraction in fractions]
    voxels = config.model.data_preprocessor.voxel_layer
    found = dict(
        resolved=_portable(config, data),
        data=_fingerprints(data, INFOS),
        batch_size=batch,
        train_frames=train,
        val_frames=val,
        frames=frames,
        iterations=[
            config.train_cfg.get('max_iters')
            or round(config.train_cfg.max_epochs * min(1 / fraction, LONGEST))
            * max(1, count // batch)
            for fraction, count in zip(fractions, frames, strict=True)
        ],
        classes=list(config.val_dataloader.dataset.metainfo.classes),
    )
    return _grid(voxels), found


def _compare_grids(arm: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for key, value in theirs.items():
        if ours[key] != value:
            raise ConfigError(
                f'{key} is {ours[key]} in pre-training {arm} but {value} in fine-tuning: set it '
                f'for both with --grid {key}=...'
            )


def _label_notes(arm: str, config: Config) -> list[str]:
    """Where a pre-training sees more than the unlabelled train frames."""
    notes, split = [], config.train_dataloader.dataset.get('split', 'train')
    if split != 'train':
        notes.append(f'{arm} pre-trains on the split {split!r}, not on the train frames')
    if config.get('gt_sampling'):
        notes.append(f'{arm} pastes labelled objects in pre-training: it reads all train labels')
    return notes


def _pretraining(config: Config, data: Path) -> dict[str, Any]:
    """What :func:`examine` returns of one pre-training."""
    given = config.train_dataloader.dataset
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmjepa')):
        frames = len(DATASETS.build(given))
    batch = config.train_dataloader.batch_size
    epochs = config.train_cfg.get('max_epochs') or 0
    splits = data / 'ImageSets/train.txt'
    names = splits.read_text().split() if splits.is_file() else []
    first = [f'training/velodyne/{names[0]}.bin'] if names else []
    return dict(
        resolved=_portable(config, data),
        data=_fingerprints(data, [f'ImageSets/{splits.name}', *first] if names else []),
        batch_size=batch,
        frames=frames,
        iterations=config.train_cfg.get('max_iters') or epochs * max(1, frames // batch),
    )


def _grid(node: Mapping[str, Any]) -> dict[str, list[float]]:
    return {
        key: [round(float(v), 6) for v in node[key]] for key in ('point_cloud_range', 'voxel_size')
    }


def _check_metric(config: Config, path: str) -> None:
    given = config.val_evaluator
    metrics = given if isinstance(given, (list, tuple)) else [given]
    for metric in metrics:
        if (
            metric['type'].rpartition('.')[2] == 'KittiAPMetric'
            and 40 in metric.get('recall', (40, 11))
            and 'strict' in metric.get('iou_sets', ('strict', 'loose'))
        ):
            return
    raise ConfigError(
        f'{path}: val_evaluator is {", ".join(m["type"] for m in metrics)}; the table needs '
        "mmjepa.KittiAPMetric with 40 in recall and 'strict' in iou_sets"
    )


def _portable(config: Config, data: Path) -> Any:
    """The resolved config as plain JSON, wherever the data lies."""
    text = json.dumps(config._cfg_dict.to_dict(), default=str)
    return json.loads(text.replace(json.dumps(str(data))[1:-1], '<data>'))


def _fingerprints(data: Path, names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with (data / name).open('rb') as file:
            found[name] = hashlib.file_digest(file, 'sha256').hexdigest()
    return found


def object_notes(path: Path, classes: Sequence[str], box: Sequence[float]) -> list[str]:
    """Which figures of a validation set will mean little, by KITTI's rules on difficulty.

    Args:
        path: info file of the validation frames.
        classes: evaluated.
        box: range of the detector's grid, x y z, metres, LiDAR frame.

    Returns:
        A sentence for each class with too few objects, or with many outside the range.
    """
    frames = list(frames_of_infos(path, 'CAM2').values())
    annotations = [frame.annotation for frame in frames]
    if any(annotation is None for annotation in annotations):
        raise ValueError(f'{path}: frames without labels; a validation set has them')
    truth = ground_truth_columns([a for a in annotations if a is not None])
    places = [
        _lidar_xy(frame.lidar_to_camera, frame.annotation['location'])
        for frame in frames
        if frame.annotation is not None
    ]
    xy = np.concatenate(places) if places else np.zeros((0, 2))
    outside = ((xy < box[:2]) | (xy > box[3:5])).any(axis=1)
    notes = []
    for name in classes:
        flags = [truth_flags(truth, name.lower(), k) == COUNTED for k in range(len(DIFFICULTIES))]
        counts = [int(flag.sum()) for flag in flags]
        few = [f'{n} {d}' for n, d in zip(counts, DIFFICULTIES, strict=True) if n < ENOUGH]
        if few:
            cap = [n for n in counts if n < SAMPLES]
            limit = ''
            if cap:
                top = f'R40 cannot exceed {2.5 * (min(cap) - 1):.1f}' if min(cap) else 'AP is NaN'
                limit = f'; with {min(cap)} {top}'
            notes.append(f'{name}: only {", ".join(few)} objects in {path.name}, below 100{limit}')
        share = outside[flags[1]].mean() if counts[1] else 0.0
        if share > 0.02:
            notes.append(
                f'{name}: {100 * share:.0f} % of the moderate objects in {path.name} lie outside '
                f'the grid, so that AP cannot exceed about {100 * (1 - share):.0f}'
            )
    return notes


def _lidar_xy(lidar_to_camera: Any, location: Any) -> Any:
    """(N, 3) camera -> (N, 2) x, y in the LiDAR frame."""
    moved = np.asarray(location).reshape(-1, 3) - lidar_to_camera[:, 3]
    return np.linalg.solve(lidar_to_camera[:, :3], moved.T).T[:, :2]


def main(argv: Sequence[str]) -> None:
    """Read a request file, write the reply file."""
    request, reply = map(Path, argv)
    with one_line_errors():
        found = examine(json.loads(request.read_text(encoding='utf-8')))
    reply.write_text(json.dumps(found), encoding='utf-8')


if __name__ == '__main__':
    main(sys.argv[1:])
