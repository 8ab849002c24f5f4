"""Detections and ground truth from above, one panel for each detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .bev import new_figure
from .matching import (
    EXCUSED,
    FALSE,
    FOUND,
    MISSED,
    NOT_COUNTED,
    RIGHT,
    GroundTruth,
    Matches,
    match,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmjepa.apis.detection import Detections

FloatArray = NDArray[Any]

# told apart by colour-blind people, too; by class in alphabetical order
CLASS_COLOURS = (
    *('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#7f4fc9'),
    *('#e69f00', '#56b4e9', '#8c6d1f', '#a00000', '#5b8c00'),
)
UNKNOWN = 'unknown'  # whether a detection is right: no ground truth
# artists of a detection; the colour is its class's
DETECTION_STYLES: dict[str, dict[str, Any]] = {
    RIGHT: dict(linestyle='-', linewidth=1.8, alpha=0.25),
    FALSE: dict(linestyle=(0, (3, 1.5)), linewidth=1.8, alpha=0.0),
    EXCUSED: dict(linestyle=(0, (1, 1.5)), linewidth=1.2, alpha=0.0),
    UNKNOWN: dict(linestyle='-', linewidth=1.8, alpha=0.0),
}
DETECTION_WORDS = {
    RIGHT: 'right',
    FALSE: 'false (crossed)',
    EXCUSED: 'on an object that is not counted',
    UNKNOWN: 'detection',
}
TRUTH_STYLES: dict[str, dict[str, Any]] = {
    FOUND: dict(edgecolor='black', facecolor='none', linewidth=0.8),
    MISSED: dict(edgecolor='black', facecolor=('#ffd92f', 0.6), linewidth=1.4),
    NOT_COUNTED: dict(edgecolor='#606060', facecolor='none', linewidth=0.9, linestyle=':'),
}
TRUTH_WORDS = {
    FOUND: 'ground truth, found',
    MISSED: 'ground truth, missed',
    NOT_COUNTED: 'ground truth, not counted',
}


@dataclass(frozen=True)
class Panel:
    """One detector's view of the sweep.

    Attributes:
        name: of the detector.
        found: its detections above the threshold.
        matches: against the ground truth; None without one.
    """

    name: str
    found: Detections
    matches: Matches | None

    @property
    def states(self) -> NDArray[np.str_]:
        """(N,) state of each detection."""
        if self.matches is None:
            return np.full(len(self.found['boxes']), UNKNOWN)
        return self.matches.detections

    @property
    def summary(self) -> str:
        """What was found, in words."""
        if self.matches is None:
            count = len(self.found['boxes'])
            return f'{self.name}: {count} detection{"s" * (count != 1)}, no ground truth'
        hit, missed = (int((self.matches.truth == state).sum()) for state in (FOUND, MISSED))
        wrong = int((self.matches.detections == FALSE).sum())
        return f'{self.name}: {hit} of {hit + missed} objects found, {wrong} false'


@dataclass(frozen=True)
class DetectionViews:
    """What the picture of one sweep shows.

    Attributes:
        points: (P, >=3) x, y, z in metres.
        point_cloud_range: x, y, z lower bounds, then upper bounds, metres.
        panels: one or more, of the same classes.
        truth: objects in range; None without ground truth.
        limits: class -> lowest 3D IoU of a right detection.
        title: of the figure.
        beyond: labelled objects that are left out because they lie outside the range.
    """

    points: FloatArray
    point_cloud_range: tuple[float, ...]
    panels: tuple[Panel, ...]
    truth: GroundTruth | None
    limits: Mapping[str, float]
    title: str = ''
    beyond: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The detectors' classes."""
        return self.panels[0].found['names']


def above(found: Detections, threshold: float) -> Detections:
    """The detections with at least a score."""
    keep = found['scores'] >= threshold
    return {
        'boxes': found['boxes'][keep],
        'scores': found['scores'][keep],
        'labels': found['labels'][keep],
        'names': found['names'],
        'points': found['points'],
    }


def compare_detections(
    found: Mapping[str, Detections],
    truth: GroundTruth | None,
    point_cloud_range: Sequence[float],
    limits: Mapping[str, float],
    threshold: float = 0.3,
    title: str = '',
) -> DetectionViews:
    """Match each detector's findings with the same ground truth.

    Args:
        found: name of the detector -> what it found in the sweep; at least one.
        truth: of the sweep. Objects whose centre lies outside the range (x, y), and that nobody
            found, are left out.
        point_cloud_range: x, y, z lower bounds, then upper bounds, metres.
        limits: class -> lowest 3D IoU of a right detection.
        threshold: lowest score.
        title: of the figure.

    Raises:
        ValueError: No detector, or detectors of different classes.
    """
    classes = {tuple(each['names']) for each in found.values()}
    if len(classes) != 1:
        raise ValueError(
            f'detections of {len(found)} detectors with the classes {sorted(classes)}; panels '
            'beside each other need the same'
        )
    kept = {name: above(each, threshold) for name, each in found.items()}
    matches: dict[str, Matches | None] = dict.fromkeys(found)
    beyond = 0
    if truth is not None:
        all_matches = {name: match(each, truth, limits) for name, each in kept.items()}
        low, high = np.array(point_cloud_range[:2]), np.array(point_cloud_range[3:5])
        shown = ((truth.boxes[:, :2] >= low) & (truth.boxes[:, :2] < high)).all(axis=1)
        for each in all_matches.values():
            shown |= each.truth == FOUND
        matches |= {n: Matches(m.truth[shown], m.detections) for n, m in all_matches.items()}
        truth, beyond = truth.select(shown), int((~shown).sum())
    return DetectionViews(
        points=next(iter(found.values()))['points'],
        point_cloud_range=tuple(point_cloud_range),
        panels=tuple(Panel(name, each, matches[name]) for name, each in kept.items()),
        truth=truth,
        limits=limits,
        title=title,
        beyond=beyond,
    )


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """Colour of each class, the same for any order of them."""
    return {name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(sorted(names))}


def bev_corners(boxes: FloatArray) -> FloatArray:
    """(N, 7) boxes -> (N, 4, 2) corners from above, counter-clockwise, the front's two first."""
    local = np.array([[0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]]) * boxes[:, None, 3:5]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    return np.stack([x, y], axis=-1) + boxes[:, None, :2]


def draw_cloud(ax: Axes, points: FloatArray, point_cloud_range: Sequence[float]) -> None:
    """The cloud from above in grey, high points dark."""
    low, high = np.array(point_cloud_range[:3]), np.array(point_cloud_range[3:])
    points = points[((points[:, :3] >= low) & (points[:, :3] < high)).all(axis=1)]
    points = points[np.argsort(points[:, 2], kind='stable')]
    ax.scatter(
        points[:, 0], points[:, 1], c=points[:, 2], s=0.9, linewidths=0, cmap='Greys',
        vmin=low[2] - (high[2] - low[2]), vmax=high[2] + (high[2] - low[2]) / 2, rasterized=True,
        zorder=1,
    )  # fmt: skip
    ax.set(
        xlabel='x, ahead (m)', ylabel='y, left (m)', aspect='equal',
        xlim=(low[0], high[0]), ylim=(low[1], high[1]),
    )  # fmt: skip


def draw_truth(ax: Axes, truth: GroundTruth, states: NDArray[np.str_]) -> None:
    """Objects as outlines with a tick through the front; gid ``truth:<state>``."""
    for box, corners, state in zip(truth.boxes, bev_corners(truth.boxes), states, strict=True):
        style = TRUTH_STYLES[state]
        # a missed object lies under the detections, the outline of a found one over them
        order = 2 if state == MISSED else 4
        _outline(ax, corners, f'truth:{state}', zorder=order, **style)
        _heading(ax, box, style['edgecolor'], style['linewidth'], order)


def draw_detections(ax: Axes, panel: Panel, colours: Mapping[str, str]) -> None:
    """Boxes in the colour of their class, with score; gid ``detection:<state>``."""
    from matplotlib.patheffects import withStroke

    found = panel.found
    rows = zip(found['boxes'], bev_corners(found['boxes']), panel.states, strict=True)
    for row, (box, corners, state) in enumerate(rows):
        colour = colours[found['names'][found['labels'][row]]]
        style = dict(DETECTION_STYLES[state])
        fill = (colour, style.pop('alpha'))
        _outline(
            ax, corners, f'detection:{state}', edgecolor=colour, facecolor=fill, zorder=3, **style
        )
        _heading(ax, box, colour, style['linewidth'], 3)
        if state == FALSE:
            ax.plot(*box[:2], marker='x', color=colour, markersize=5, zorder=5, clip_on=True)
        right, top = corners.max(axis=0)
        ax.annotate(
            f'{found["scores"][row]:.2f}', (right, top), (1.5, 1.5), textcoords='offset points',
            color=colour, fontsize=6.5, zorder=6, annotation_clip=True,
            path_effects=[withStroke(linewidth=1.5, foreground='white')],
        )  # fmt: skip


def _outline(ax: Axes, corners: FloatArray, gid: str, **style: Any) -> None:
    from matplotlib.patches import Polygon

    ax.add_patch(Polygon(corners, closed=True, gid=gid, **style))


def _heading(ax: Axes, box: FloatArray, colour: str, width: float, order: float) -> None:
    """From the centre through the front, half a metre beyond it."""
    reach = box[3] / 2 + 0.5
    tip = box[:2] + reach * np.array([np.cos(box[6]), np.sin(box[6])])
    x, y = np.stack([box[:2], tip], axis=1)
    ax.plot(x, y, color=colour, linewidth=width, zorder=order, solid_capstyle='butt', gid='heading')


def _legend(figure: Figure, views: DetectionViews) -> None:
    from matplotlib.patches import Patch

    colours = class_colours(views.classes)
    handles = [
        Patch(facecolor=(colour, 0.25), edgecolor=colour, linewidth=1.8, label=name)
        for name, colour in colours.items()
    ]
    shown = {state for panel in views.panels for state in panel.states}
    states = [UNKNOWN] if views.truth is None else [RIGHT, FALSE]
    for state in dict.fromkeys([*states, *sorted(shown)]):
        style = dict(DETECTION_STYLES[state])
        fill = ('#404040', style.pop('alpha'))
        handles.append(
            Patch(facecolor=fill, edgecolor='#404040', label=DETECTION_WORDS[state], **style)
        )
    if views.truth is not None:
        shown = {state for panel in views.panels if panel.matches for state in panel.matches.truth}
        for state in dict.fromkeys([FOUND, MISSED, *sorted(shown)]):
            handles.append(Patch(label=TRUTH_WORDS[state], **TRUTH_STYLES[state]))
    figure.legend(
        handles=handles, loc='outside lower center', ncols=min(len(handles), 4), fontsize=8,
        frameon=False,
    )  # fmt: skip


def _rule(limits: Mapping[str, float]) -> str:
    by_limit: dict[float, list[str]] = {}
    for name, limit in limits.items():
        by_limit.setdefault(limit, []).append(name)
    parts = [f'{limit:g} ({", ".join(names)})' for limit, names in sorted(by_limit.items())]
    return f'right: 3D IoU of at least {", ".join(parts)}'


def detections_figure(views: DetectionViews) -> Figure:
    """A panel for each detector, on the same cloud with the same ground truth."""
    low_x, low_y, _, high_x, high_y, _ = views.point_cloud_range
    width = 8.5 if len(views.panels) == 1 else 7.5
    height = width * min(max((high_y - low_y) / (high_x - low_x), 0.4), 1.6)
    figure = new_figure(width * len(views.panels), height + 1.6)
    axes = figure.subplots(1, len(views.panels), squeeze=False, sharex=True, sharey=True)[0]
    colours = class_colours(views.classes)
    for ax, panel in zip(axes, views.panels, strict=True):
        draw_cloud(ax, views.points, views.point_cloud_range)
        if views.truth is not None and panel.matches is not None:
            draw_truth(ax, views.truth, panel.matches.truth)
        draw_detections(ax, panel, colours)
        ax.set_title(panel.summary)
        ax.label_outer()
    _legend(figure, views)
    lines = [views.title] if views.title else []
    if views.truth is not None:
        left_out = f'; {views.beyond} labelled out of range' if views.beyond else ''
        lines.append(_rule(views.limits) + left_out)
    figure.suptitle('\n'.join(lines), fontsize=10)
    return figure
