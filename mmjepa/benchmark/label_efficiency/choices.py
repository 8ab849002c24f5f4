"""What the user asks of an experiment, and whether it can be."""

from dataclasses import dataclass
from pathlib import Path

from .arms import Arm
from .files import PlanError

PRETRAIN, FINETUNE = 'pretrain', 'finetune'
# they change how fast a run is or what it prints, not its result
NEUTRAL = ('num_workers', 'log_interval')
# a validation is logged with the iteration after which it came, not with the epoch
BY_ITERATION = 'default_hooks.logger.log_metric_by_epoch'
# options that the plan sets itself, and with what
MANAGED = {
    'data_root': '--data',
    'seed': '--seeds',
    'label_fraction': '--fractions',
    'jepa_checkpoint': '--arms',
}


@dataclass(frozen=True)
class Choices:
    """What the user asks for.

    Attributes:
        data: KITTI-format folder with mmdet3d's info files.
        fractions: of the labels, ascending.
        seeds: one run of every cell for each.
        arms: what is compared.
        config: fine-tuning config.
        work_dir: everything is written there.
        grid: ``KEY=VALUE`` for both stages.
        pretrain_options: ``KEY=VALUE`` for pre-training.
        finetune_options: ``KEY=VALUE`` for fine-tuning.
        pretrain_iters: None: the config's epochs.
        finetune_iters: one for all fractions or one for each; None: the epochs of the fraction.
        batch_size: of both stages; None: each config's.
        num_workers: of the loaders; None: each config's.
        amp: ``'bf16'`` or ``'fp16'``, as ``--amp`` of ``tools/train.py``; None: float32.
        long: at the smallest fraction also so many times the schedule; None: not.
    """

    data: Path
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    config: Path
    work_dir: Path
    grid: tuple[str, ...] = ()
    pretrain_options: tuple[str, ...] = ()
    finetune_options: tuple[str, ...] = ()
    pretrain_iters: int | None = None
    finetune_iters: tuple[int, ...] | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    amp: str | None = None
    long: float | None = 2.0

    def options(self, stage: str) -> tuple[str, ...]:
        """``KEY=VALUE`` of a stage on which its results depend, the same for all its jobs."""
        given = self.pretrain_options if stage == PRETRAIN else self.finetune_options
        batch = () if self.batch_size is None else (f'batch_size={self.batch_size}',)
        kept = (pair for pair in given if key_of(pair) not in NEUTRAL)
        return (f'data_root={self.data}', *self.grid, *batch, *kept)

    def neutral(self, stage: str) -> tuple[str, ...]:
        """``KEY=VALUE`` of a stage on which no result depends."""
        given = self.pretrain_options if stage == PRETRAIN else self.finetune_options
        workers = () if self.num_workers is None else (f'num_workers={self.num_workers}',)
        step = (f'{BY_ITERATION}=False',) if stage == FINETUNE else ()
        return (*workers, *step, *(pair for pair in given if key_of(pair) in NEUTRAL))


def check_choices(choices: Choices) -> None:
    """Raise PlanError where something asked for cannot be."""
    if not choices.fractions or not all(0 < f <= 1 for f in choices.fractions):
        given = ' '.join(f'{f:g}' for f in choices.fractions)
        raise PlanError(f'--fractions: each must lie in (0, 1], such as 0.05 1.0; got {given}')
    if len(set(choices.fractions)) < len(choices.fractions):
        raise PlanError('--fractions: one is given twice')
    if not choices.seeds:
        raise PlanError('--seeds must be at least 1')
    if choices.long is not None and not choices.long > 1:
        raise PlanError(f'--long must be above 1, got {choices.long:g}; --no-long leaves it out')
    numbers = [choices.pretrain_iters, choices.batch_size, *(choices.finetune_iters or ())]
    if any(n is not None and n < 1 for n in numbers):
        raise PlanError('--pretrain-iters, --finetune-iters and --batch-size are at least 1')
    if choices.finetune_iters and len(choices.finetune_iters) not in (1, len(choices.fractions)):
        raise PlanError(
            f'--finetune-iters takes one number, or one for each of the {len(choices.fractions)} '
            f'fractions in ascending order; got {len(choices.finetune_iters)}'
        )
    _check_options(choices)


def _check_options(choices: Choices) -> None:
    for flag, pairs in (
        ('--grid', choices.grid),
        ('--pretrain-options', choices.pretrain_options),
        ('--finetune-options', choices.finetune_options),
    ):
        managed = dict(MANAGED, max_iters=flag.replace('-options', '-iters'))
        if choices.batch_size is not None:
            managed['batch_size'] = '--batch-size'
        shared = {} if flag == '--grid' else {key_of(pair): '--grid' for pair in choices.grid}
        for pair in pairs:
            key, sign, value = pair.partition('=')
            if not (key and sign and value):
                raise PlanError(f'{flag}: {pair!r} has no value, give KEY=VALUE')
            if key in managed or key in shared:
                raise PlanError(f'{flag} {pair}: {(managed | shared)[key]} says it already')


def key_of(pair: str) -> str:
    """``KEY`` of ``KEY=VALUE``."""
    return pair.partition('=')[0]
