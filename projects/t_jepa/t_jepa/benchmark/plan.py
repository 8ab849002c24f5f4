"""What is compared: cells of the table, and the jobs that fill them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmjepa.benchmark.label_efficiency.examine import fingerprint_of
from mmjepa.benchmark.label_efficiency.results import RESULT, read_json, write_json
from mmjepa.benchmark.salt.stages import Common, Job, Stage, read_options
from mmjepa.engine.config import ConfigError, check_config, load_config

from ..heads import NETS, sizes_of
from ..projections import resolve_projection
from ..trees import settings_of as tree_settings
from .choices import RAW, TJEPA, Asked
from .data import dataset_of

STATE, GROUP = 'state.json', 'group.json'
# of a data set's settings: they don't change what is in it
PLACES = ('data_root', 'download_hint', 'part', 'indices')


@dataclass(frozen=True)
class Cell:
    """A figure of the table: one model on one input."""

    dataset: str
    arm: str
    seed: int
    model: str
    projection: str  # of nets; '' on raw columns; or how trees see tokens
    folder: Path
    settings: dict[str, Any] = field(repr=False)

    @property
    def job(self) -> Any:
        """:class:`Job` for the checks of folders and the hash."""
        title = ', '.join([self.dataset, self.arm, self.model, f'seed {self.seed}'])
        return Job(title, 'cell', self.folder, (), self.folder / RESULT, self.settings)

    def result(self) -> dict[str, Any] | None:
        """What :mod:`.evaluate` wrote, None where it hasn't yet."""
        result: dict[str, Any] | None = read_json(self.folder / RESULT)
        return result if result is not None and result['hash'] == self.job.hash else None


@dataclass(frozen=True)
class Source:
    """A data set of the comparison, examined.

    Raises:
        ConfigError, FileNotFoundError: config or data that cannot be.
    """

    name: str
    path: Path
    asked: Asked

    @cached_property
    def pairs(self) -> tuple[str, ...]:
        """``KEY=VALUE`` of every run."""
        root = self.asked.data_root
        own = () if root is None else (f'data_root={root / self.name}',)
        return (*own, *self.asked.options)

    @cached_property
    def config(self) -> Config:
        """With its options."""
        config = load_config(self.path, read_options(self.pairs))
        check_config(load_config(self.path, read_options(self.pairs) | dict(seed=0, max_iters=9)))
        kind = str(config.model.type).rpartition('.')[2]
        if kind != 'TJEPA':
            raise ConfigError(f'{self.path} trains {kind}, this benchmark is of TJEPA')
        return config

    @cached_property
    def dataset(self) -> Any:
        """In memory."""
        return dataset_of(self.config)

    @cached_property
    def tokens(self) -> tuple[int, int]:
        """(T, H) of the representation."""
        encoder, keep = self.config.model.encoder, self.asked.keep_reg
        if keep is None:
            keep = self.config.model.get('keep_reg')
        if keep is None:
            keep = self.config.model.get('semantics') == 'released'
        count = len(self.dataset.transform.columns)
        return count + (encoder.get('num_reg', 1) if keep else 0), encoder.channels

    @cached_property
    def data_settings(self) -> dict[str, Any]:
        """What the data are, wherever they lie."""
        _ = self.dataset  # its errors say what is missing
        settings = self.config.train_dataloader.dataset.to_dict()
        split = settings.get('split')
        file = split.get('file') if isinstance(split, dict) else split
        files = [settings['table'], *([file] if isinstance(file, str) else [])]
        root = Path(settings['data_root'])
        sums = {name: fingerprint_of(root / name) for name in files}
        return {k: v for k, v in settings.items() if k not in PLACES} | dict(files=sums)

    @cached_property
    def epoch(self) -> int:
        """Iterations of an epoch of pre-training, without a smaller, last batch."""
        return max(1, len(self.dataset) // self.config.train_dataloader.batch_size)

    @cached_property
    def steps(self) -> int:
        """Iterations of pre-training."""
        cfg = self.config.train_cfg
        if self.asked.epochs is None and cfg.get('max_iters') is not None:
            return int(cfg.max_iters)
        return (self.asked.epochs or cfg.max_epochs) * self.epoch

    @property
    def length(self) -> str:
        """Of pre-training, in words."""
        if (pattern := self.asked.checkpoints.get(self.name)) is not None:
            return f'`{pattern}`'
        batch = self.config.train_dataloader.batch_size
        epochs = self.steps / self.epoch
        return f'{epochs:.4g} epochs, {self.steps:,} steps of {batch} of {len(self.dataset):,} rows'

    def given(self, seed: int) -> Path | None:
        """The checkpoint that stands for a pre-training, if one was given.

        Raises:
            FileNotFoundError: there is none for the seed.
        """
        if (pattern := self.asked.checkpoints.get(self.name)) is None:
            return None
        path = Path(pattern.replace('{seed}', str(seed))).absolute()
        if not path.is_file():
            raise FileNotFoundError(f'--checkpoints {self.name}={pattern}: no {path}')
        return path

    def pretraining(self, seed: int) -> Job:
        """A run of ``tools/train.py``."""
        common = Common(self.asked.tools, self.pairs)
        stage = Stage(f'T-JEPA on {self.name}', self.path, common, method='TJEPA')
        folder = self.asked.folder / self.name / 'pretrain' / f'seed_{seed}'
        return stage.job(f'{self.name}, pre-training, seed {seed}', folder, self.steps, seed)

    def origin(self, arm: str, seed: int) -> dict[str, Any]:
        """What an arm's input depends on besides the data."""
        if arm == RAW:
            return {}
        model = json.loads(json.dumps(self.config.model.to_dict(), default=str))
        asked = self.asked
        own = dict(scale=asked.scale, keep_reg=asked.keep_reg, model=model, seed=seed)
        if arm == TJEPA:
            given = self.given(seed)
            made = self.pretraining(seed).hash if given is None else fingerprint_of(given)
            own |= dict(pretraining=made, encoder=asked.encoder)
        return own


def cells_of(source: Source, arm: str, seed: int) -> list[Cell]:
    """All cells of an arm and a seed."""
    asked, cells = source.asked, []
    shared = dict(data=source.data_settings, arm=arm, seed=seed, origin=source.origin(arm, seed))
    for model in asked.models:
        for projection in _inputs(source, arm, model):
            own: dict[str, Any] = dict(model=model, projection=projection)
            if model in NETS:
                own |= dict(
                    size=asdict(sizes_of(model, asked.head_size)), budget=asdict(asked.budget)
                )
            else:
                own |= dict(budget=tree_settings(model, asked.trees))
            name = '_'.join([model, projection] if projection else [model])
            folder = asked.folder / source.name / arm / f'seed_{seed}' / name
            cells.append(Cell(source.name, arm, seed, model, projection, folder, shared | own))
    return cells


def _inputs(source: Source, arm: str, model: str) -> list[str]:
    """Ways in which a model reads an arm's input."""
    asked = source.asked
    if arm == RAW:
        return ['']
    if model not in NETS:
        return [asked.flat]
    kinds = [resolve_projection(kind, *source.tokens) for kind in asked.projections]
    return list(dict.fromkeys(kinds))


@dataclass(frozen=True)
class Plan:
    """Cells, and the jobs that are left.

    Attributes:
        cells: all of them.
        jobs: pre-trainings, and for each arm and seed one run of its unfinished cells.
        groups: what such a run has to do, by its folder; JSON-ready.
        pretraining: how long each data set's is, in words.
    """

    cells: tuple[Cell, ...]
    jobs: tuple[Job, ...]
    groups: dict[Path, dict[str, Any]] = field(repr=False)
    pretraining: dict[str, str] = field(default_factory=dict)

    def write_groups(self) -> None:
        """Leave in each folder what its run has to do."""
        for folder, group in self.groups.items():
            write_json(folder / GROUP, group)


def make_plan(sources: Sequence[Source], asked: Asked) -> Plan:
    """Seed after seed, so that a part is a result."""
    cells: list[Cell] = []
    jobs: list[Job] = []
    groups: dict[Path, dict[str, Any]] = {}
    for seed in asked.seeds:
        for source in sources:
            for arm in asked.arms:
                own = cells_of(source, arm, seed)
                cells += own
                if left := [cell for cell in own if cell.result() is None]:
                    given = source.given(seed) if arm == TJEPA else None
                    make = arm == TJEPA and given is None
                    first = source.pretraining(seed) if make else None
                    jobs += [] if first is None else [first]
                    jobs.append(_group_job(source, left, first))
                    checkpoint = given if first is None else first.product
                    groups[jobs[-1].folder] = _group(source, left, checkpoint)
    lengths = {source.name: source.length for source in sources if TJEPA in asked.arms}
    return Plan(tuple(cells), tuple(jobs), groups, lengths)


def _group_job(source: Source, left: Sequence[Cell], first: Job | None) -> Job:
    """One process for the unfinished cells of an arm and a seed: the input is computed once."""
    arm, seed, folder = left[0].arm, left[0].seed, left[0].folder.parent
    settings = {key: left[0].settings[key] for key in ('data', 'arm', 'seed', 'origin')}
    return Job(
        f'{source.name}, {arm}, seed {seed}',
        f'heads {source.name} {arm}',
        folder,
        (str(source.asked.script), '--group', str(folder / GROUP)),
        left[-1].folder / RESULT,
        settings,
        len(left),
        None if first is None else first.folder,
    )


def _group(source: Source, left: Sequence[Cell], checkpoint: Path | None) -> dict[str, Any]:
    asked = source.asked
    return dict(
        config=str(source.path),
        options=list(source.pairs),
        dataset=source.name,
        arm=left[0].arm,
        seed=left[0].seed,
        checkpoint=None if checkpoint is None else str(checkpoint),
        encoder=asked.encoder,
        keep_reg=asked.keep_reg,
        scale=asked.scale,
        device=asked.device,
        cells=[
            dict(
                model=cell.model,
                projection=cell.projection,
                folder=str(cell.folder),
                settings=cell.settings,
            )
            for cell in left
        ],
    )
