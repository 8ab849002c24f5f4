"""A window with a cloud and boxes in it, where there is a display; open3d is imported then."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .detections import DetectionViews, Panel, class_colours
from .matching import FOUND, MISSED, NOT_COUNTED

FloatArray = NDArray[Any]
BoxGroups = Sequence[tuple[FloatArray, FloatArray]]  # boxes (N, 7) and colours (N, 3)

SHADES = {FOUND: 'black', MISSED: 'red', NOT_COUNTED: 'darkgrey'}

# front face first; then the rear face in the same order, the centre and the nose
_CORNERS = np.array(
    [
        [x, y, z]
        for x in (0.5, -0.5)
        for y, z in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
    ]
    + [[0, 0, 0], [0.75, 0, 0]]
)
_EDGES = np.array(
    [[i, (i + 1) % 4] for i in range(4)]
    + [[4 + i, 4 + (i + 1) % 4] for i in range(4)]
    + [[i, i + 4] for i in range(4)]
    + [[8, 9]]
)


def box_lines(boxes: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
    """Boxes as lines: twelve edges, and one from the centre through the front.

    Args:
        boxes: (N, 7) x, y, z of the gravity centre, dx, dy, dz, yaw.

    Returns:
        Vertices (10 N, 3), metres, and edges (13 N, 2), rows of them.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
    local = _CORNERS * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    vertices = np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]
    edges = _EDGES + len(_CORNERS) * np.arange(len(boxes))[:, None, None]
    return vertices.reshape(-1, 3), edges.reshape(-1, 2)


def panel_boxes(views: DetectionViews, panel: Panel) -> BoxGroups:
    """Boxes of one detector's panel, for :func:`show`.

    Found objects are black, missed ones red, others grey; detections have their class's colour.
    """
    from matplotlib.colors import to_rgb

    groups: list[tuple[FloatArray, Sequence[Any]]] = []
    if views.truth is not None and panel.matches is not None:
        groups.append((views.truth.boxes, [to_rgb(SHADES[s]) for s in panel.matches.truth]))
    colours = class_colours(views.classes)
    names = [panel.found['names'][label] for label in panel.found['labels']]
    groups.append((panel.found['boxes'], [to_rgb(colours[name]) for name in names]))
    return [(boxes, np.array(shades).reshape(-1, 3)) for boxes, shades in groups]


def no_window() -> str | None:
    """Why no window can be opened here; None where one can."""
    if sys.platform == 'linux' and not (
        os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')
    ):
        return 'there is no display (DISPLAY is not set; ssh -X sets it)'
    try:
        import open3d  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a system library such as libGL is missing
        return f"open3d does not import ({error}): pip install 'mmjepa[lidar]'"
    return None


def show(points: FloatArray, boxes: BoxGroups, title: str) -> str | None:
    """Open a window and wait until it is closed.

    Args:
        points: (P, >=3), coloured by height.
        boxes: groups of boxes (N, 7) and their colours (N, 3) in [0, 1].
        title: of the window.

    Returns:
        None, or why there is no window.
    """
    reason = no_window()
    if reason is not None:
        return reason
    import open3d

    window = open3d.visualization.Visualizer()
    if not window.create_window(title, 1280, 800):
        return 'open3d could not open one (a graphics driver with OpenGL 3.3 is needed)'
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points[:, :3].astype(float)))
    cloud.colors = open3d.utility.Vector3dVector(_heights(points))
    window.add_geometry(cloud)
    for group, colours in boxes:
        vertices, edges = box_lines(group)
        if not len(edges):
            continue
        lines = open3d.geometry.LineSet(
            open3d.utility.Vector3dVector(vertices), open3d.utility.Vector2iVector(edges)
        )
        repeated = np.repeat(np.asarray(colours, dtype=float), len(_EDGES), axis=0)
        lines.colors = open3d.utility.Vector3dVector(repeated)
        window.add_geometry(lines)
    window.get_render_option().point_size = 2
    view = window.get_view_control()  # from behind the sensor and above
    view.set_front([-0.7, 0, 0.7])
    view.set_up([0, 0, 1])
    view.set_lookat(points[:, :3].mean(axis=0).astype(float))
    view.set_zoom(0.4)
    window.run()
    window.destroy_window()
    return None


def _heights(points: FloatArray) -> FloatArray:
    """(P, 3) greys, high points dark."""
    z = points[:, 2].astype(np.float64)
    low, high = np.quantile(z, [0.02, 0.98])
    share = np.clip((z - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat((0.75 - 0.55 * share)[:, None], 3, axis=1)
