"""Probe the BEV cells of a frozen LiDAR encoder for object classes.

What the method's paper does on 3D features, with its script's faults repaired: cells are labelled
by the points they hold (see :mod:`.bev_cells`), sweeps are read without augmentation, every sample
of a batch counts, and training and validation frames are disjoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from numpy.typing import NDArray
from torch import Tensor

from mmjepa.evaluation.progress import Progress, silent

from .arms import calibrate_batchnorm, cell_features, grid_of, map_shape
from .bev_cells import INTENSITY_STATISTICS, STATISTICS, BEVGrid, CellRule, label_cells
from .kitti_frames import KittiFrame, assert_disjoint, kitti_frames, read_annotation
from .protocols import PROTOCOLS, ProtocolResult, ProtocolSettings, Samples, run_protocol
from .report import Results, compare, summarise
from .sampling import CellTable, balanced_rows

# untrained: random weights, BatchNorm calibrated on pre-training sweeps
# handmade: count, heights, intensity of a cell's points
# checkpoint: the pre-trained encoder as it is
# checkpoint_calibrated: the same, BatchNorm calibrated as the untrained encoder's
ARMS = ('untrained', 'handmade', 'checkpoint', 'checkpoint_calibrated')


@dataclass(frozen=True)
class BEVProbeSettings:
    """What is compared, and how.

    Attributes:
        protocols: Of 'knn', 'linear'.
        arms: Of ``ARMS``; those that need a checkpoint are left out without one.
        seeds: Each draws its own untrained weights and, where a class has more than enough, its own
            cells.
        rule: How cells get classes.
        train_per_class, val_per_class: Most random cells of a class.
        train_split, val_split: Names in ``ImageSets``.
        max_train_frames, max_val_frames: Evenly spread over the split; None takes all.
        calibration_frames: Most pre-training sweeps that BatchNorm is calibrated on.
        batch_size: Sweeps at a time.
        equal_classes: Take as many training cells of every class as the rarest one has (or
            ``train_per_class``, if that is less). Otherwise a class with few cells loses kNN votes.
        standardise: Standardise channels before kNN in every arm; hand-made statistics, whose
            units differ, always are.
        protocol: Numbers of the protocols.

    Raises:
        ValueError: On an unknown protocol or arm, no seed, or a repeated one.
    """

    protocols: tuple[str, ...] = ('knn',)
    arms: tuple[str, ...] = ('untrained', 'handmade', 'checkpoint')
    seeds: tuple[int, ...] = (0,)
    rule: CellRule = field(default_factory=CellRule)
    train_per_class: int = 10_000
    val_per_class: int = 10_000
    train_split: str = 'train'
    val_split: str = 'val'
    max_train_frames: int | None = None
    max_val_frames: int | None = None
    calibration_frames: int = 200
    batch_size: int = 2
    equal_classes: bool = True
    standardise: bool = False
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)

    def __post_init__(self) -> None:
        for name, known in (('protocols', PROTOCOLS), ('arms', ARMS)):
            given = getattr(self, name)
            unknown = [v for v in given if v not in known]
            if unknown or not given:
                raise ValueError(f'{name} must be among {", ".join(known)}, got {given}')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f'seeds must be one or more different numbers, got {self.seeds}')


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's global seed inside, the old state after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def label_frames(
    model: Any,
    frames: Sequence[KittiFrame],
    grid: BEVGrid,
    rule: CellRule,
    progress: Progress = silent,
    what: str = 'label cells',
) -> CellTable:
    """Label the cells of frames, on the points that the model is given.

    Args:
        model: From ``init_model``; its config says how sweeps are loaded.
        frames: Labelled frames.
        grid: Of the model's feature map.
        rule: How cells get classes.
        progress: Called with (what, done, total).
        what: Shown as progress.

    Returns:
        :class:`CellTable`.
    """
    from mmjepa.apis.inference import sweep_pipeline

    pipeline = sweep_pipeline(model)
    cells = []
    for i, frame in enumerate(frames):
        points = pipeline(frame.points)['inputs']['points'].numpy()
        known = read_annotation(frame, points)
        cells.append(label_cells(points, known.boxes, known.types, grid, rule, known.unlabelled))
        progress(what, i + 1, len(frames))
    return CellTable.from_frames(cells)


def _check_counts(table: CellTable, rule: CellRule, split: str) -> dict[str, int]:
    counts = dict(zip(rule.names, table.counts(len(rule.names)), strict=True))
    absent = [name for name, n in counts.items() if n == 0]
    if absent:
        raise ValueError(
            f'split {split!r} has no cell of {", ".join(absent)} (cells: {counts}); use more '
            'frames or other classes'
        )
    return counts


def pretraining_sweeps(cfg: Mapping[str, Any]) -> list[str]:
    """Files that the config's training data set reads."""
    from mmjepa.apis.sweeps import dataset_config
    from mmjepa.registry import DATASETS

    dataset = DATASETS.build(dict(dataset_config(cfg)))
    return [dataset.get_path(i) for i in range(len(dataset))]


def _spread(items: Sequence[str], count: int) -> list[str]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


class _Probe:
    """State that the arms share."""

    def __init__(
        self,
        cfg: Config,
        checkpoint: str | Path | None,
        settings: BEVProbeSettings,
        device: str | torch.device,
        data_root: str | Path,
        progress: Progress,
    ) -> None:
        self.cfg, self.checkpoint, self.settings = cfg, checkpoint, settings
        self.device, self.progress = device, progress
        self.frames = {
            'train': kitti_frames(data_root, settings.train_split, settings.max_train_frames),
            'val': kitti_frames(data_root, settings.val_split, settings.max_val_frames),
        }
        ids = {k: [f.frame_id for f in v] for k, v in self.frames.items()}
        assert_disjoint(
            ids['train'], ids['val'], f'splits {settings.train_split!r} and {settings.val_split!r}'
        )
        # built first: a bad checkpoint must show before minutes of labelling
        self._models: dict[tuple[str, str | None], Any] = {}
        for seed in settings.seeds:
            self._frozen_model('checkpoint', seed)
        self.model = self._frozen_model('checkpoint', settings.seeds[0])
        self.grid = grid_of(self.model, map_shape(self.model, self.frames['train'][0].points))
        self.tables = {
            part: label_frames(
                self.model, frames, self.grid, settings.rule, progress, f'label {part} cells'
            )
            for part, frames in self.frames.items()
        }
        self.counts = {
            'train': _check_counts(self.tables['train'], settings.rule, settings.train_split),
            'val': _check_counts(self.tables['val'], settings.rule, settings.val_split),
        }
        self.sweeps = pretraining_sweeps(cfg)
        self.rows = {seed: self._choose(seed) for seed in settings.seeds}
        self._kept: dict[tuple[str, str, str | None], tuple[NDArray[np.int64], Tensor]] = {}

    def _checkpoint(self, seed: int) -> str | None:
        return (
            None if self.checkpoint is None else str(self.checkpoint).replace('{seed}', str(seed))
        )

    def _build(self, checkpoint: str | Path | None, seed: int) -> Any:
        from mmjepa.apis.inference import init_model

        with _seeded(seed):
            return init_model(self.cfg, checkpoint, self.device)

    def _choose(self, seed: int) -> dict[str, NDArray[np.int64]]:
        s, n = self.settings, len(self.settings.rule.names)
        most = s.train_per_class
        if s.equal_classes:
            most = min(most, *self.counts['train'].values())
        return {
            'train': balanced_rows(self.tables['train'].label, n, most, seed),
            'val': balanced_rows(self.tables['val'].label, n, s.val_per_class, seed),
        }

    def seen_val_frames(self) -> int:
        """How many validation sweeps pre-training read."""
        seen = {str(Path(p).resolve()) for p in self.sweeps}
        return sum(str(f.points.resolve()) in seen for f in self.frames['val'])

    def _extract(self, model: Any, part: str, rows: NDArray[np.int64], what: str) -> Tensor:
        paths = [f.points for f in self.frames[part]]
        size = self.settings.batch_size
        label = f'{what}: {part} features'
        return cell_features(model, paths, self.tables[part], rows, size, self.progress, label)

    def _calibrate(self, model: Any, what: str) -> None:
        sweeps = _spread(self.sweeps, self.settings.calibration_frames)
        label = f'{what}: calibrate BatchNorm'
        calibrate_batchnorm(model, sweeps, self.settings.batch_size, self.progress, label)

    def _frozen_model(self, arm: str, seed: int) -> Any:
        key = arm, self._checkpoint(seed)
        if key not in self._models:
            self._models[key] = self._build(key[1], seed)
            if arm == 'checkpoint_calibrated':
                self._calibrate(self._models[key], arm)
        return self._models[key]

    def _frozen(self, arm: str, part: str, seed: int) -> Tensor:
        """Features of a checkpoint; extracted once for the cells of all seeds that use it."""
        key = arm, part, self._checkpoint(seed)
        if key not in self._kept:
            seeds = [s for s in self.settings.seeds if self._checkpoint(s) == key[2]]
            rows = np.unique(np.concatenate([self.rows[s][part] for s in seeds]))
            what = arm if len(seeds) > 1 else f'{arm} (seed {seed})'
            self._kept[key] = rows, self._extract(self._frozen_model(arm, seed), part, rows, what)
        rows, feats = self._kept[key]
        return feats[torch.from_numpy(np.searchsorted(rows, self.rows[seed][part]))]

    def samples(self, arm: str, seed: int) -> tuple[Samples, Samples]:
        """Training and validation samples of an arm."""
        feats: dict[str, Tensor] = {}
        if arm == 'untrained':
            model = self._build(None, seed)
            self._calibrate(model, f'untrained (seed {seed})')
        for part in ('train', 'val'):
            rows = self.rows[seed][part]
            if arm == 'handmade':
                feats[part] = torch.from_numpy(self.tables[part].statistics[rows])
            elif arm == 'untrained':
                feats[part] = self._extract(model, part, rows, f'untrained (seed {seed})')
            else:
                feats[part] = self._frozen(arm, part, seed)
        train, val = (
            Samples(
                feats[part],
                torch.from_numpy(self.tables[part].label[self.rows[seed][part]]),
                torch.from_numpy(self.tables[part].frame[self.rows[seed][part]]),
            ).to(self.device)
            for part in ('train', 'val')
        )
        return train, val

    def run(self, arms: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Protocol -> arm -> summary over seeds."""
        s = self.settings
        table: dict[str, dict[str, list[tuple[int, ProtocolResult]]]] = {
            p: {a: [] for a in arms} for p in s.protocols
        }
        for arm in arms:
            for i, seed in enumerate(s.seeds):
                train, val = self.samples(arm, seed)
                for protocol in s.protocols:
                    standardise = s.standardise or arm == 'handmade'
                    result = run_protocol(
                        protocol, train, val, len(s.rule.names), s.protocol, standardise, seed
                    )
                    table[protocol][arm].append((seed, result))
                self.progress(f'{arm}: {", ".join(s.protocols)}', i + 1, len(s.seeds))
        return {p: {a: summarise(r) for a, r in by_arm.items()} for p, by_arm in table.items()}


def _describe(probe: _Probe, arms: Sequence[str], data_root: str | Path) -> Results:
    s = probe.settings
    seen = probe.seen_val_frames()
    if seen:
        print_log(
            f'{seen} of {len(probe.frames["val"])} validation sweeps were also read in '
            'pre-training; the checkpoint arm has an advantage that the untrained one lacks',
            'current',
            level=30,
        )
    statistics: tuple[str, ...] = STATISTICS
    if probe.tables['train'].statistics.shape[1] > len(STATISTICS):
        statistics = (*STATISTICS, *INTENSITY_STATISTICS)
    return {
        'checkpoint': None if probe.checkpoint is None else str(probe.checkpoint),
        'config': probe.cfg.filename,
        'data_root': str(data_root),
        'classes': list(s.rule.names),
        'seeds': list(s.seeds),
        'arms': list(arms),
        'grid': asdict(probe.grid),
        'frames': {k: len(v) for k, v in probe.frames.items()},
        'cells': probe.counts,
        'ignored_cells': {k: t.ignored for k, t in probe.tables.items()},
        'calibration_frames': min(len(probe.sweeps), s.calibration_frames),
        'val_frames_in_pretraining': seen,
        'handmade_statistics': list(statistics),
        'settings': asdict(s),
    }


def probe_bev_cells(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    settings: BEVProbeSettings | None = None,
    device: str | torch.device = 'cpu',
    cfg_options: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    progress: Progress = silent,
) -> Results:
    """Probe a pre-trained encoder against baselines.

    Args:
        config: Pre-training config (path, or loaded).
        checkpoint: Weights; None leaves the arms without pre-training. ``{seed}`` in the path is
            filled in for each seed: one pre-training run for each.
        settings: What is compared, and how.
        device: For the encoder and the protocols.
        cfg_options: Overrides of the config.
        data_root: Labelled KITTI object folder; the config's ``data_root`` by default.
        progress: Called with (what, done, total).

    Returns:
        JSON-ready dict. ``['protocols'][protocol][arm]`` holds ``mean``, ``std`` and ``per_class``
        over seeds and the single ``runs``; ``['comparison'][protocol]`` the gain over the untrained
        encoder. See :mod:`.report` for tables and files.

    Raises:
        FileNotFoundError: If frames, labels or the checkpoint are missing.
        ValueError: If splits share frames, a class has no cells, or nothing is left to compare.

    Source: arXiv 2501.04969, k nearest neighbours on frozen features.
    """
    from mmjepa.apis.inference import resolve_config

    settings = settings or BEVProbeSettings()
    cfg = resolve_config(config, cfg_options)
    arms = [a for a in settings.arms if checkpoint is not None or 'checkpoint' not in a]
    if not arms:
        raise ValueError(f'the arms {", ".join(settings.arms)} need a checkpoint; none was given')
    root = data_root if data_root is not None else cfg.get('data_root')
    if root is None:
        raise ValueError('the config has no data_root; give one with labelled frames')
    probe = _Probe(cfg, checkpoint, settings, device, root, progress)
    results = _describe(probe, arms, root)
    results['protocols'] = probe.run(arms)
    results['comparison'] = {p: compare(a) for p, a in results['protocols'].items()}
    return results
