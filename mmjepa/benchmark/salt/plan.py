"""Which runs an experiment is made of: both stages, or the arms of a comparison at equal FLOPs."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from mmjepa.benchmark.label_efficiency.choices import NEUTRAL, key_of
from mmjepa.engine.config import ConfigError

from .stages import Job, Stage, check_pair, check_teacher

UNTRAINED, VJEPA, SALT, VPIXEL = 'untrained', 'V-JEPA', 'SALT', 'V-Pixel'
RESULTS = 'probe_videos.json'  # of tools/probe.py


def split_steps(total: int, fraction: Fraction) -> tuple[int, int]:
    """Steps of the teacher and of the student.

    Raises:
        ValueError: one of them has none.
    """
    teacher = round(total * fraction)
    if not 0 < fraction < 1 or not 0 < teacher < total:
        raise ValueError(
            f'--teacher-fraction {fraction} of {total} steps: teacher and student need a step each '
            'at least; the fraction is between 0 and 1, such as 1/6'
        )
    return teacher, total - teacher


def own_steps(*stages: Stage) -> int:
    """Of the configs themselves, added up.

    Raises:
        ConfigError: a config counts epochs.
    """
    steps = [stage.config.train_cfg.get('max_iters') for stage in stages]
    for stage, count in zip(stages, steps, strict=True):
        if count is None:
            raise ConfigError(f'{stage.path} counts epochs: say how many steps with --steps')
    return sum(steps)


def chain(
    teacher: Stage,
    student: Stage,
    steps: tuple[int, int],
    folder: Path,
    seed: int = 0,
    own: Sequence[Sequence[str]] = ((), ()),
    name: str = '',
) -> list[Job]:
    """Both stages; the student starts from the teacher's last checkpoint, once it was checked.

    Args:
        teacher: of VPixel.
        student: of SALT.
        steps: of each.
        folder: in which ``teacher`` and ``student`` are made.
        seed: of both.
        own: more ``KEY=VALUE`` of each.
        name: in front of titles.
    """
    first = teacher.job(f'{name}teacher', folder / 'teacher', steps[0], seed, own[0])
    more = (*own[1], f'teacher_checkpoint={first.product}')
    check = partial(check_teacher, first.product, steps[0], student)
    second = student.job(f'{name}student', folder / 'student', steps[1], seed, more, first, check)
    return [first, second]


def matched_steps(
    budget: float, teacher_flops: float, student_flops: float, fraction: Fraction
) -> tuple[int, int]:
    """Steps of teacher and student that cost ``budget`` together, ``fraction`` of them a teacher's.

    Args:
        budget: FLOPs.
        teacher_flops: of a step.
        student_flops: of a step.
        fraction: the teacher's share of all steps.

    Raises:
        ValueError: one of them has no step.
    """
    share = float(fraction)
    total = budget / (share * teacher_flops + (1 - share) * student_flops)
    teacher = round(share * total)
    student = round((budget - teacher * teacher_flops) / student_flops)
    if teacher < 1 or student < 1:
        raise ValueError(
            f'--teacher-fraction {fraction}: {teacher} steps of the teacher and {student} of the '
            'student cost what V-JEPA does; more --budgets, or another fraction'
        )
    return teacher, student


def parse_teachers(words: Sequence[str]) -> dict[str, str]:
    """Architectures by name, of ``ARCH`` and ``NAME=ARCH``.

    Raises:
        ValueError: a name given twice, or one that can be no folder.
    """
    teachers: dict[str, str] = {}
    for word in words:
        name, _, arch = word.partition('=')
        if name in teachers or not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
            raise ValueError(
                f'--teachers {word}: each needs a name of its own, of letters, digits, _ - ., such '
                'as half=[96,12,3,384]'
            )
        teachers[name] = arch or name
    return teachers


@dataclass(frozen=True)
class Cell:
    """One encoder: how it was made, and the probe of it."""

    arm: str
    seed: int
    probe: Job
    teacher: str = ''  # its architecture
    budget: int = 0  # steps of V-JEPA
    steps: tuple[int, int] = (0, 0)  # of teacher and encoder
    flops: tuple[float, float] = (0.0, 0.0)
    training: Job | None = None

    @property
    def name(self) -> str:
        """Of a row of the table."""
        return f'{self.arm}, teacher {self.teacher}' if self.teacher else self.arm

    @property
    def total(self) -> float:
        """FLOPs of the pre-training, teacher included."""
        return sum(self.flops)


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        vjepa, teacher, student: configs; the teacher's and student's get ``arch`` and
            ``teacher_arch`` of each teacher.
        teachers: architectures by name.
        budgets: steps of V-JEPA; SALT gets as many FLOPs.
        fraction: share of SALT's steps that are the teacher's.
        seeds: one run of everything for each.
        folder: for everything.
        measurements: probes during each training of V-JEPA and students; 0: none.
        probe: arguments of ``tools/probe.py``.
    """

    vjepa: Stage
    teacher: Stage
    student: Stage
    teachers: dict[str, str]
    budgets: Sequence[int]
    fraction: Fraction
    seeds: Sequence[int]
    folder: Path
    measurements: int = 8
    probe: str = ''

    def stages(self) -> dict[str, tuple[Stage, Stage]]:
        """Teacher and student by name of the teacher."""
        return {
            name: (
                replace(self.teacher, options=(*self.teacher.options, f'arch={arch}')),
                replace(self.student, options=(*self.student.options, f'teacher_arch={arch}')),
            )
            for name, arch in self.teachers.items()
        }

    def check(self, data: bool = True) -> None:
        """Raise what configs, options and, with ``data``, data sets that cannot be raise."""
        if min(self.budgets) < 1 or len(set(self.budgets)) < len(self.budgets):
            raise ValueError(f'--budgets: different numbers of steps, got {list(self.budgets)}')
        if not self.seeds or self.measurements < 0:
            raise ValueError('--seeds is at least 1, --measurements at least 0')
        self._check_options()
        self.vjepa.check(data)
        for teacher, student in self.stages().values():
            teacher.check(data)
            student.check(data)
            check_pair(teacher, student)
            _check_same(self.vjepa, student)

    def _check_options(self) -> None:
        teachers = [*self.teacher.options, *self.student.pairs]
        for keys, pairs, instead in (
            (('arch',), self.teacher.options, '--teachers'),
            (('teacher_arch',), self.student.pairs, '--teachers'),
            (('probe_interval',), (*self.vjepa.pairs, *teachers), '--measurements'),
        ):
            for pair in pairs:
                if key_of(pair) in keys:
                    raise ValueError(f'option {pair}: {instead} says it already')

    def cells(self) -> list[Cell]:
        """All, seed after seed, so that a part is a result."""
        cells, stages = [], self.stages()
        for seed in self.seeds:
            folder = self.folder / 'untrained' / f'seed_{seed}'
            probe = self._probe(f'{UNTRAINED}, seed {seed}', self.student, folder, seed, None)
            cells.append(Cell(UNTRAINED, seed, probe))
            for budget in self.budgets:
                cells.append(self._vjepa(seed, budget))
                for name, (teacher, student) in stages.items():
                    cells += self._salt(seed, budget, name, teacher, student)
        return cells

    def _vjepa(self, seed: int, budget: int) -> Cell:
        folder, title = self._folder(budget, VJEPA, seed), f'{VJEPA}, {budget} steps, seed {seed}'
        job = self.vjepa.job(title, folder / 'encoder', budget, seed, self._measured(budget))
        probe = self._probe(title, self.vjepa, folder / 'probe', seed, job)
        flops = (0.0, budget * self.vjepa.step_flops)
        return Cell(VJEPA, seed, probe, '', budget, (0, budget), flops, job)

    def _salt(
        self, seed: int, budget: int, name: str, teacher: Stage, student: Stage
    ) -> tuple[Cell, Cell]:
        each = teacher.step_flops, student.step_flops
        steps = matched_steps(budget * self.vjepa.step_flops, *each, self.fraction)
        folder = self._folder(budget, f'{SALT}_{name}', seed)
        title = f'{SALT}, teacher {name}, {budget} steps of {VJEPA}, seed {seed}'
        own = (), self._measured(steps[1])
        first, second = chain(teacher, student, steps, folder, seed, own, f'{title}, ')
        flops = steps[0] * each[0], steps[1] * each[1]
        where = folder / 'probe'
        probes = (
            self._probe(f'{title}, teacher', teacher, folder / 'probe_teacher', seed, first),
            self._probe(f'{title}, student', student, where, seed, second),
        )
        return (
            Cell(VPIXEL, seed, probes[0], name, budget, (steps[0], 0), (flops[0], 0.0), first),
            Cell(SALT, seed, probes[1], name, budget, steps, flops, second),
        )

    def _folder(self, budget: int, arm: str, seed: int) -> Path:
        return self.folder / f'budget_{budget}' / arm / f'seed_{seed}'

    def _measured(self, steps: int) -> tuple[str, ...]:
        count = self.measurements
        return (f'probe_interval={max(1, steps // count)}',) if count else ()

    def _probe(self, title: str, stage: Stage, folder: Path, seed: int, of: Job | None) -> Job:
        words: list[Any] = [stage.common.tools / 'probe.py', stage.path]
        words += (
            ['none', '--arms', UNTRAINED] if of is None else [of.product, '--arms', 'checkpoint']
        )
        words += ['--protocol', 'attentive', '--seeds', seed, '--no-cache', '--work-dir', folder]
        words += ['--amp'] if stage.common.amp else []
        words += shlex.split(self.probe)
        pairs = [*stage.pairs, *(['teacher_checkpoint=None'] if stage.method == 'SALT' else [])]
        words += ['--cfg-options', *pairs] if pairs else []
        text = [str(word) for word in words]
        told = [word for word in text[1:] if key_of(word) not in NEUTRAL]
        return Job(
            title=f'probe {title}',
            kind='probe',
            folder=folder,
            words=tuple(text),
            product=folder / RESULTS,
            settings=dict(words=told, of=None if of is None else of.hash),
            needs=None if of is None else of.folder,
        )


def jobs_of(cells: Sequence[Cell]) -> list[Job]:
    """Trainings and probes in an order in which they can start; each once."""
    jobs: dict[Path, Job] = {}
    for cell in cells:
        for job in (cell.training, cell.probe):
            if job is not None:
                jobs[job.folder] = job
    return list(jobs.values())


def _check_same(vjepa: Stage, student: Stage) -> None:
    """Raise ConfigError where V-JEPA and SALT would not train the same encoder."""
    ours, theirs = (stage.config.model.encoder for stage in (vjepa, student))
    for key in ours | theirs:
        if ours.get(key) != theirs.get(key):
            raise ConfigError(
                f'{vjepa.path} and {student.path} train different encoders: {key} is '
                f'{ours.get(key)} and {theirs.get(key)}; set it in one with --vjepa-options or '
                '--student-options'
            )
    batches = [stage.config.train_dataloader.batch_size for stage in (vjepa, student)]
    if batches[0] != batches[1]:
        raise ConfigError(
            f'batch_size is {batches[0]} in {vjepa.path} and {batches[1]} in {student.path}: give '
            'both the same with --cfg-options batch_size=...'
        )
