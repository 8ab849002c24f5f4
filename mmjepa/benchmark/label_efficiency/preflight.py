"""Checks before anything long starts; what needs torch is asked of a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .choices import FINETUNE, PRETRAIN, Choices
from .files import PlanError

MODULE = 'mmjepa.benchmark.label_efficiency.examine'
INFOS = ('kitti_infos_train.pkl', 'kitti_infos_val.pkl', 'kitti_dbinfos_train.pkl')


def check_folders(choices: Choices) -> None:
    """Raise PlanError where data or info files are missing, or the work dir can't be written."""
    data = choices.data
    if not data.is_dir():
        raise PlanError(
            f'--data: no folder {data}; simulate one: python tools/create_data.py sim-kitti '
            f'--out {data} --frames 1500'
        )
    missing = [name for name in INFOS if not (data / name).is_file()]
    if missing:
        raise PlanError(
            f'--data {data}: no {", ".join(missing)}; make them: python tools/create_data.py kitti '
            f'--root {data}'
        )
    if not choices.config.is_file():
        raise PlanError(f'--config: no file {choices.config}')
    try:
        choices.work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=choices.work_dir):
            pass
    except OSError as error:
        raise PlanError(
            f'cannot write into the work dir {choices.work_dir}: {error.strerror}; name another '
            'with --work-dir'
        ) from None


def request_of(choices: Choices) -> dict[str, Any]:
    """What :func:`.examine.examine` is asked."""
    pretraining = {
        arm.name: dict(config=str(arm.config), options=choices.options(PRETRAIN))
        for arm in choices.arms
        if arm.config is not None
    }
    return dict(
        data=str(choices.data),
        fractions=choices.fractions,
        pretraining=pretraining,
        finetuning=dict(config=str(choices.config), options=choices.options(FINETUNE)),
    )


def ask(choices: Choices) -> dict[str, Any]:
    """What configs and data say, see :func:`.examine.examine`.

    Raises:
        PlanError: with its error.
    """
    with tempfile.TemporaryDirectory(prefix='label_efficiency_') as folder:
        request, reply = Path(folder, 'request.json'), Path(folder, 'reply.json')
        request.write_text(json.dumps(request_of(choices)), encoding='utf-8')
        done = subprocess.run(
            [sys.executable, '-m', MODULE, str(request), str(reply)],
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(reply.read_text(encoding='utf-8'))
            return found
    lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
    if lines[-1].startswith('error: '):
        raise PlanError(lines[-1].removeprefix('error: '))
    raise PlanError('configs or data could not be examined:\n' + '\n'.join(lines[-12:]))
