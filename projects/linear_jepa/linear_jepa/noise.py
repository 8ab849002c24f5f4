"""The figure of noise: features of equal covariance, and signals among distractors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjepa.visualization.bev import new_figure

from . import theory
from .drawing import COLOURS, NAMES, OBJECTIVES, Rows, Say, label_axes, listed, save
from .processes import static_process, temporal_process
from .study import Study


def noise(out: Path, seeds: Sequence[int], say: Say, depths: Sequence[int] = (1, 2, 3)) -> Rows:
    """What noise does to features of equal covariance, and to signals among distractors."""
    figure = new_figure(13, 9)
    axes = figure.subplots(2, 2)
    rows = _two_views(axes[0], seeds, say, depths) + _in_time(axes[1], seeds, say)
    figure.suptitle(
        'Noise: lines theory; above: circles SGD on exact moments, crosses SGD on 64 fresh samples '
        f'a step (mean, spread, {len(seeds)} seeds); below: points matrix flow'
    )
    save(figure, out / 'noise.png')
    return rows


def _sampled(study: Study, until: float) -> tuple[Any, Any]:
    """Amplitudes at the end and times to half of the limit, (8,) each, on fresh samples."""
    lr = 0.05 if study.objective == 'jepa' else 0.01
    run = study.descent(until, lr, batch_size=64, every=10)
    return run.amplitudes[-len(run.times) // 10 :].mean(0), run.hits(0.5 * study.limits)


def _two_views(axes: Any, seeds: Sequence[int], say: Say, depths: Sequence[int]) -> Rows:
    """Eight features, equally strong, seen through more and more noise."""
    rows, levels, fine = [], np.linspace(0.0, 1.4, 8), np.linspace(0, 1.5, 100)
    for objective, style in zip(OBJECTIVES, ('-', '--'), strict=True):
        for layers, colour in zip(depths, COLOURS[: len(depths)], strict=True):
            epsilon = 0.15 if layers == 1 else 0.22**layers
            studies = [
                Study(static_process(np.ones(8), levels, s), layers, epsilon, objective, seed=s)
                for s in seeds
            ]
            study = studies[0]
            until = 2.5 * study.predicted.max()
            exact = study.descent(until, steps=2000)
            found = np.array([_sampled(each, until) for each in studies])
            mean, spread = found.mean(0), found.std(0)
            limits = theory.limit(1 / (1 + fine), layers, objective)
            times = theory.critical_time(0.5, epsilon, layers, 1.0, 1 / (1 + fine), objective)
            ends, hits = exact.amplitudes[-1], exact.hits(0.5 * study.limits)
            for i, (ax, line, points, unit) in enumerate(
                zip(axes, (limits, times), (ends, hits), (1.0, times[0]), strict=True)
            ):
                look = dict(color=colour, label=f'{NAMES[objective]}, L={layers}')
                ax.plot(fine, line / unit, style, **look)
                look = dict(color=colour, ls='')
                ax.plot(levels, points / unit, 'o', mfc='none', ms=6, **look)
                bar = dict(marker='x', ms=5, capsize=2, **look)
                ax.errorbar(levels, mean[i] / unit, spread[i] / unit, **bar)
            rows += [
                dict(
                    part='two views', objective=objective, depth=layers, noise=float(levels[k]),
                    lam=1.0, rho=float(study.process.rho[k]), limit=float(study.limits[k]),
                    amplitude=float(ends[k]), amplitude_sampled=float(mean[0, k]),
                    amplitude_std=float(spread[0, k]), theory=float(study.predicted[k]),
                    time=float(hits[k]), time_sampled=float(mean[1, k]),
                    time_std=float(spread[1, k]),
                )
                for k in range(len(levels))
            ]  # fmt: skip
            say(f'{NAMES[objective]}, {layers} layers: {len(seeds)} seeds to t={until:.0f}')
    xlabel = 'variance of the noise in each view (signal: 1, $\\lambda$=1)'
    label_axes(axes[0], 'What is left of a feature', xlabel, 'encoder amplitude at the end')
    label_axes(axes[1], 'When it is learned', xlabel, 'time to half of the limit / without noise')
    axes[0].legend(fontsize=8, ncols=2)
    return rows


def _in_time(axes: Any, seeds: Sequence[int], say: Say) -> Rows:
    """Two slow clean signals, two strong fast noisy distractors."""
    process = temporal_process((0.95, 0.9, 0.5, 0.3), (1, 1, 4, 6), (0.05, 0.05, 0.5, 0.5),
                               seed=seeds[0])  # fmt: skip
    names, rows = ('signal 1', 'signal 2', 'distractor 3', 'distractor 4'), []
    for ax, objective in zip(axes, OBJECTIVES, strict=True):
        study = Study(process, 4, 1e-3, objective, seed=seeds[0])
        predicted = study.predicted
        until = 1.4 * predicted.max()
        run = study.flow(until)
        values = run.amplitudes(process.basis)
        hits = study.flow_hits()
        for k in range(process.dim):
            times, shares = study.curve(k, until)
            name = f'{names[k]}: $\\lambda$={process.lam[k]:.2f}, $\\rho$={process.rho[k]:.2f}'
            ax.plot(
                times, shares * study.limits[k], color=COLOURS[k], label=name,
                ls='-' if k < 2 else '--',
            )  # fmt: skip
            at = np.linspace(0.02, 1, 25) * until
            points = np.interp(at, run.times, values[:, k])
            ax.plot(at, points, '.', color=COLOURS[k], ms=6)
            rows.append(dict(
                part='in time', objective=objective, depth=4, noise=float('nan'),
                lam=float(process.lam[k]), rho=float(process.rho[k]),
                limit=float(study.limits[k]), amplitude=float(values[-1, k]),
                amplitude_sampled=float('nan'), amplitude_std=float('nan'),
                theory=float(predicted[k]), time=float(hits[k]), time_sampled=float('nan'),
                time_std=float('nan'),
            ))  # fmt: skip
        learned = theory.order(hits)
        say(f'{NAMES[objective]} on the temporal process: learns {listed(learned)}')
        label_axes(
            ax, f'{NAMES[objective]}, temporal process, 4 layers: learns {listed(learned)}',
            'time (steps x learning rate)', 'encoder amplitude',
        )  # fmt: skip
        ax.legend(fontsize=8)
    return rows
