"""One simulated frame: a function of (seed, split, number) alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kitti import KittiObjects
from .camera import IMAGE_HW, kitti_camera, render
from .labels import make_labels
from .layout import random_scene
from .raycast import Caster
from .scene import Scene
from .sensor import take_sweep

SPLITS = ('training', 'testing')


@dataclass(frozen=True)
class Frame:
    """What a frame's files hold.

    Attributes:
        points: (P, 4) float32: x, y, z in metres, intensity.
        labels: the visible objects.
        picture: (375, 1242, 3) uint8 RGB.
        scene: where it was taken.
    """

    points: NDArray[np.float32]
    labels: KittiObjects
    picture: NDArray[np.uint8]
    scene: Scene


def simulate_frame(
    seed: int,
    number: int,
    caster: Caster,
    frustum_only: bool = False,
    split: str = 'training',
    style: str | None = None,
) -> Frame:
    """Builds a scene, scans it and labels it.

    Args:
        seed: of the data set, not negative.
        number: of the frame, not negative.
        caster: from :func:`~.raycast.make_caster`.
        frustum_only: keep only the points that the camera sees; the same points, labels and picture
            as those of the full frame.
        split: 'training' or 'testing': frames of the same number differ.
        style: kind of street (``scene.STYLES``); drawn when None.
    """
    key = [seed, SPLITS.index(split), number]
    scene = random_scene(np.random.default_rng([*key, 0]), style)
    sweep = take_sweep(scene, np.random.default_rng([*key, 1]), caster, frustum_only)
    seen = kitti_camera().calib.fov_mask(sweep.points, IMAGE_HW)
    labels = make_labels(scene, sweep.objects[seen], caster)
    points = sweep.points[seen] if frustum_only else sweep.points
    return Frame(points, labels, render(scene, caster), scene)
