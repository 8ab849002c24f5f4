"""What lies in the folder of a job: settings it belongs to, what its run left, its result."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .choices import FINETUNE
from .files import PlanError, read_json, write_json
from .plan import Job

SETTINGS, RESULT, RUN, LOG = 'settings.json', 'result.json', 'run.json', 'output.log'
PREFIX = 'kitti/'  # of KittiAPMetric's figures
HEADLINE = 'mean_3d_ap40_moderate'

Result = dict[str, Any]


def check_folders(jobs: Iterable[Job], overwrite: bool = False) -> None:
    """Make sure that what lies in the jobs' folders belongs to these jobs.

    Args:
        jobs: of the plan.
        overwrite: remove folders of other settings instead of raising.

    Raises:
        PlanError: a folder holds a run of other settings; says which differ.
    """
    wrong = [(job, text) for job in jobs if (text := foreign(job))]
    if wrong and not overwrite:
        job, text = wrong[0]
        more = f' (and {len(wrong) - 1} more folders)' if len(wrong) > 1 else ''
        raise PlanError(
            f'{job.folder} holds a run of other settings: {text}{more}. Give the former settings, '
            'another --work-dir, or --overwrite to remove these runs'
        )
    for job, _ in wrong:
        shutil.rmtree(job.folder)


def foreign(job: Job) -> str | None:
    """How the run in a job's folder differs from the job; None where it doesn't."""
    left = [*job.folder.glob('*.pth'), *job.folder.glob(RESULT)]
    if not left:
        return None  # nothing that could get mixed up
    known = read_json(job.folder / SETTINGS)
    if known is None:
        return f'no {SETTINGS} beside {left[0].name}'
    if known['hash'] == job.hash:
        return None
    differing = list(_differences(known['settings'], json.loads(json.dumps(job.settings))))
    return '; '.join(differing[:4]) + ('; ...' if len(differing) > 4 else '')


def _differences(old: Any, new: Any, place: str = '') -> Iterator[str]:
    """``place: old -> new`` of everything that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            at = f'{place}.{key}' if place else str(key)
            if key not in new or key not in old:
                yield f'{at} is {"gone" if key in old else "new"}'
            else:
                yield from _differences(old[key], new[key], at)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f'{place}.{i}')
    elif old != new:
        yield f'{place.removeprefix("config.")}: {_short(old)} -> {_short(new)}'


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f'{text[:37]}...'


def claim(job: Job) -> None:
    """Say in the folder which settings the run in it has."""
    write_json(job.folder / SETTINGS, dict(hash=job.hash, title=job.title, settings=job.settings))


def finished(job: Job) -> Result | None:
    """The result of a job, where it has one; :func:`check_folders` comes before."""
    known: Result | None = read_json(job.folder / RESULT)
    if known is not None and known.get('hash') != job.hash:
        raise PlanError(
            f'{job.folder / RESULT} is of other settings than {SETTINGS} beside it; remove the '
            'folder, or give --overwrite'
        )
    return known


def finish(job: Job) -> Result | None:
    """Make the result of a run that got to its end.

    Args:
        job: whose settings were claimed.

    Returns:
        The result, written to ``result.json``; None where the run has not got there.

    Raises:
        PlanError: it validated something without the figures of the table.
    """
    if job.stage == FINETUNE:
        metrics = validation(job)
        if metrics is None:
            return None
        if HEADLINE not in metrics:
            raise PlanError(f'{job.folder}: no {HEADLINE} among the figures {sorted(metrics)[:5]}')
    elif not job.last_checkpoint.is_file():
        return None
    else:
        metrics = {}
    run = read_json(job.folder / RUN) or {}
    result = dict(
        hash=job.hash,
        stage=job.stage,
        arm=job.arm,
        seed=job.seed,
        fraction=job.fraction,
        frames=job.frames,
        multiple=job.multiple,
        iterations=job.iterations,
        checkpoint=None if job.checkpoint is None else str(job.checkpoint),
        seconds=run.get('seconds'),
        metrics={name: None if math.isnan(value) else value for name, value in metrics.items()},
    )
    write_json(job.folder / RESULT, result)
    return result


def validation(job: Job) -> dict[str, float] | None:
    """Figures of the last validation after the last iteration, in percent, without their prefix.

    ``tools/test.py`` leaves the same figures below ``evaluation/`` where a run was ended between
    its last iteration and the end of its validation.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(job.folder.glob('*/vis_data/scalars.json')):
        rows += (row for row in _lines(path) if row.get('step') == job.iterations)
    rows = [row for row in rows if _figures(row)]
    if not rows:
        files = sorted((job.folder / 'evaluation').glob('*/*.json'))
        rows = [row for path in files for row in _lines(path) if _figures(row)]
    return _figures(rows[-1]) if rows else None


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix(PREFIX): float(value)
        for name, value in row.items()
        if name.startswith(PREFIX) and isinstance(value, (int, float))
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed
        if isinstance(row, dict):
            yield row


def note_run(job: Job, exit_code: int, seconds: float, command: Sequence[str]) -> None:
    """Keep exit code and time of a run; the time of earlier runs of the job is added."""
    path = job.folder / RUN
    before = read_json(path) or {}
    write_json(
        path,
        dict(
            exit_code=exit_code,
            seconds=seconds + before.get('seconds', 0.0),
            runs=before.get('runs', 0) + 1,
            command=list(command),
        ),
    )


def last_lines(job: Job, count: int = 5) -> list[str]:
    """Of the log, without empty ones."""
    path = job.folder / LOG
    if not path.is_file():
        return []
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        text = file.read().decode('utf-8', errors='replace')
    return [line for line in text.splitlines() if line.strip()][-count:]
