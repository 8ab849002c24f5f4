"""Results of probes of whole samples, as a table and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .report import Results, percent, verdict_lines, write_files


def chosen_text(chosen: Mapping[str, Any]) -> str:
    """``k 20``, or ``layers 4, bn, lr 0.3, wd 0``."""
    parts = []
    for name, value in chosen.items():
        if isinstance(value, bool):
            parts.append(name if value else f'no {name}')
        else:
            parts.append(f'{name} {value:g}')
    return ', '.join(parts)


def _head(results: Results) -> list[str]:
    samples, splits = results['samples'], results['splits']
    encoders = ', '.join(f'{arm}: {which}' for arm, which in results['encoders'].items())
    layers = ' or '.join(map(str, results['layers']))
    view = results['transform'] or {}
    told = ', '.join(f'{name} {value}' for name, value in view.items() if name != 'type')
    if results['settings']['views'] > 1:
        told += f'; {results["settings"]["views"]} views of test samples'
    return [
        f'Probe of {results["kind"]}, top-1 accuracy in %, seeds '
        f'{", ".join(map(str, results["seeds"]))}; {samples["train"]} {splits["train"]} and '
        f'{samples["test"]} {splits["test"]} samples of {len(results["classes"])} classes; '
        f'chance {percent(results["chance"])}',
        f'encoder {encoders}; last {layers} layers; {told}; {results["precision"]}',
    ]


def format_samples(results: Results) -> str:
    """All protocols and arms as text: test accuracy, spread, held-out accuracy, what was chosen."""
    lines = _head(results)
    width = max(len(name) for name in ('attentive', *results['arms'])) + 2
    for protocol, arms in results['protocols'].items():
        lines.append(f'\n{protocol:<{width}}{"top-1":>7}{"+-":>6}{"held-out":>10}  chosen')
        for arm in results['arms']:
            entry = arms[arm]
            held = [run['held_out'] for run in entry['runs'] if run['held_out'] is not None]
            told = percent(sum(held) / len(held)) if held else ''
            std = '' if entry['std'] is None else percent(entry['std'])
            chosen = '; '.join(dict.fromkeys(chosen_text(r['chosen']) for r in entry['runs']))
            lines.append(f'{arm:<{width}}{percent(entry["mean"], 7)}{std:>6}{told:>10}  {chosen}')
        lines += verdict_lines(results, protocol)
    return '\n'.join(lines)


def write_samples(results: Results, folder: str | Path) -> list[Path]:
    """Write ``probe_<kind>.json`` (everything) and ``.csv`` (a row for each run); the two paths."""
    rows: list[list[Any]] = [['protocol', 'arm', 'seed', 'encoder', 'top1', 'held_out', 'chosen']]
    for protocol, arms in results['protocols'].items():
        for arm, entry in arms.items():
            for run in entry['runs']:
                rows.append([protocol, arm, run['seed'], results['encoders'][arm], run['mean'],
                             run['held_out'], chosen_text(run['chosen'])])  # fmt: skip
    return write_files(results, rows, folder, f'probe_{results["kind"]}')
