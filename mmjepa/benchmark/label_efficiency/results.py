"""What lies in the folder of a job: settings it belongs to, what its run left, its result."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmjepa.engine.checkpoint import atomic_write

from .choices import FINETUNE
from .plan import Job, Plan

SETTINGS, RESULT, RUN, LOG = 'settings.json', 'result.json', 'run.json', 'output.log'
PREFIX = 'kitti/'  # of KittiAPMetric's figures
HEADLINE = 'mean_3d_ap40_moderate'
FIELDS = ('arm', 'fraction', 'frames', 'seed', 'iterations', 'multiple', 'checkpoint')

Result = dict[str, Any]
Results = Mapping[Path, Result]  # by folder of the job


def check_folders(jobs: Iterable[Job], overwrite: bool = False) -> None:
    """Make sure that what lies in the jobs' folders belongs to these jobs.

    Raises:
        ValueError: a folder holds a run of other settings; with ``overwrite`` it is removed.
    """
    wrong = [(job, text) for job in jobs if (text := _foreign(job)) is not None]
    if wrong and not overwrite:
        job, text = wrong[0]
        more = f' (and {len(wrong) - 1} more folders)' if len(wrong) > 1 else ''
        raise ValueError(
            f'{job.folder} holds a run of other settings: {text}{more}. Give the former settings, '
            'another --work-dir, or --overwrite to remove these runs'
        )
    for job, _ in wrong:
        shutil.rmtree(job.folder)


def _foreign(job: Job) -> str | None:
    """How the run in a job's folder differs from the job; None where it doesn't."""
    left = [*job.folder.glob('*.pth'), *job.folder.glob(RESULT)]
    known = read_json(job.folder / SETTINGS) if left else dict(hash=job.hash)
    if known is None:
        return f'no {SETTINGS} beside {left[0].name}'
    if known['hash'] == job.hash:
        return None
    old, new = dict(_flat(known['settings'])), dict(_flat(job.settings))
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    shown = [f'{key}: {old.get(key, "nothing")} -> {new.get(key, "nothing")}' for key in keys]
    return '; '.join(text if len(text) < 120 else f'{text[:117]}...' for text in shown[:4])


def _flat(value: Any, place: str = '') -> Iterator[tuple[str, str]]:
    """Places in nested settings and what stands there."""
    if isinstance(value, (dict, list)) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(inner, f'{place}.{key}')
    else:
        yield place.removeprefix('.config').removeprefix('.'), json.dumps(value)


def claim(job: Job) -> None:
    """Say in the folder which settings the run in it has."""
    write_json(job.folder / SETTINGS, dict(hash=job.hash, title=job.title, settings=job.settings))


def results_of(plan: Plan) -> dict[Path, Result]:
    """Results of all jobs that are finished, also by their printed commands."""
    return {job.folder: result for job in plan.jobs if (result := result_of(job)) is not None}


def result_of(job: Job) -> Result | None:
    """The result of a job, written to ``result.json`` when its run has got to its end, else None.

    ``metrics`` are in percent, None where a class has none; ``seconds`` are those of all its runs.
    """
    known: Result | None = read_json(job.folder / RESULT)
    if known is not None and known['hash'] == job.hash:
        return known
    metrics = validation(job) if job.stage == FINETUNE else {}
    if metrics is None or not (metrics or job.last_checkpoint.is_file()):
        return None
    result = dict(
        hash=job.hash,
        stage=job.stage,
        **{name: getattr(job, name) for name in FIELDS},
        seconds=(read_json(job.folder / RUN) or {}).get('seconds'),
        metrics=metrics,
    )
    result['checkpoint'] = job.checkpoint and str(job.checkpoint)
    write_json(job.folder / RESULT, result)
    return result


def validation(job: Job) -> dict[str, float | None] | None:
    """Figures of the last validation after the last iteration, in percent, without their prefix.

    None where a class has none: NaN in the log of a training, null in that of ``tools/test.py``,
    which leaves its figures below ``evaluation/`` for a run that ended before its validation did.
    """
    trained = _rows(job.folder, '*/vis_data/scalars.json')
    rows = [row for row in trained if row['step'] == job.iterations]
    rows += _rows(job.folder / 'evaluation', '*/*.json')
    if not rows:
        return None
    return {
        name.removeprefix(PREFIX): None if value is None or math.isnan(value) else value
        for name, value in rows[-1].items()
        if name.startswith(PREFIX)
    }


def _rows(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Validations in MMEngine's logs of figures, in the order of the runs."""
    for path in sorted(folder.glob(pattern)):
        for line in path.read_text(encoding='utf-8').splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a run that was killed
                row = json.loads(line)
                if PREFIX + HEADLINE in row:
                    yield row


def note_run(job: Job, exit_code: int, seconds: float) -> None:
    """Keep exit code and time of a run; the time of earlier runs of the job is added."""
    before = (read_json(job.folder / RUN) or {}).get('seconds', 0.0)
    write_json(job.folder / RUN, dict(exit_code=exit_code, seconds=seconds + before))


def last_lines(folder: Path, count: int = 5) -> str:
    """Of a run's log, indented, without empty ones."""
    path = folder / LOG
    text = path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''
    lines = [line for line in text.splitlines() if line.strip()]
    return '\n'.join(f'    {line[:200]}' for line in lines[-count:])


def write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    atomic_write(path, lambda file: file.write(text.encode()))


def write_json(path: Path, content: Any) -> None:
    """All of it or nothing; NaN is an error."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def read_json(path: Path) -> Any:
    """Content of a JSON file, None where there is none.

    Raises:
        ValueError: it is no JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path} is damaged ({error}); remove it and start again') from None
