"""Trainings of configs with options: what they cost, and whether they fit, before any starts."""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmjepa.adapters.config_text import method_of
from mmjepa.benchmark.flops import FlopReport, benchmark_flops, counting_model
from mmjepa.benchmark.label_efficiency.choices import NEUTRAL, key_of
from mmjepa.engine.checkpoint import CheckpointError, load_file
from mmjepa.engine.config import ConfigError, OptionAction, check_config, load_config
from mmjepa.registry import DATASETS, MODELS

# options that the chain sets itself, and from what
MANAGED = {
    'seed': '--seed or --seeds',
    'max_iters': '--steps or --budgets',
    'max_epochs': '--steps or --budgets',
    'teacher_checkpoint': 'the teacher that is trained first',
}


@dataclass(frozen=True)
class Common:
    """What all trainings of an experiment share."""

    tools: Path  # folder of train.py and probe.py
    options: Sequence[str] = ()  # KEY=VALUE
    amp: str | None = None  # 'bf16' or 'fp16', None: float32
    gpus: int = 1  # processes of each training


@dataclass(frozen=True)
class Job:
    """A training or a probe; what :class:`..label_efficiency.run.PlanRun` carries out."""

    title: str
    kind: str  # jobs of a kind take the same time an iteration
    folder: Path
    words: tuple[str, ...]  # after `python`
    product: Path  # the file that its end leaves
    settings: dict[str, Any] = field(repr=False)  # all that its result depends on; JSON-ready
    iterations: int = 1
    needs: Path | None = None  # folder of the job that must be there before
    check: Callable[[], None] | None = None  # of what it needs, right before it starts

    @property
    def hash(self) -> str:
        """Of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def command(self) -> list[str]:
        """Words after ``python``."""
        return list(self.words)


@dataclass(frozen=True)
class Stage:
    """A pre-training config with options, of a method that is asked for.

    Raises:
        ConfigError, ValueError, FileNotFoundError: config, options, method or data that cannot be.
    """

    name: str
    path: Path
    common: Common
    options: tuple[str, ...] = ()
    method: str = 'VJEPA'

    @property
    def pairs(self) -> tuple[str, ...]:
        """``KEY=VALUE`` of every run of it."""
        return (*self.common.options, *self.options)

    @cached_property
    def config(self) -> Config:
        """As it will run, but for what the chain sets."""
        for pair in self.pairs:
            if key_of(pair) in MANAGED:
                raise ValueError(f'option {pair}: {MANAGED[key_of(pair)]} says it already')
        own = dict(seed=0, max_iters=9) | self._no_teacher
        check_config(load_config(self.path, read_options(self.pairs) | own))
        config = load_config(self.path, read_options(self.pairs) | self._no_teacher)
        kind = str(config.model.type).rpartition('.')[2]
        if kind != self.method:
            raise ConfigError(
                f'{self.path} trains {kind}, not {self.method}, which the {self.name} is: take '
                'configs/salt/teacher_*.py for teachers, configs/salt/student_*.py for students'
            )
        return config

    @property
    def _no_teacher(self) -> dict[str, Any]:
        return dict(teacher_checkpoint=None) if self.method == 'SALT' else {}

    @cached_property
    def model(self) -> Any:
        """Without weights."""
        with DefaultScope.overwrite_default_scope('mmjepa'):
            return counting_model(self.config)

    @cached_property
    def flops(self) -> FlopReport:
        """Counted, of a process's step."""
        options = read_options(self.pairs) | dict(max_iters=1) | self._no_teacher
        return benchmark_flops(str(self.path), options)

    @property
    def step_flops(self) -> float:
        """Of a step of all processes."""
        return self.flops.total * self.common.gpus

    def check(self, data: bool = True) -> None:
        """Build what can be built without computing: the model and, with ``data``, its data set."""
        _ = self.model
        if not data:
            return
        with DefaultScope.overwrite_default_scope('mmjepa'):
            DATASETS.build(self.config.train_dataloader.dataset)

    def job(
        self,
        title: str,
        folder: Path,
        steps: int,
        seed: int,
        own: Sequence[str] = (),
        needs: 'Job | None' = None,
        check: Callable[[], None] | None = None,
    ) -> Job:
        """Its run of so many steps; ``own``: more ``KEY=VALUE``."""
        own = (f'seed={seed}', f'max_iters={steps}', *own)
        common, gpus = self.common, self.common.gpus
        words: list[Any] = []
        if gpus > 1:
            words = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={gpus}']
        words += [common.tools / 'train.py', self.path, '--work-dir', folder, '--resume']
        words += ['--amp', common.amp] if common.amp else []
        words += ['--launcher', 'pytorch'] if gpus > 1 else []
        words += ['--cfg-options', *self.pairs, *own]
        pairs = [pair for pair in self.pairs if key_of(pair) not in NEUTRAL]
        config = load_config(self.path, read_options(pairs) | self._no_teacher)
        settings = dict(
            config=json.loads(json.dumps(config._cfg_dict.to_dict(), default=str)),
            options=[*pairs, *own],
            amp=common.amp,
            gpus=gpus,
            after=None if needs is None else needs.hash,
        )
        return Job(
            title,
            f'train {self.name}',
            folder,
            tuple(map(str, words)),
            folder / f'iter_{steps}.pth',
            settings,
            steps,
            None if needs is None else needs.folder,
            check,
        )


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Values of ``KEY=VALUE``, as ``--cfg-options`` reads them.

    Raises:
        ValueError: a pair without a value.
    """
    if bad := [pair for pair in pairs if '=' not in pair]:
        raise ValueError(f'option {bad[0]!r} has no value, give KEY=VALUE')
    parser = argparse.ArgumentParser()
    parser.add_argument('--options', nargs='+', action=OptionAction, default={})
    return parser.parse_args(['--options', *pairs] if pairs else []).options


def check_pair(teacher: Stage, student: Stage) -> None:
    """Raise ConfigError unless the teacher's encoder is the one that the student expects."""
    made, wanted = teacher.model.encoder, student.model.target.encoder
    told = {
        name: (getattr(made, name), getattr(wanted, name)) for name in ('num_heads', 'positions')
    }
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (made, wanted)]
    told |= {key: tuple(s.get(key) for s in shapes) for key in sorted(shapes[0] | shapes[1])}
    for name, (ours, theirs) in told.items():
        if ours != theirs:
            raise ConfigError(
                f'{student.path}: target.encoder is not the encoder of {teacher.path}: {name} is '
                f'{theirs} there and {ours} in the teacher; give both the same, such as '
                '--student-options teacher_arch=... and --teacher-options arch=...'
            )


def check_teacher(path: Path, steps: int, student: Stage) -> None:
    """Raise unless a file is a whole V-Pixel training that the student's teacher fits completely.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: damaged, of another method, not at its end, or of another encoder.
    """
    meta = load_file(path).get('meta') or {}
    if (method := method_of(meta)) != 'VPixel':
        raise CheckpointError(
            f'{path} is of {method or "an unknown method"}, a teacher is of VPixel: train one with '
            'configs/salt/teacher_*.py'
        )
    if meta.get('iter') != steps:
        raise CheckpointError(f'{path} says iteration {meta.get("iter")}, not {steps}: train it on')
    with DefaultScope.overwrite_default_scope('mmjepa'):
        with torch.device('meta'):
            model = MODELS.build(student.config.model)
        model.target.to_empty(device='cpu')
        model.load_teacher(path)
