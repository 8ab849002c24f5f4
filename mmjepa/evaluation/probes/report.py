"""Probe results as a table, a line and files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .protocols import ProtocolResult

Results = dict[str, Any]


def summarise(runs: Sequence[tuple[int, ProtocolResult]]) -> dict[str, Any]:
    """Runs of one arm over seeds as a JSON-ready dict.

    Args:
        runs: (seed, result) pairs.

    Returns:
        ``runs``, and over the seeds ``per_class`` and ``mean`` (means) and ``std`` (of ``mean``,
        with n - 1; None for one seed).
    """
    means = [r.mean for _, r in runs]
    average = sum(means) / len(means)
    variance = sum((m - average) ** 2 for m in means) / max(len(means) - 1, 1)
    per_class = [sum(v) / len(v) for v in zip(*(r.per_class for _, r in runs), strict=True)]
    return {
        'mean': average,
        'std': math.sqrt(variance) if len(means) > 1 else None,
        'per_class': per_class,
        'runs': [
            {'seed': s, 'mean': r.mean, 'per_class': r.per_class, **r.details()} for s, r in runs
        ],
    }


def compare(arms: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Checkpoint against the untrained encoder.

    Returns:
        ``gain`` (difference of the means), ``spread`` (larger of the two seed standard deviations,
        None for one seed), and ``clear``: gain above twice the spread. None without both arms.
    """
    if 'checkpoint' not in arms or 'untrained' not in arms:
        return None
    gain = arms['checkpoint']['mean'] - arms['untrained']['mean']
    stds = [arms[a]['std'] for a in ('checkpoint', 'untrained')]
    spread = None if None in stds else max(stds)
    return {'gain': gain, 'spread': spread, 'clear': None if spread is None else gain > 2 * spread}


def percent(value: float, width: int = 0) -> str:
    """A share in percent with one decimal, ``-`` for NaN, right-aligned."""
    text = '-' if math.isnan(value) else f'{100 * value:.1f}'
    return f'{text:>{width}}'


def verdict_lines(results: Results, protocol: str) -> list[str]:
    """Checkpoint against the untrained encoder in words: one line, or none."""
    verdict = results['comparison'].get(protocol)
    if not verdict:
        return []
    text = f'checkpoint - untrained: {100 * verdict["gain"]:+.1f} points'
    if verdict['spread'] is not None:
        word = 'more' if verdict['clear'] else 'NOT more'
        text += f', {word} than twice the spread over seeds ({100 * verdict["spread"]:.1f})'
    return [text]


def format_table(results: Results) -> str:
    """All protocols and arms as text; accuracies in percent."""
    classes: list[str] = results['classes']
    arm_width = max(len(a) for arms in results['protocols'].values() for a in arms) + 2
    widths = [max(len(c), 6) + 2 for c in classes]
    lines = [
        f'BEV-cell probe, accuracy in %, seeds {", ".join(map(str, results["seeds"]))}; '
        f'{results["frames"]["train"]} train and {results["frames"]["val"]} val frames; '
        f'chance {100 / len(classes):.1f}'
    ]
    for protocol, arms in results['protocols'].items():
        heads = ''.join(f'{c:>{w}}' for c, w in zip(classes, widths, strict=True))
        lines.append(f'\n{protocol:<{arm_width}}{heads}{"mean":>8}{"+-":>7}')
        for arm, entry in arms.items():
            cells = ''.join(percent(v, w) for v, w in zip(entry['per_class'], widths, strict=True))
            std = '' if entry['std'] is None else percent(entry['std'])
            lines.append(f'{arm:<{arm_width}}{cells}{percent(entry["mean"], 8)}{std:>7}')
        lines += verdict_lines(results, protocol)
    return '\n'.join(lines)


def headline(results: Results, protocol: str = 'knn', name: str = 'AD-L-JEPA') -> str:
    """One line: ``BEV kNN mean class accuracy: untrained 41.0 % -> AD-L-JEPA 63.2 %``.

    Raises:
        KeyError: If the protocol or one of the two arms wasn't run.
    """
    arms = results['protocols'][protocol]
    title = {'knn': 'kNN', 'linear': 'linear'}[protocol]
    return (
        f'BEV {title} mean class accuracy: untrained {100 * arms["untrained"]["mean"]:.1f} % -> '
        f'{name} {100 * arms["checkpoint"]["mean"]:.1f} %'
    )


def _json_ready(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None  # JSON has no NaN
    if isinstance(value, Mapping):
        return {k: _json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(v) for v in value]
    return value


def write_results(
    results: Results, folder: str | Path, stem: str = 'probe_bev_cells'
) -> list[Path]:
    """Write ``<stem>.json`` (everything) and ``<stem>.csv`` (a row for each run).

    Returns:
        The two paths.
    """
    rows = [['protocol', 'arm', 'seed', 'mean', *results['classes'], 'l2']]
    for protocol, arms in results['protocols'].items():
        for arm, entry in arms.items():
            for run in entry['runs']:
                row = [run['seed'], run['mean'], *run['per_class'], run['l2']]
                rows.append([protocol, arm, *row])
    return write_files(results, rows, folder, stem)


def write_files(
    results: Results, rows: Sequence[Sequence[Any]], folder: str | Path, stem: str
) -> list[Path]:
    """Write everything as JSON and the rows as CSV; the two paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    json_path, csv_path = folder / f'{stem}.json', folder / f'{stem}.csv'
    json_path.write_text(json.dumps(_json_ready(results), indent=2, allow_nan=False) + '\n')
    with csv_path.open('w', newline='') as file:
        csv.writer(file).writerows(rows)
    return [json_path, csv_path]
