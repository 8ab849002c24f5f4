"""Which jobs an experiment is made of, and the command of each."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .choices import FINETUNE, PRETRAIN, Choices, key_of
from .examine import Found, Stage, fingerprint_of


@dataclass(frozen=True)
class Job:
    """One run of ``tools/train.py``: a pre-training, or a fine-tuning (a cell of the table)."""

    choices: Choices = field(repr=False)
    stage: str
    arm: str
    seed: int
    iterations: int
    folder: Path  # its work dir
    config: Path
    own: tuple[str, ...]  # KEY=VALUE besides those of all jobs of the stage
    settings: dict[str, Any] = field(repr=False)  # all that its result depends on; JSON-ready
    needs: Path | None = None  # folder of the pre-training that must be there before
    fraction: float = 1.0  # of the labels
    frames: int = 0  # with labels
    multiple: float = 1.0  # of the usual schedule
    checkpoint: Path | None = None  # what the encoder starts from

    @property
    def title(self) -> str:
        """For a person."""
        cell = f'{self.arm}, {labels(self.fraction, self.multiple)}'
        return f'{self.kind if self.stage == PRETRAIN else cell}, seed {self.seed}'

    @property
    def kind(self) -> str:
        """Jobs of a kind take the same time an iteration."""
        return f'pre-train {self.arm}' if self.stage == PRETRAIN else 'fine-tune'

    @property
    def hash(self) -> str:
        """Of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def last_checkpoint(self) -> Path:
        """What the run leaves at its end."""
        return self.folder / f'iter_{self.iterations}.pth'

    def command(self) -> list[str]:
        """Words after ``python``; starts the run, goes on with it, or catches up on validation."""
        asked = self.choices
        if self.stage == FINETUNE and self.last_checkpoint.is_file():
            words: list[Any] = [asked.tools / 'test.py', self.config, self.last_checkpoint]
            words += ['--work-dir', self.folder / 'evaluation']
        else:
            words = [asked.tools / 'train.py', self.config, '--work-dir', self.folder]
            words += ['--amp', asked.amp, '--resume'] if asked.amp else ['--resume']
        words += ['--cfg-options', *asked.options(self.stage)]
        words += [*asked.options(self.stage, neutral=True), *self.own]
        words += [f'jepa_checkpoint={self.checkpoint}'] if self.stage == FINETUNE else []
        return [str(word) for word in words]


@dataclass(frozen=True)
class Plan:
    """All jobs in the order in which they start; seed after seed, so that a part is a result."""

    choices: Choices
    found: Found
    jobs: tuple[Job, ...]

    @property
    def cells(self) -> tuple[Job, ...]:
        """The fine-tunings."""
        return tuple(job for job in self.jobs if job.stage == FINETUNE)


def labels(fraction: float, multiple: float = 1.0) -> str:
    """``5 %``, or ``5 % x2`` at twice the schedule."""
    return f'{100 * fraction:g} %' + (f' x{multiple:g}' if multiple != 1 else '')


# what an encoder starts from, the fingerprint of that, and the folder of the job that makes it
Start = tuple[Path | None, str | None, Path | None]


def make_plan(choices: Choices, found: Found) -> Plan:
    """All jobs; iterations of a cell depend on its fraction and multiple alone, not on its arm."""
    jobs: list[Job] = []
    for seed in choices.seeds:
        starts: dict[str, Start] = {}
        for arm in choices.arms:
            starts[arm.name] = None, None, None
            if arm.config is not None:
                job = _pretraining(choices, found.pretraining[arm.name], arm.name, arm.config, seed)
                jobs.append(job)
                starts[arm.name] = job.last_checkpoint, job.hash, job.folder
            elif (path := arm.checkpoint_of(seed)) is not None:
                starts[arm.name] = path, fingerprint_of(path), None
        for index in range(len(choices.fractions)):
            for multiple in [1.0] if index or choices.long is None else [1.0, choices.long]:
                for name, start in starts.items():
                    jobs.append(_cell(choices, found, name, seed, index, multiple, start))
    return Plan(choices, found, tuple(jobs))


def _pretraining(choices: Choices, found: Stage, arm: str, config: Path, seed: int) -> Job:
    iterations = choices.pretrain_iters or found.iterations[0]
    own = (f'seed={seed}', f'max_iters={iterations}')
    folder = choices.work_dir / 'pretrain' / arm / f'seed_{seed}'
    settings = _settings(choices, found, own)
    return Job(choices, PRETRAIN, arm, seed, iterations, folder, config, own, settings)


def _cell(
    choices: Choices, found: Found, arm: str, seed: int, index: int, multiple: float, start: Start
) -> Job:
    stage, fraction, (checkpoint, origin, needs) = found.finetuning, choices.fractions[index], start
    given = choices.finetune_iters or stage.iterations
    iterations = round(given[index if len(given) > 1 else 0] * multiple)
    own = [f'seed={seed}', f'label_fraction={fraction:g}', f'max_iters={iterations}']
    if not any(key_of(pair) == 'val_interval' for pair in choices.finetune_options):
        own.append(f'val_interval={iterations}')  # once, at the end
    name = f'fraction_{fraction:g}' + (f'_x{multiple:g}' if multiple != 1 else '') + f'_seed_{seed}'
    return Job(
        choices=choices,
        stage=FINETUNE,
        arm=arm,
        seed=seed,
        iterations=iterations,
        folder=choices.work_dir / 'finetune' / arm / name,
        config=choices.config,
        own=tuple(own),
        settings=_settings(choices, stage, own) | dict(encoder=origin),
        needs=needs,
        fraction=fraction,
        frames=stage.frames[index],
        multiple=multiple,
        checkpoint=checkpoint,
    )


def _settings(choices: Choices, found: Stage, own: Sequence[str]) -> dict[str, Any]:
    settings = dict(config=found.resolved, data=found.data, options=list(own))
    # nothing in float32, so that results from before stay valid
    return settings if choices.amp is None else settings | dict(amp=choices.amp)
