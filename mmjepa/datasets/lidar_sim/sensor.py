"""The simulated HDL-64: rays, range noise, lost echoes and intensity.

Elevations and heights of the 64 lasers were fitted to real KITTI sweeps, in which every laser's
points lie on a cone to a millimetre: two blocks of 32 lasers, the upper one 8 cm higher.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import materials
from .materials import Material as M
from .raycast import Caster
from .scene import Scene
from .shapes import FloatArray, IntArray

NUM_COLUMNS = 2083  # firings a turn: 10 Hz
MAX_RANGE, MIN_RANGE = 80.0, 1.5  # m
RANGE_NOISE = 0.016  # m, standard deviation
REACH = 290.0  # m at which a white surface, hit squarely, would be seen by every pulse
FRONT_HALF_ANGLE = np.radians(44.0)  # holds the camera's view with a margin
FRONT_LOWEST = np.radians(-18.5)

# fmt: off
ELEVATIONS_DEG: FloatArray = np.array([
    1.937, 1.574, 1.305, 0.872, 0.579, 0.181, -0.089, -0.452, -0.803, -1.201, -1.494, -1.833,
    -2.208, -2.547, -2.874, -3.236, -3.539, -3.936, -4.216, -4.588, -4.914, -5.251, -5.611,
    -5.958, -6.329, -6.676, -6.999, -7.287, -7.679, -8.058, -8.310, -8.711, -9.026, -9.574,
    -10.062, -10.471, -10.957, -11.599, -12.115, -12.562, -13.041, -13.485, -14.048, -14.598,
    -15.189, -15.657, -16.177, -16.555, -17.187, -17.730, -18.323, -18.798, -19.320, -19.736,
    -20.222, -20.789, -21.317, -21.936, -22.440, -22.856, -23.323, -23.970, -24.506, -25.000,
])
# fmt: on
LASER_HEIGHTS: FloatArray = np.concatenate(  # m above the LiDAR frame's origin
    [np.linspace(0.209, 0.198, 32), np.linspace(0.126, 0.116, 32)]
)
# lasers differ in gain: rows of a range image look striped
LASER_GAINS: FloatArray = np.random.default_rng(65).normal(1.0, 0.15, 64).clip(0.6, 1.4)
# what the ego car hides, as in real sweeps: azimuth, half width (degrees), first laser of the gap
EGO_GAPS: tuple[tuple[float, float, int], ...] = (
    (180.0, 21.0, 52),
    (157.0, 3.5, 42),
    (-157.0, 3.5, 42),
    (131.0, 4.5, 57),
    (-131.0, 4.5, 57),
    (-71.0, 8.0, 47),
    (3.0, 13.0, 58),
)


@dataclass(frozen=True)
class Rays:
    """Rays in file order: laser by laser from the top, each turning left from straight ahead.

    Attributes:
        origins: (N, 3) float32, metres.
        directions: (N, 3) float32, unit length.
        numbers: (N,) place of each ray in the full turn, for its random numbers.
    """

    origins: NDArray[np.float32]
    directions: NDArray[np.float32]
    numbers: IntArray


@dataclass(frozen=True)
class Sweep:
    """One turn of the sensor.

    Attributes:
        points: (P, 4) float32: x, y, z in metres, intensity in [0, 1).
        objects: (P,) int64 row of the object hit, -1 for the background.
    """

    points: NDArray[np.float32]
    objects: IntArray


@lru_cache(maxsize=2)
def _grid(front_only: bool) -> tuple[FloatArray, NDArray[np.float32], IntArray]:
    """Directions (N, 3) at phase 0, origins (N, 3) and numbers (N,) of the rays.

    Without those that end on the ego car.
    """
    rng = np.random.default_rng(64)
    # lasers don't fire at the same azimuth; a fixed offset each
    offset = rng.uniform(-0.5, 0.5, 64)
    azimuth = (np.arange(NUM_COLUMNS) + 0.5 + offset[:, None]) * (2 * np.pi / NUM_COLUMNS)
    azimuth = azimuth.reshape(-1)
    laser = np.repeat(np.arange(64), NUM_COLUMNS)
    keep = np.ones(len(azimuth), dtype=bool)
    for middle, half_width, first in EGO_GAPS:
        away = (np.degrees(azimuth) - middle + 180) % 360 - 180
        keep &= (np.abs(away) > half_width) | (laser < first)
    elevation = np.radians(ELEVATIONS_DEG)[laser]
    if front_only:
        signed = (azimuth + np.pi) % (2 * np.pi) - np.pi
        keep &= (np.abs(signed) < FRONT_HALF_ANGLE) & (elevation > FRONT_LOWEST)
    numbers = np.flatnonzero(keep)
    azimuth, elevation = azimuth[numbers], elevation[numbers]
    level = np.cos(elevation)
    directions = np.stack(
        [level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=1
    )
    origins = np.zeros((len(numbers), 3), dtype=np.float32)
    origins[:, 2] = LASER_HEIGHTS[laser[numbers]]
    return directions, origins, numbers


def make_rays(rng: Generator, front_only: bool = False) -> Rays:
    """One turn's rays.

    Args:
        rng: gives the phase of the turn.
        front_only: only rays that can meet the camera's view.
    """
    base, origins, numbers = _grid(front_only)
    phase = rng.uniform(-0.5, 0.5) * (2 * np.pi / NUM_COLUMNS)
    cos, sin = np.cos(phase), np.sin(phase)
    directions = np.empty(base.shape, dtype=np.float32)
    directions[:, 0] = cos * base[:, 0] - sin * base[:, 1]
    directions[:, 1] = sin * base[:, 0] + cos * base[:, 1]
    directions[:, 2] = base[:, 2]
    return Rays(origins, directions, numbers)


def plane_ranges(
    scene: Scene, faces: IntArray, origins: NDArray[np.float32], directions: NDArray[np.float32]
) -> tuple[FloatArray, FloatArray]:
    """Exact range along each ray to the plane of the face that it hit, and |cos| of the incidence.

    The casters only say which face is hit; computing the range here, in float64, makes it the same
    for all of them.

    Args:
        scene: the scene.
        faces: (N,) face numbers, none negative.
        origins: (N, 3).
        directions: (N, 3).

    Returns:
        (N,) metres and (N,).
    """
    offsets = (scene.normals * scene.vertices[scene.faces[:, 0]]).sum(axis=1)
    slant, height = np.zeros(len(faces)), offsets[faces]
    for axis in range(3):  # column by column: faster than einsum on rows
        normal = scene.normals[:, axis][faces]
        slant += normal * directions[:, axis]
        height -= normal * origins[:, axis]
    slant[np.abs(slant) < 1e-9] = 1e-9
    return height / slant, np.abs(slant)


def take_sweep(scene: Scene, rng: Generator, caster: Caster, front_only: bool = False) -> Sweep:
    """Scans a scene once.

    The random numbers belong to the rays, not to the hits: a front-only sweep equals the front of
    the full one.

    Args:
        scene: what there is to see.
        rng: randomness of the sensor.
        caster: from :func:`~.raycast.make_caster`.
        front_only: see :func:`make_rays`.
    """
    rays = make_rays(rng, front_only)
    total = 64 * NUM_COLUMNS
    noise, flicker = rng.standard_normal((2, total), dtype=np.float32)[:, rays.numbers]
    chance = rng.random(total, dtype=np.float32)[rays.numbers]
    hit_faces = caster.cast(scene, rays.origins, rays.directions)
    hit = np.flatnonzero(hit_faces >= 0)
    faces, origins, directions = hit_faces[hit], rays.origins[hit], rays.directions[hit]
    ranges, cosine = plane_ranges(scene, faces, origins, directions)
    material = scene.materials[faces]
    albedo = materials.ALBEDO[material] * np.where(
        materials.TINTED[material], scene.tints[faces], 1.0
    )
    _paint_lanes(scene, albedo, material, origins, directions, ranges)
    seen = 0.99 * (1 - materials.DROPOUT[material])
    seen = seen * np.minimum(1.0, albedo * cosine * (REACH / ranges) ** 2)
    roughness = materials.ROUGHNESS[material]
    ranges = ranges + noise[hit] * np.sqrt(RANGE_NOISE**2 + roughness**2)
    keep = (chance[hit] < seen) & (ranges < MAX_RANGE) & (ranges > MIN_RANGE)
    intensity = _intensity(albedo, cosine, ranges, material)
    intensity *= 1 + materials.SPREAD[material] * flicker[hit]
    points = np.empty((int(keep.sum()), 4), dtype=np.float32)
    # KITTI's files hold millimetres and hundredths
    metres = origins[keep] + directions[keep] * ranges[keep, None].astype(np.float32)
    points[:, :3] = np.rint(metres * np.float32(1000)) * np.float32(0.001)
    gain = LASER_GAINS[rays.numbers[hit[keep]] // NUM_COLUMNS]
    points[:, 3] = (intensity[keep] * gain - 0.05).clip(0, 0.99).round(2)
    return Sweep(points, scene.face_objects[faces[keep]])


def _intensity(
    albedo: FloatArray, cosine: FloatArray, ranges: FloatArray, material: IntArray
) -> FloatArray:
    """Mean intensity: reflectivity, weak fall with incidence, glare, and a peak at 14 m.

    The range curve follows the ground in real sweeps: 0.31 at 5 m, 0.33 at 12 m, 0.24 at 30 m.
    """
    focus = np.where(ranges < 14, 0.72 + 0.02 * ranges, np.exp(-(((ranges - 14) / 32) ** 2)))
    shiny = (material == M.PAINT) | (material == M.METAL) | (material == M.GLASS)
    glare = np.where(shiny & (cosine > 0.97), 0.5 * ((cosine - 0.97) / 0.03) ** 2, 0.0)
    return (albedo * cosine**0.3 + glare) * focus * 1.6


def _paint_lanes(
    scene: Scene,
    albedo: FloatArray,
    material: IntArray,
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    ranges: FloatArray,
) -> None:
    """Brightens the asphalt under the dashed centre line and the edge lines, in place."""
    ground = np.flatnonzero((material == M.ASPHALT) & (ranges < 40))
    xy = origins[ground, :2] + directions[ground, :2] * ranges[ground, None]
    s, lateral = scene.road.to_sl(xy[:, 0], xy[:, 1])
    centre = (np.abs(lateral) < 0.08) & (s % 9.0 < 3.0)
    edge = np.abs(np.abs(lateral) - scene.road.half + 0.4) < 0.08
    albedo[ground[centre | edge]] *= 1.7
