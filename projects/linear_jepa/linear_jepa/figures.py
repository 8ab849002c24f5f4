"""The figures: theory as lines, simulations as points, and everything drawn as a table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjepa.visualization.bev import new_figure

from . import theory
from .drawing import COLOURS, NAMES, OBJECTIVES, Rows, Say, label_axes, listed, save, write_csv
from .noise import noise
from .processes import direct_process
from .study import Study


def order(out: Path, seeds: Sequence[int], say: Say, depths: Sequence[int] = (1, 2, 3, 4)) -> Rows:
    """Which of three features is learned first, by encoders of so many layers."""
    process = direct_process((1.0, 0.9, 0.8), (0.5, 0.7, 0.95), seeds[0])
    rows, curves = [], []
    figure = new_figure(3.75 * len(depths), 6.6)
    axes = figure.subplots(2, len(depths), sharey=True, squeeze=False)
    for i, objective in enumerate(OBJECTIVES):
        for j, depth in enumerate(depths):
            study = Study(process, depth, 1e-2, objective, seed=seeds[0])
            predicted = study.predicted
            until = 1.3 * predicted.max()
            run, flow = study.descent(until), study.flow_hits()
            hits = run.hits(0.5 * study.limits)
            learned = theory.order(hits)
            say(f'{NAMES[objective]}, {depth} layers: learns {listed(learned)}')
            ax = axes[i, j]
            for k in range(process.dim):
                ax.plot(*study.curve(k, until), color=COLOURS[k])
                chosen = np.linspace(1, len(run.times) - 1, 22).astype(int)
                points = run.amplitudes[chosen, k] / study.limits[k]
                ax.plot(run.times[chosen], points, '.', color=COLOURS[k], ms=6)
                curves += [
                    dict(
                        objective=objective, depth=depth, feature=k + 1,
                        time=float(run.times[c]), sgd=float(value),
                    )
                    for c, value in zip(chosen, points, strict=True)
                ]  # fmt: skip
                rows.append(dict(
                    objective=objective, depth=depth, feature=k + 1, lam=float(process.lam[k]),
                    rho=float(process.rho[k]), epsilon=1e-2, theory=float(predicted[k]),
                    flow=float(flow[k]), sgd=float(hits[k]), place=learned.index(k + 1) + 1,
                ))  # fmt: skip
            ax.axhline(0.5, color='#999999', lw=0.8, ls=':')
            layers = 'layer' if depth == 1 else 'layers'
            title = f'{NAMES[objective]}, {depth} {layers}: {listed(learned)}'
            label_axes(ax, title, 'time (steps x learning rate)', '')
    for ax in axes[:, 0]:
        ax.set_ylabel('amplitude / its limit')
    labels = [
        f'feature {k + 1}: $\\lambda$={process.lam[k]:g}, $\\rho$={process.rho[k]:g}'
        for k in range(process.dim)
    ]
    axes[0, 0].legend(axes[0, 0].lines[: 2 * process.dim : 2], labels, fontsize=8)
    figure.suptitle(
        'Which feature is learned first ($\\epsilon$=0.01): lines theory, points plain SGD; in the '
        'titles the order of SGD'
    )
    save(figure, out / 'order.png')
    write_csv(out / 'order_curves.csv', curves)
    return rows


def critical_time(
    out: Path, seeds: Sequence[int], say: Say, depths: Sequence[int] = (1, 2, 3, 4)
) -> Rows:
    """How long a feature waits, against the amplitude it starts from."""
    process = direct_process((1.0, 1.0), (0.5, 0.8), seeds[0])
    rows: Rows = []
    figure = new_figure(12, 5)
    for ax, objective in zip(figure.subplots(1, 2), OBJECTIVES, strict=True):
        for depth, colour in zip(depths, COLOURS[: len(depths)], strict=True):
            largest = 0.9 * 0.5 * theory.limit(0.5, depth, objective)
            line = np.geomspace(1e-7, largest, 200)
            exact = theory.critical_time(0.5, line, depth, 1.0, 0.5, objective)
            tilt = theory.slope(depth, objective)
            label = f'L={depth}, slope {tilt:.2f}' if tilt else f'L={depth}, log'
            ax.plot(line, exact, color=colour, label=label)
            ax.plot(line, theory.series(line, depth, 1.0, 0.5, objective), '--', color=colour, lw=1)
            for epsilon in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
                study = Study(process, depth, epsilon, objective, seed=seeds[0])
                predicted = study.predicted
                found = dict(flow=study.flow_hits()[0], sgd=np.nan)
                if predicted.max() < dict(jepa=3000, mae=400)[objective]:
                    run = study.descent(1.05 * predicted.max(), steps=1000)
                    found['sgd'] = run.hits(0.5 * study.limits)[0]
                ax.plot(epsilon, found['flow'], 'o', color=colour, mfc='none', ms=7)
                ax.plot(epsilon, found['sgd'], '.', color=colour, ms=7)
                leading = theory.series(epsilon, depth, 1.0, 0.5, objective)
                rows.append(dict(
                    objective=objective, depth=depth, epsilon=epsilon, rho=0.5, slope=tilt,
                    theory=float(predicted[0]), series=float(leading),
                    flow=float(found['flow']), sgd=float(found['sgd']),
                ))  # fmt: skip
            say(f'{NAMES[objective]}, {depth} layers: slope {tilt:.3f}')
        label_axes(
            ax, f'{NAMES[objective]}', 'amplitude at the start, $\\epsilon$',
            'critical time x $\\lambda$ (steps x learning rate)', xscale='log', yscale='log',
        )  # fmt: skip
        ax.legend(fontsize=8)
    figure.suptitle(
        'Time to half of the limit ($\\rho$=0.5): line theory, dashed its growing part, circles '
        'matrix flow, dots SGD'
    )
    save(figure, out / 'critical_time.png')
    return rows


def smallest_epsilon(lam: Sequence[float], rho: Sequence[float], depth: int) -> float:
    """Smallest starting amplitude from which a JEPA learns in the reverse order; NaN: none."""
    top = 0.5 * theory.limit(min(rho), depth, 'jepa') * (1 - 1e-9)
    grid = np.geomspace(1e-12, top, 20000)
    times = np.stack(
        [
            theory.critical_time(0.5, grid, depth, a, b, 'jepa')
            for a, b in zip(lam, rho, strict=True)
        ]
    )
    reverse = (np.diff(times, axis=0) < 0).all(0)
    return float(grid[np.argmax(reverse)]) if reverse.any() else float('nan')


def depth(out: Path, seeds: Sequence[int], say: Say, depths: Sequence[int] = range(1, 9)) -> Rows:
    """How much sooner the predictable one of two equally strong features is learned."""
    process = direct_process((1.0, 1.0), (0.4, 0.8), seeds[0])
    rows: Rows = []
    figure = new_figure(13, 4.8)
    left, right = figure.subplots(1, 2)
    for objective, colour in zip(OBJECTIVES, COLOURS[: len(OBJECTIVES)], strict=True):
        for fixed, start in (('epsilon', 1e-4), ('u0', 0.1)):
            exact, found = [], []
            for layers in depths:
                epsilon = start if fixed == 'epsilon' else start**layers
                study = Study(process, layers, epsilon, objective, seed=seeds[0])
                late, early = study.predicted
                flow_late, flow_early = study.flow_hits()
                exact.append(late / early)
                found.append(flow_late / flow_early)
                rows.append(dict(
                    objective=objective, depth=layers, fixed=fixed, epsilon=epsilon,
                    theory=float(exact[-1]), flow=float(found[-1]),
                ))  # fmt: skip
            what = '$\\epsilon$=1e-4' if fixed == 'epsilon' else 'layer scale 0.1'
            style = '-' if fixed == 'epsilon' else ':'
            left.plot(depths, exact, style, color=colour, label=f'{NAMES[objective]}, {what} fixed')
            left.plot(depths, found, 'o', color=colour, mfc='none', ms=6)
            say(f'{NAMES[objective]} at fixed {fixed}: {exact[0]:.3f} to {exact[-1]:.3f}')
    label_axes(
        left, '$\\rho$=0.4 against 0.8, equal $\\lambda$', 'layers of the encoder',
        'critical time of $\\rho$=0.4 over that of 0.8', yscale='log',
    )  # fmt: skip
    left.set_yticks([1, 1.5, 2, 3], labels=['1', '1.5', '2', '3'])
    left.minorticks_off()
    left.legend(fontsize=8)
    write_csv(out / 'depth_order.csv', _thresholds(right, seeds, say, depths))
    figure.suptitle('Depth favours predictable features: lines theory, points matrix flow')
    save(figure, out / 'depth.png')
    return rows


def _thresholds(ax: Any, seeds: Sequence[int], say: Say, depths: Sequence[int]) -> Rows:
    """Where the order turns round."""
    lam, rho = (1.0, 0.9, 0.8), (0.5, 0.7, 0.95)
    process, rows, turning, lowest, highest = direct_process(lam, rho, seeds[0]), [], [], [], []
    for layers in depths:
        epsilon = smallest_epsilon(lam, rho, layers)
        if not np.isfinite(epsilon):
            say(f'{layers} layers: the order never turns round')
            continue
        turning.append(layers)
        lowest.append(epsilon)
        highest.append(0.5 * float(theory.limit(min(rho), layers, 'jepa')))
        for factor in (0.7, 1.4):
            if factor * epsilon >= highest[-1]:
                continue
            study = Study(process, layers, factor * epsilon, 'jepa', seed=seeds[0])
            learned = theory.order(study.flow_hits())
            fill = None if learned == [3, 2, 1] else 'none'
            ax.plot(layers, factor * epsilon, 'o', color=COLOURS[0], mfc=fill)
            rows.append(dict(
                objective='jepa', depth=layers, smallest_epsilon=epsilon,
                epsilon=factor * epsilon, flow=listed(learned),
            ))  # fmt: skip
        say(f'{layers} layers: 3, 2, 1 from epsilon {epsilon:.2g} on')
    ax.plot(turning, lowest, color=COLOURS[0])
    ax.fill_between(turning, lowest, highest, color=COLOURS[0], alpha=0.15)
    label_axes(
        ax, 'JEPA learns 3, 2, 1 (shaded; filled points)\n'
        '$\\lambda$=(1, 0.9, 0.8), $\\rho$=(0.5, 0.7, 0.95)',
        'layers of the encoder', 'amplitude at the start, $\\epsilon$', yscale='log',
    )  # fmt: skip
    return rows


FIGURES: dict[str, Callable[[Path, Sequence[int], Say], Rows]] = {
    'order': order,
    'critical_time': critical_time,
    'depth': depth,
    'noise': noise,
}
