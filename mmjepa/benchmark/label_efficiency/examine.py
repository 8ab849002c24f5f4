"""What configs and data say about an experiment, found out before anything long starts."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmjepa.datasets.info_files import read_infos
from mmjepa.datasets.mmdet3d_infos import fraction_count
from mmjepa.engine.config import ConfigError, OptionAction, check_config, load_config
from mmjepa.engine.finetune import LONGEST, check_info_files
from mmjepa.evaluation.functional.greedy_matching import COUNTED
from mmjepa.evaluation.functional.kitti_annotations import ground_truth_columns, truth_flags
from mmjepa.evaluation.functional.kitti_ap import DIFFICULTIES
from mmjepa.evaluation.metrics.kitti_ground_truth import frames_of_infos
from mmjepa.registry import DATASETS

from .choices import BY_ITERATION, FINETUNE, INFOS, PRETRAIN, Choices

ENOUGH = 100  # objects of a class and difficulty, for a figure to mean something
SAMPLES = 41  # with fewer, R40 cannot reach 1


@dataclass(frozen=True)
class Stage:
    """A pre-training, or fine-tuning at every fraction."""

    resolved: Any  # the config as plain JSON, wherever the data lies
    data: Mapping[str, str]  # SHA-256 of the files that decide which frames there are
    batch_size: int
    frames: Sequence[int]  # of training; one number, or one for each fraction
    iterations: Sequence[int]  # by the config's epochs, alike
    val_frames: int = 0


@dataclass(frozen=True)
class Found:
    """What configs and data say."""

    pretraining: Mapping[str, Stage]  # by arm
    finetuning: Stage
    notes: Sequence[str]  # what to know before trusting the figures


def examine(choices: Choices) -> Found:
    """Read the configs with their options, and the data.

    Raises:
        ConfigError: a config lacks something, or the stages differ in their grid.
        FileNotFoundError, ValueError: data that is missing, damaged or too little.
    """
    # those of pre-training first: they need no mmdet3d and tell of mistakes sooner
    configs = {
        arm.name: _load(arm.config, choices.options(PRETRAIN), seed=0, max_iters=9)
        for arm in choices.arms
        if arm.config is not None
    }
    own = dict(seed=0, max_iters=9, val_interval=9, label_fraction=0.5, jepa_checkpoint=None)
    config = _load(choices.config, choices.options(FINETUNE), **own, **{BY_ITERATION: False})
    _check_metric(config, choices.config)
    check_info_files(config)
    grid = _grid(config.model.data_preprocessor.voxel_layer)
    for arm, pretraining in configs.items():
        for key, value in _grid(pretraining.model.data_preprocessor).items():
            if grid[key] != value:
                raise ConfigError(
                    f'{key} is {value} in pre-training {arm} but {grid[key]} in fine-tuning: set '
                    f'it for both with --grid {key}=...'
                )
    data, classes = choices.data, config.val_dataloader.dataset.metainfo.classes
    finetuning = _finetuning(config, data, choices.fractions)
    notes = object_notes(data / INFOS[1], classes, grid['point_cloud_range'])
    notes += _arm_notes(choices, configs)
    stages = {arm: _pretraining(pretraining, data) for arm, pretraining in configs.items()}
    return Found(stages, finetuning, notes)


def _load(path: Path, pairs: Sequence[str], **own: Any) -> Config:
    """The config with options; those that the plan sets itself (``own``) must fit, too."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=OptionAction)
    options = parser.parse_args(['--options', *pairs]).options
    check_config(load_config(path, dict(options, **own)))
    return load_config(path, options)


def _finetuning(config: Config, data: Path, fractions: Sequence[float]) -> Stage:
    train, val = (len(read_infos(data / name)['data_list']) for name in INFOS[:2])
    frames = [fraction_count(fraction, train) for fraction in fractions]
    stage = _stage(config, data, INFOS, frames, [min(1 / f, LONGEST) for f in fractions])
    return replace(stage, val_frames=val)


def _pretraining(config: Config, data: Path) -> Stage:
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmjepa')):
        frames = len(DATASETS.build(config.train_dataloader.dataset))
    split = data / 'ImageSets/train.txt'
    if not split.is_file():
        raise FileNotFoundError(
            f'{split} is missing: pre-training would read the validation sweeps, too. Write it, a '
            'frame a line'
        )
    names = split.read_text(encoding='utf-8').split()
    infos = read_infos(data / INFOS[1])['data_list']
    seen = set(names) & {Path(info['lidar_points']['lidar_path']).stem for info in infos}
    if seen:
        raise ValueError(
            f'{split} names {len(seen)} frames of {INFOS[1]}, such as {min(seen)}: nothing is '
            'pre-trained on validation sweeps. Make lists and info files anew'
        )
    files = ['ImageSets/train.txt', f'training/velodyne/{names[0]}.bin']
    return _stage(config, data, files, [frames], [1.0])


def _stage(
    config: Config, data: Path, files: Sequence[str], frames: Sequence[int], times: Sequence[float]
) -> Stage:
    """``times``: by what the config's epochs are multiplied."""
    resolved = json.dumps(config._cfg_dict.to_dict(), default=str)
    schedule, batch = config.train_cfg, config.train_dataloader.batch_size
    iterations = [
        schedule.get('max_iters') or round(schedule.max_epochs * factor) * max(1, count // batch)
        for count, factor in zip(frames, times, strict=True)
    ]
    return Stage(
        resolved=json.loads(resolved.replace(json.dumps(str(data))[1:-1], '<data>')),
        data={name: fingerprint_of(data / name) for name in files},
        batch_size=batch,
        frames=frames,
        iterations=iterations,
    )


def fingerprint_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _grid(node: Mapping[str, Any]) -> dict[str, list[float]]:
    keys = 'point_cloud_range', 'voxel_size'
    return {key: [round(float(v), 6) for v in node[key]] for key in keys}


def _check_metric(config: Config, path: Path) -> None:
    given = config.val_evaluator
    metrics = given if isinstance(given, (list, tuple)) else [given]
    if not any(
        metric['type'].rpartition('.')[2] == 'KittiAPMetric'
        and 40 in metric.get('recall', (40, 11))
        and 'strict' in metric.get('iou_sets', ('strict', 'loose'))
        for metric in metrics
    ):
        raise ConfigError(
            f'{path}: val_evaluator is {", ".join(m["type"] for m in metrics)}; the table needs '
            "mmjepa.KittiAPMetric with 40 in recall and 'strict' in iou_sets"
        )


def _arm_notes(choices: Choices, configs: Mapping[str, Config]) -> Iterator[str]:
    """Where a pre-training sees more than the train sweeps, and what the spread leaves out."""
    for arm, config in configs.items():
        split = config.train_dataloader.dataset.get('split', 'train')
        if split != 'train':
            yield f'{arm} pre-trains on the split {split!r}, not on the train frames'
        if config.get('gt_sampling'):
            yield f'{arm} pastes labelled objects in pre-training: it reads all train labels'
    if len(choices.seeds) < 2:
        yield 'one seed: no spread, so that no difference can be told from chance'
        return
    for other in choices.arms:
        if other.checkpoint is not None and '{seed}' not in other.checkpoint:
            yield f'{other.name}: one checkpoint for all seeds, pre-training adds no spread'


def object_notes(path: Path, classes: Sequence[str], box: Sequence[float]) -> list[str]:
    """Which classes have too few objects in a validation set, or many outside the grid.

    KITTI's rules on difficulty decide; ``box`` is the grid's range, x y z, metres, LiDAR frame.
    """
    frames = list(frames_of_infos(path, 'CAM2').values())
    annotations = [frame.annotation for frame in frames if frame.annotation is not None]
    if len(annotations) < len(frames):
        raise ValueError(f'{path}: frames without labels; a validation set has them')
    truth, places = ground_truth_columns(annotations), [np.zeros((0, 2))]
    for frame, annotation in zip(frames, annotations, strict=True):
        moved = np.asarray(annotation['location']).reshape(-1, 3) - frame.lidar_to_camera[:, 3]
        places.append(np.linalg.solve(frame.lidar_to_camera[:, :3], moved.T).T[:, :2])
    xy = np.concatenate(places)
    outside = ((xy < box[:2]) | (xy > box[3:5])).any(axis=1)
    notes = []
    for name in classes:
        flags = [truth_flags(truth, name.lower(), k) == COUNTED for k in range(len(DIFFICULTIES))]
        counts = [int(flag.sum()) for flag in flags]
        least = min(counts)
        if least < ENOUGH:
            few = [f'{n} {d}' for n, d in zip(counts, DIFFICULTIES, strict=True) if n < ENOUGH]
            note = f'{name}: only {", ".join(few)} objects in {path.name}, below {ENOUGH}'
            top = f'R40 cannot exceed {2.5 * (least - 1):.1f}' if least else 'AP is NaN'
            notes.append(note + (f'; with {least} {top}' if least < SAMPLES else ''))
        share = outside[flags[1]].mean() if counts[1] else 0.0
        if share > 0.02:
            notes.append(
                f'{name}: {100 * share:.0f} % of the moderate objects in {path.name} lie outside '
                f'the grid, so that AP cannot exceed about {100 * (1 - share):.0f}'
            )
    return notes
