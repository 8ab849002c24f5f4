"""What is compared: from scratch, and pre-trainings by name."""

import difflib
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import PlanError

SCRATCH = 'scratch'
# pre-training configs, from the root of the repository
KNOWN = {
    'adl_jepa': 'configs/adl_jepa/kitti.py',
    'occupancy_mae': 'projects/lidar_baselines/configs/occupancy_mae_kitti.py',
    'bev_mae': 'projects/lidar_baselines/configs/bev_mae_kitti.py',
}


@dataclass(frozen=True)
class Arm:
    """One way to start a detector.

    Attributes:
        name: of folders and rows.
        config: pre-training config; None where nothing is pre-trained here.
        checkpoint: of a pre-training done elsewhere; ``{seed}`` in it is filled in.
    """

    name: str
    config: Path | None = None
    checkpoint: str | None = None

    def checkpoint_of(self, seed: int) -> Path | None:
        """The file for a seed, of a pre-training done elsewhere."""
        return (
            None if self.checkpoint is None else Path(self.checkpoint.replace('{seed}', f'{seed}'))
        )


def parse_arms(words: Sequence[str], root: Path) -> tuple[Arm, ...]:
    """Arms of the command line.

    Args:
        words: ``scratch``, a name in ``KNOWN``, ``NAME=config.py`` or ``NAME=checkpoint.pth``.
        root: of the repository.

    Raises:
        PlanError: an unknown name (the nearest are named), one given twice, or no such config.
    """
    arms = tuple(_parse(word, root) for word in words)
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f'--arms: {", ".join(twice)} given twice; give each its own name')
    return arms


def _parse(word: str, root: Path) -> Arm:
    name, sign, value = word.partition('=')
    if not sign:
        if name == SCRATCH:
            return Arm(SCRATCH)
        if name not in KNOWN:
            known = [SCRATCH, *KNOWN]
            near = difflib.get_close_matches(name, known, 2, cutoff=0.4) or known
            raise PlanError(
                f'--arms: unknown arm {name!r}; nearest: {", ".join(near)}. Your own: '
                f'NAME=config.py or NAME=checkpoint.pth'
            )
        return Arm(name, config=_config(root / KNOWN[name], word))
    if name == SCRATCH:
        raise PlanError(f'--arms {word}: {SCRATCH} starts from nothing; take another name')
    if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
        raise PlanError(f'--arms {word}: a name is made of letters, digits and _ - .')
    if not value:
        raise PlanError(f'--arms {word}: give NAME=config.py or NAME=checkpoint.pth')
    if value.endswith('.py'):
        return Arm(name, config=_config(Path(value), word))
    return Arm(name, checkpoint=str(Path(value).absolute()))


def _config(path: Path, word: str) -> Path:
    if not path.is_file():
        there = [str(p) for p in sorted(path.parent.glob('*.py'))]
        near = difflib.get_close_matches(str(path), there, 2)
        hint = f'; nearest: {", ".join(near)}' if near else ''
        raise PlanError(f'--arms {word}: no config file {path}{hint}')
    return path


def check_checkpoints(arms: Sequence[Arm], seeds: Sequence[int]) -> dict[str, str]:
    """Fingerprints (SHA-256) of the files of pre-trainings done elsewhere, by path.

    Raises:
        PlanError: one is missing.
    """
    found: dict[str, str] = {}
    for arm in arms:
        for seed in seeds:
            path = arm.checkpoint_of(seed)
            if path is None or str(path) in found:
                continue
            if not path.is_file():
                raise PlanError(
                    f'--arms {arm.name}={arm.checkpoint}: no file {path} for seed {seed}; {{seed}} '
                    'in the path is filled in, and --seeds says how many'
                )
            with path.open('rb') as file:
                found[str(path)] = hashlib.file_digest(file, 'sha256').hexdigest()
    return found
