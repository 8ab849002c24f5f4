"""A random traffic scene as one triangle mesh with labelled objects.

The ego car drives along a (slightly curved) road in the right-hand lane; the LiDAR frame's origin
is the sensor, 1.73 m above the ground. The scene is a function of its random generator alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from .materials import Material as M
from .shapes import FloatArray, IntArray, templates

SENSOR_HEIGHT = 1.73  # m above the ground
LABELLED = ('Car', 'Van', 'Truck', 'Pedestrian', 'Cyclist')
EXTENT = 84.0  # m; the sensor's range is 80

# mean and standard deviation of length, width, height (m); KITTI's means for the labelled classes
_SIZES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    'Car': ((3.9, 1.63, 1.53), (0.4, 0.1, 0.12)),
    'Van': ((5.1, 1.9, 2.2), (0.5, 0.1, 0.25)),
    'Truck': ((10.0, 2.6, 3.25), (2.5, 0.15, 0.3)),
    'Pedestrian': ((0.84, 0.66, 1.76), (0.18, 0.1, 0.11)),
    'Cyclist': ((1.76, 0.6, 1.74), (0.12, 0.08, 0.09)),
    'tree': ((4.5, 4.5, 7.5), (1.2, 1.2, 1.8)),
    'conifer': ((3.5, 3.5, 7.0), (0.8, 0.8, 2.0)),
    'bush': ((1.6, 1.6, 1.2), (0.6, 0.6, 0.35)),
    'pole': ((0.2, 0.2, 5.0), (0.08, 0.08, 2.0)),
    'sign': ((0.08, 0.6, 2.5), (0.0, 0.12, 0.25)),
    'bin': ((0.6, 0.6, 1.05), (0.15, 0.12, 0.2)),
    'kiosk': ((3.5, 1.7, 2.0), (1.0, 0.35, 0.45)),
}


@dataclass(frozen=True)
class Style:
    """What a kind of street holds: mean numbers per frame and distances in metres."""

    weight: float
    road_half: tuple[float, float]
    sidewalk: tuple[float, float]
    parked: tuple[float, float]  # share of the kerb taken by parked vehicles
    traffic: tuple[int, int]
    pedestrians: tuple[int, int]
    cyclists: tuple[int, int]
    setback: tuple[float, float]  # of the buildings behind the sidewalk
    buildings: float  # share of the frontage that is built up
    greenery: float  # trees, hedges and bushes, relative
    verge: M  # the ground beyond the sidewalk


STYLES: dict[str, Style] = {
    'residential': Style(
        0.35,
        (3.2, 4.5),
        (1.5, 2.5),
        (0.3, 0.75),
        (1, 5),
        (4, 10),
        (3, 6),
        (2, 7),
        0.75,
        1.4,
        M.GRASS,
    ),
    'city': Style(
        0.3,
        (4.5, 7.0),
        (2.5, 4.5),
        (0.25, 0.65),
        (3, 8),
        (7, 16),
        (4, 8),
        (0, 2),
        0.95,
        0.7,
        M.PAVING,
    ),
    'road': Style(
        0.2,
        (3.8, 7.5),
        (0.5, 2.0),
        (0.0, 0.12),
        (6, 11),
        (3, 7),
        (3, 6),
        (4, 16),
        0.35,
        2.2,
        M.GRASS,
    ),
    'square': Style(
        0.15,
        (4.0, 6.0),
        (4.0, 8.0),
        (0.05, 0.3),
        (1, 4),
        (9, 20),
        (5, 10),
        (0, 5),
        0.85,
        0.8,
        M.PAVING,
    ),
}


@dataclass
class Scene:
    """A scene in the LiDAR frame.

    Attributes:
        vertices: (V, 3) float64, metres.
        faces: (F, 3) int64.
        materials: (F,) int64.
        tints: (F,) float64, reflectivity (tinted materials) or factor on it.
        face_objects: (F,) int64 row of the labelled object, -1 for the background.
        names: O KITTI class names of the objects.
        boxes: (O, 7) float64, gravity centre, length, width, height, yaw.
        samples: (O, S, 3) points spread over each object's surface.
        sample_faces: (O, S) the faces these points lie on.
        road: yaw, lateral offset and curvature of the road, for its markings.
        style: name of the kind of street.
    """

    vertices: FloatArray
    faces: IntArray
    materials: IntArray
    tints: FloatArray
    face_objects: IntArray
    names: list[str]
    boxes: FloatArray
    samples: FloatArray
    sample_faces: IntArray
    road: 'Road'
    style: str
    normals: FloatArray = field(init=False)  # (F, 3) unit

    def __post_init__(self) -> None:
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        # written out: np.cross is several times slower on small rows
        u, v = b - a, c - a
        normals = np.stack(
            [
                u[:, 1] * v[:, 2] - u[:, 2] * v[:, 1],
                u[:, 2] * v[:, 0] - u[:, 0] * v[:, 2],
                u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0],
            ],
            axis=1,
        )
        length = np.sqrt((normals**2).sum(axis=1, keepdims=True))
        self.normals = normals / np.maximum(length, 1e-12)


@dataclass(frozen=True)
class Road:
    """The road's course and the terrain's height; (s, l) run along and to the left of its axis."""

    yaw: float
    offset: float  # m, l of the sensor
    curvature: float  # 1/m
    half: float  # m, half the carriageway
    sidewalk: float  # m
    kerb: float  # m, height of the sidewalk
    slope: tuple[float, float]
    bend: tuple[float, float]  # 1/m, slopes that grow with the distance
    wave: tuple[float, float, float]  # amplitude m, wave number 1/m, phase

    def to_xy(self, s: Any, lateral: Any) -> tuple[Any, Any]:
        """(s, l) in metres, numbers or arrays -> x, y in the LiDAR frame."""
        y = lateral - self.offset + 0.5 * self.curvature * s**2
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        return cos * s - sin * y, sin * s + cos * y

    def to_sl(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The inverse of :meth:`to_xy`."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        s, across = cos * x + sin * y, cos * y - sin * x
        return s, across + self.offset - 0.5 * self.curvature * s**2

    def heading(self, s: float) -> float:
        """Yaw of the road's direction at s, radians."""
        return self.yaw + float(np.arctan(self.curvature * s))

    def height(self, s: Any, lateral: Any) -> Any:
        """Ground height in the LiDAR frame: -1.73 m under the sensor."""
        l0 = lateral - self.offset
        amplitude, number, phase = self.wave
        ripple = amplitude * (np.sin(number * (s + 0.6 * l0) + phase) - np.sin(phase))
        kerb = self.kerb * (np.abs(lateral) > self.half)
        terrain = self.slope[0] * s + self.slope[1] * l0
        terrain = terrain + self.bend[0] * s**2 + self.bend[1] * l0**2
        return terrain + ripple + kerb - SENSOR_HEIGHT


def random_road(rng: Generator, style: Style) -> Road:
    """Draws a road with the ego car in its right-hand lane."""
    half = rng.uniform(*style.road_half)
    return Road(
        yaw=rng.normal(0, 0.03),
        offset=-half * rng.uniform(0.4, 0.6),
        curvature=rng.normal(0, 1 / 600),
        half=half,
        sidewalk=rng.uniform(*style.sidewalk),
        kerb=rng.choice([0.0, 0.08, 0.12, 0.15]),
        slope=(rng.normal(0, 0.008), rng.normal(0, 0.008)),
        bend=(rng.normal(0, 2e-4), abs(rng.normal(0, 3e-4))),
        wave=(abs(rng.normal(0, 0.08)), rng.uniform(0.05, 0.12), rng.uniform(0, 2 * np.pi)),
    )


class SceneBuilder:
    """Places instances of templates without overlaps and puts the mesh together."""

    def __init__(self, rng: Generator, style_name: str, road: Road) -> None:
        self.rng = rng
        self.style_name, self.road = style_name, road
        self.vertices: list[FloatArray] = []
        self.faces: list[IntArray] = []
        self.materials: list[IntArray] = []
        self.tints: list[FloatArray] = []
        self.face_objects: list[IntArray] = []
        self.names: list[str] = []
        self.boxes: list[list[float]] = []
        self.samples: list[FloatArray] = []
        self.sample_faces: list[IntArray] = []
        self._num_vertices = self._num_faces = 0
        # circles that are taken; the first ones are the ego car
        self._circles = np.zeros((4096, 3))
        self._circles[:3] = [[-1.7, 0, 1.3], [-0.3, 0, 1.3], [1.2, 0, 1.3]]
        self._num_circles = 3

    def draw_size(self, name: str) -> FloatArray:
        """Length, width, height in metres."""
        mean, std = _SIZES[name]
        return np.array(mean) + np.array(std) * self.rng.standard_normal(3).clip(-1.8, 1.8)

    def _claim(self, x: float, y: float, yaw: float, size: FloatArray, margin: float) -> bool:
        """Takes the footprint, unless it touches one that is taken."""
        radius = size[1] / 2 + margin
        count = max(1, int(np.ceil((size[0] + 2 * margin) / (2 * radius))))
        reach = max(0.0, size[0] / 2 + margin - radius)
        along = np.linspace(-reach, reach, count) if count > 1 else np.zeros(1)
        xs, ys = x + along * np.cos(yaw), y + along * np.sin(yaw)
        taken = self._circles[: self._num_circles]
        gaps = (xs[:, None] - taken[:, 0]) ** 2 + (ys[:, None] - taken[:, 1]) ** 2
        if (gaps < (radius + taken[:, 2]) ** 2).any():
            return False
        end = self._num_circles + count
        if end > len(self._circles):
            return False
        self._circles[self._num_circles : end] = np.stack([xs, ys, np.full(count, radius)], axis=1)
        self._num_circles = end
        return True

    def claim_footprint(
        self, s: float, lateral: float, size: Sequence[float], turn: float = 0.0
    ) -> bool:
        """Takes ground at (s, l) for something whose own extent overhangs (a crown, a house)."""
        x, y = (float(v) for v in self.road.to_xy(s, lateral))
        return self._claim(x, y, self.road.heading(s) + turn, np.asarray(size, dtype=float), 0.0)

    def place(
        self,
        name: str,
        s: float,
        lateral: float,
        turn: float = 0.0,
        size: Sequence[float] | FloatArray | None = None,
        margin: float = 0.15,
        claim: bool = True,
    ) -> bool:
        """Adds one instance on the ground.

        Args:
            name: kind of template.
            s: along the road, metres.
            lateral: to the left of its axis, metres.
            turn: yaw relative to the road, radians.
            size: length, width, height; drawn when None.
            margin: free space around, metres.
            claim: whether other instances keep off its footprint.

        Returns:
            Whether there was room.
        """
        size = self.draw_size(name) if size is None else np.asarray(size, dtype=np.float64)
        x, y = (float(v) for v in self.road.to_xy(s, lateral))
        yaw = self.road.heading(s) + turn
        if x * x + y * y > EXTENT**2 or (claim and not self._claim(x, y, yaw, size, margin)):
            return False
        z = float(self.road.height(s, lateral))
        variants = templates()[name]
        template = variants[int(self.rng.integers(len(variants)))]
        cos, sin = np.cos(yaw), np.sin(yaw)
        matrix = (np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) * size).T
        labelled = name in LABELLED
        sunk = 0.0 if labelled else 0.15  # no gap under things on a slope
        shift = np.array([x, y, z - sunk])
        count = len(template.faces)
        self.vertices.append(template.vertices @ matrix + shift)
        self.faces.append(template.faces + self._num_vertices)
        self.materials.append(template.materials)
        self.tints.append(self._tints(name, template.materials))
        self.face_objects.append(np.full(count, len(self.names) if labelled else -1))
        if labelled:
            self.names.append(name)
            wrapped = (yaw + np.pi) % (2 * np.pi) - np.pi
            self.boxes.append([x, y, z + size[2] / 2, *size, wrapped])
            self.samples.append(template.sample_points @ matrix + shift)
            self.sample_faces.append(template.sample_faces + self._num_faces)
        self._num_vertices += len(template.vertices)
        self._num_faces += count
        return True

    def _tints(self, name: str, materials: IntArray) -> FloatArray:
        """Reflectivity of each face: one draw per material and instance."""
        rng = self.rng
        draws = np.empty(len(M))
        draws[:] = rng.uniform(0.75, 1.25)
        # half of the cars are dark to the sensor, as in KITTI
        draws[M.PAINT] = rng.beta(0.6, 1.9) * 0.75 + 0.005
        draws[M.CLOTH] = rng.uniform(0.03, 0.5)
        draws[M.METAL] = rng.beta(0.8, 1.6) * 0.7 + 0.02
        draws[M.FACADE] = rng.uniform(0.06, 0.5)
        if name in LABELLED:  # upper and lower half of a person's clothes differ a little
            return draws[materials] * np.where(materials == M.CLOTH, rng.uniform(0.8, 1.2), 1.0)
        return draws[materials]

    def add_ground(self, verge: M) -> None:
        """Carriageway, kerbs, sidewalks and the land beyond as one sheet of triangles."""
        road = self.road
        near = road.half + road.sidewalk
        beyond = [near + 0.05] + [d for d in (14.0, 22.0, 34.0, 50.0, 70.0, 95.0) if d > near + 2]
        side = np.array([road.half * 0.5, road.half - 0.01, road.half + 0.01, near, *beyond])
        across = np.concatenate([-side[::-1], [0.0], side])
        along = np.array([*range(-96, -30, 8), *range(-30, 42, 4), *range(42, 100, 8)], dtype=float)
        s, lateral = np.meshgrid(along, across, indexing='ij')
        x, y = road.to_xy(s, lateral)
        vertices = np.stack([x, y, road.height(s, lateral)], axis=-1).reshape(-1, 3)
        rows, columns = len(along) - 1, len(across) - 1
        a = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
        b, c, d = a + 1, a + columns + 1, a + columns + 2
        faces = np.stack([np.stack([a, c, d], -1), np.stack([a, d, b], -1)], axis=1).reshape(-1, 3)
        middle = np.abs(across[:-1] + across[1:]) / 2
        kinds = np.where(middle < road.half, M.ASPHALT, np.where(middle < near, M.PAVING, verge))
        materials = np.repeat(np.tile(kinds, rows), 2).astype(np.int64)
        draws = self.rng.uniform(0.8, 1.15, len(M))
        self.vertices.append(vertices)
        self.faces.append(faces + self._num_vertices)
        self.materials.append(materials)
        self.tints.append(draws[materials])
        self.face_objects.append(np.full(len(faces), -1))
        self._num_vertices += len(vertices)
        self._num_faces += len(faces)

    def build(self) -> Scene:
        """The finished scene."""
        empty = np.zeros((0, templates()['Car'][0].sample_points.shape[0], 3))
        return Scene(
            # rounded to float32 so that every ray caster gets the same numbers
            vertices=np.concatenate(self.vertices).astype(np.float32).astype(np.float64),
            faces=np.concatenate(self.faces),
            materials=np.concatenate(self.materials),
            tints=np.concatenate(self.tints),
            face_objects=np.concatenate(self.face_objects),
            names=list(self.names),
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 7),
            samples=np.stack(self.samples) if self.samples else empty,
            sample_faces=np.stack(self.sample_faces)
            if self.sample_faces
            else np.zeros(empty.shape[:2], dtype=np.int64),
            road=self.road,
            style=self.style_name,
        )
