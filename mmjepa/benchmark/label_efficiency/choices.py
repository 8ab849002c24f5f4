"""What the user asks of an experiment, and whether it can be."""

import difflib
import itertools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRATCH = 'scratch'
# pre-training configs, from the root of the repository
KNOWN = {
    'adl_jepa': 'configs/adl_jepa/kitti.py',
    'occupancy_mae': 'projects/lidar_baselines/configs/occupancy_mae_kitti.py',
    'bev_mae': 'projects/lidar_baselines/configs/bev_mae_kitti.py',
}
PRETRAIN, FINETUNE = 'pretrain', 'finetune'
INFOS = ('kitti_infos_train.pkl', 'kitti_infos_val.pkl', 'kitti_dbinfos_train.pkl')
# a validation is logged with the iteration after which it came, not with the epoch
BY_ITERATION = 'default_hooks.logger.log_metric_by_epoch'
# they change how fast a run is or what it writes, not its result
NEUTRAL = ('num_workers', 'log_interval', BY_ITERATION)
# options that the plan sets itself, and from what
MANAGED = {
    'data_root': '--data',
    'seed': '--seeds',
    'label_fraction': '--fractions',
    'jepa_checkpoint': '--arms',
    'max_iters': '--pretrain-iters or --finetune-iters',
}


@dataclass(frozen=True)
class Arm:
    """One way to start a detector: from scratch, or from a pre-training made here or elsewhere."""

    name: str
    config: Path | None = None  # of a pre-training made here
    checkpoint: str | None = None  # of one made elsewhere; {seed} in it is filled in

    def checkpoint_of(self, seed: int) -> Path | None:
        """The file for a seed, of a pre-training made elsewhere."""
        return Path(self.checkpoint.replace('{seed}', str(seed))) if self.checkpoint else None


def parse_arms(words: Sequence[str], root: Path) -> tuple[Arm, ...]:
    """Arms of ``scratch``, names in ``KNOWN``, ``NAME=config.py`` and ``NAME=checkpoint.pth``.

    Raises:
        ValueError: an unknown name (the nearest are named), or one given twice.
    """
    arms: dict[str, Arm] = {}
    for word in words:
        name, sign, value = word.partition('=')
        path = Path(value).absolute()
        if name in arms:
            raise ValueError(f'--arms: {name} given twice; give each its own name')
        if not sign and name in (SCRATCH, *KNOWN):
            arms[name] = Arm(name, config=root / KNOWN[name] if name in KNOWN else None)
        elif not sign:
            near = difflib.get_close_matches(name, [SCRATCH, *KNOWN], 2, 0.4) or [SCRATCH, *KNOWN]
            own = 'NAME=config.py or NAME=checkpoint.pth'
            raise ValueError(
                f'--arms: unknown arm {name!r}; nearest: {", ".join(near)}. Own: {own}'
            )
        elif name == SCRATCH or not value or not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
            why = f'NAME=config.py or NAME=x.pth, NAME of letters, digits, _ - ., not {SCRATCH}'
            raise ValueError(f'--arms {word}: give {why}')
        elif path.suffix == '.py':
            arms[name] = Arm(name, config=path)
        else:
            arms[name] = Arm(name, checkpoint=str(path))
    return tuple(arms.values())


@dataclass(frozen=True)
class Choices:
    """What the user asks for; see the command line's help."""

    tools: Path  # folder of train.py and test.py
    data: Path  # KITTI-format folder with mmdet3d's info files
    fractions: Sequence[float]  # of the labels, ascending
    seeds: Sequence[int]  # one run of every cell for each
    arms: Sequence[Arm]
    config: Path  # of fine-tuning
    work_dir: Path
    grid: Sequence[str] = ()  # KEY=VALUE for both stages
    pretrain_options: Sequence[str] = ()
    finetune_options: Sequence[str] = ()
    pretrain_iters: int | None = None  # None: the config's epochs
    finetune_iters: Sequence[int] | None = None  # one or one a fraction; None: from the epochs
    batch_size: int | None = None  # of both stages; None: each config's
    num_workers: int | None = None
    amp: str | None = None  # 'bf16' or 'fp16', None: float32
    long: float | None = 2.0  # so many times the schedule, too, at the smallest fraction

    def options(self, stage: str, neutral: bool = False) -> tuple[str, ...]:
        """``KEY=VALUE`` of all jobs of a stage: those on which results depend, or the others."""
        pairs = [f'data_root={self.data}', *self.grid]
        if self.batch_size is not None:
            pairs.append(f'batch_size={self.batch_size}')
        if self.num_workers is not None:
            pairs.append(f'num_workers={self.num_workers}')
        if stage == FINETUNE:
            pairs.append(f'{BY_ITERATION}=False')
        pairs += self.pretrain_options if stage == PRETRAIN else self.finetune_options
        return tuple(pair for pair in pairs if (key_of(pair) in NEUTRAL) == neutral)


def key_of(pair: str) -> str:
    """``KEY`` of ``KEY=VALUE``."""
    return pair.partition('=')[0]


def check_choices(choices: Choices) -> None:
    """Raise ValueError where something asked for cannot be, FileNotFoundError for what is missing.

    Configs are left to :func:`.examine.examine`.
    """
    fractions, iters = choices.fractions, choices.finetune_iters or [1]
    if not all(0 < f <= 1 for f in fractions) or len(set(fractions)) < len(fractions):
        raise ValueError(f'--fractions: different ones in (0, 1] such as 0.05 1; got {fractions}')
    if choices.long is not None and not choices.long > 1:
        raise ValueError(f'--long is above 1, got {choices.long}; --no-long leaves it out')
    numbers = len(choices.seeds), choices.pretrain_iters, choices.batch_size, *iters
    if any(n is not None and n < 1 for n in numbers):
        raise ValueError('--seeds, --batch-size and both numbers of iterations are at least 1')
    if len(iters) not in (1, len(fractions)):
        raise ValueError(f'--finetune-iters: one number, or {len(fractions)} for the fractions')
    managed = dict(MANAGED) | ({'batch_size': '--batch-size'} if choices.batch_size else {})
    _check_pairs('--grid', choices.grid, managed)
    managed |= {key_of(pair): '--grid' for pair in choices.grid}
    _check_pairs('--pretrain-options', choices.pretrain_options, managed)
    _check_pairs('--finetune-options', choices.finetune_options, managed)
    _check_files(choices)


def _check_pairs(flag: str, pairs: Sequence[str], managed: dict[str, str]) -> None:
    for pair in pairs:
        if '=' not in pair:
            raise ValueError(f'{flag}: {pair!r} has no value, give KEY=VALUE')
        if key_of(pair) in managed:
            raise ValueError(f'{flag} {pair}: {managed[key_of(pair)]} says it already')


def _check_files(choices: Choices) -> None:
    data, work_dir = choices.data, choices.work_dir
    if not data.is_dir():
        raise FileNotFoundError(
            f'--data: no folder {data}; simulate one: python tools/create_data.py sim-kitti '
            f'--out {data} --frames 1500'
        )
    if missing := [name for name in INFOS if not (data / name).is_file()]:
        raise FileNotFoundError(
            f'--data {data}: no {", ".join(missing)}; make them: python tools/create_data.py kitti '
            f'--root {data}'
        )
    for arm, seed in itertools.product(choices.arms, choices.seeds):
        path = arm.checkpoint_of(seed)
        if path is not None and not path.is_file():
            raise FileNotFoundError(
                f'--arms {arm.name}={arm.checkpoint}: no file {path} for seed {seed}; {{seed}} in '
                'the path is filled in, and --seeds says how many'
            )
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work_dir).close()
    except OSError as error:
        raise ValueError(
            f'cannot write into {work_dir}: {error.strerror}; name another with --work-dir'
        ) from None
