"""Which jobs an experiment is made of, and the command of each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .arms import Arm
from .choices import FINETUNE, PRETRAIN, Choices, key_of


@dataclass(frozen=True)
class Job:
    """One run of ``tools/train.py``.

    Attributes:
        stage: ``'pretrain'`` or ``'finetune'``; a fine-tuning is a cell of the table.
        arm: name.
        seed: of everything random in it.
        iterations: its length.
        folder: its work dir.
        config: its config.
        options: ``KEY=VALUE`` of its command.
        settings: all that its result depends on; JSON-ready.
        needs: folder of the pre-training that must be there before.
        fraction: of the labels.
        frames: training frames with labels.
        multiple: of the usual schedule.
        checkpoint: what the encoder starts from.
        amp: mixed precision of the training, None: float32.
    """

    stage: str
    arm: str
    seed: int
    iterations: int
    folder: Path
    config: Path
    options: tuple[str, ...]
    settings: dict[str, Any] = field(repr=False)
    needs: Path | None = None
    fraction: float = 1.0
    frames: int = 0
    multiple: float = 1.0
    checkpoint: Path | None = None
    amp: str | None = None

    @property
    def title(self) -> str:
        """For a person."""
        if self.stage == PRETRAIN:
            return f'pre-train {self.arm}, seed {self.seed}'
        return f'{self.arm}, {labels(self.fraction, self.multiple)}, seed {self.seed}'

    @property
    def kind(self) -> str:
        """Jobs of a kind take the same time an iteration."""
        return f'pre-train {self.arm}' if self.stage == PRETRAIN else 'fine-tune'

    @property
    def hash(self) -> str:
        """Of the settings."""
        return fingerprint(self.settings)

    @property
    def last_checkpoint(self) -> Path:
        """What the run leaves at its end."""
        return self.folder / f'iter_{self.iterations}.pth'

    def command(self, tools: Path) -> list[str]:
        """Words after ``python``; starts the run or goes on with it."""
        return [
            *(str(tools / 'train.py'), str(self.config), '--work-dir', str(self.folder)),
            *(() if self.amp is None else ('--amp', self.amp)),
            *('--resume', '--cfg-options', *self.options),
        ]

    def evaluation(self, tools: Path) -> list[str]:
        """Words after ``python``; for a run that ended before its validation did."""
        return [
            *(str(tools / 'test.py'), str(self.config), str(self.last_checkpoint)),
            *('--work-dir', str(self.folder / 'evaluation'), '--cfg-options', *self.options),
        ]


@dataclass(frozen=True)
class Plan:
    """All jobs in the order in which they start; seed after seed, so that a part is a result."""

    choices: Choices
    found: Mapping[str, Any]
    jobs: tuple[Job, ...]

    @property
    def cells(self) -> tuple[Job, ...]:
        """The fine-tunings."""
        return tuple(job for job in self.jobs if job.stage == FINETUNE)


def labels(fraction: float, multiple: float = 1.0) -> str:
    """``5 %``, or ``5 % x2`` at twice the schedule."""
    return f'{100 * fraction:g} %' + (f' x{multiple:g}' if multiple != 1 else '')


def fingerprint(settings: Any) -> str:
    """SHA-256 of JSON-ready settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def make_plan(
    choices: Choices, found: Mapping[str, Any], fingerprints: Mapping[str, str] | None = None
) -> Plan:
    """All jobs.

    Args:
        choices: checked by :func:`check_choices`.
        found: what :func:`.examine.examine` tells about configs and data.
        fingerprints: of checkpoints made elsewhere, by path.

    Returns:
        The plan. Iterations of a cell depend on its fraction and multiple alone, so that arms and
        seeds are equal in it.
    """
    jobs: list[Job] = []
    for seed in choices.seeds:
        pretrained = {
            arm.name: _pretraining(choices, found['pretraining'][arm.name], arm, seed)
            for arm in choices.arms
            if arm.config is not None
        }
        jobs += pretrained.values()
        for index in range(len(choices.fractions)):
            multiples = [1.0] if index or choices.long is None else [1.0, choices.long]
            for multiple in multiples:
                for arm in choices.arms:
                    start = _start(arm, seed, pretrained.get(arm.name), fingerprints or {})
                    jobs.append(_cell(choices, found, arm, seed, index, multiple, start))
    return Plan(choices, found, tuple(jobs))


def _pretraining(choices: Choices, found: Mapping[str, Any], arm: Arm, seed: int) -> Job:
    assert arm.config is not None
    iterations = choices.pretrain_iters or found['iterations']
    own = (f'seed={seed}', f'max_iters={iterations}')
    settings = dict(config=found['resolved'], data=found['data'], options=list(own))
    settings |= _precision(choices)
    return Job(
        stage=PRETRAIN,
        arm=arm.name,
        seed=seed,
        iterations=iterations,
        folder=choices.work_dir / 'pretrain' / arm.name / f'seed_{seed}',
        config=arm.config,
        options=(*choices.options(PRETRAIN), *choices.neutral(PRETRAIN), *own),
        settings=settings,
        amp=choices.amp,
    )


def _precision(choices: Choices) -> dict[str, str]:
    """Part of the settings; nothing in float32, so that results from before stay valid."""
    return {} if choices.amp is None else dict(amp=choices.amp)


def _start(
    arm: Arm, seed: int, pretraining: Job | None, fingerprints: Mapping[str, str]
) -> tuple[Path | None, str | None, Path | None]:
    """Checkpoint of an arm, its fingerprint, and the folder of the job that makes it."""
    if pretraining is not None:
        return pretraining.last_checkpoint, pretraining.hash, pretraining.folder
    path = arm.checkpoint_of(seed)
    return path, None if path is None else fingerprints[str(path)], None


def _cell(
    choices: Choices,
    found: Mapping[str, Any],
    arm: Arm,
    seed: int,
    index: int,
    multiple: float,
    start: tuple[Path | None, str | None, Path | None],
) -> Job:
    finetuning, fraction = found['finetuning'], choices.fractions[index]
    checkpoint, origin, needs = start
    given: Sequence[int] = choices.finetune_iters or finetuning['iterations']
    iterations = round((given[0] if len(given) == 1 else given[index]) * multiple)
    own = [f'seed={seed}', f'label_fraction={fraction:g}', f'max_iters={iterations}']
    shared = choices.options(FINETUNE)
    if not any(key_of(pair) == 'val_interval' for pair in shared):
        own.append(f'val_interval={iterations}')  # once, at the end
    name = f'fraction_{fraction:g}' + (f'_x{multiple:g}' if multiple != 1 else '') + f'_seed_{seed}'
    return Job(
        stage=FINETUNE,
        arm=arm.name,
        seed=seed,
        iterations=iterations,
        folder=choices.work_dir / 'finetune' / arm.name / name,
        config=choices.config,
        options=(*shared, *choices.neutral(FINETUNE), *own, f'jepa_checkpoint={checkpoint}'),
        settings=dict(
            config=finetuning['resolved'],
            data=finetuning['data'],
            options=own,
            encoder=origin,
            **_precision(choices),
        ),
        needs=needs,
        fraction=fraction,
        frames=finetuning['frames'][index],
        multiple=multiple,
        checkpoint=checkpoint,
        amp=choices.amp,
    )
