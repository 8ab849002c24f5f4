"""Triangle-mesh templates: everything that can stand in a simulated traffic scene.

Templates are built once per process in metres, then squeezed into the unit box (x, y in
[-0.5, 0.5], z in [0, 1]), so that an instance is one scaling by (length, width, height), one
rotation and one shift, and its KITTI box is exactly the mesh's extent. x points ahead, y left.
Built with numpy's arithmetic from fixed seeds: the same in every process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .materials import Material as M

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_SURFACE_SAMPLES = 96


@dataclass(frozen=True)
class Template:
    """A mesh in the unit box.

    Attributes:
        vertices: (V, 3).
        faces: (F, 3) vertex numbers.
        materials: (F,) numbers of :class:`Material`.
        sample_faces: (S,) faces of points spread evenly over the surface, for occlusion.
        sample_points: (S, 3) those points.
    """

    vertices: FloatArray
    faces: IntArray
    materials: IntArray
    sample_faces: IntArray
    sample_points: FloatArray


class _Builder:
    """Collects parts; coordinates in metres until :meth:`template`."""

    def __init__(self) -> None:
        self.vertices: list[FloatArray] = []
        self.faces: list[IntArray] = []
        self.materials: list[int] = []
        self.count = 0

    def add(self, vertices: FloatArray, faces: IntArray, materials: Sequence[int]) -> None:
        self.vertices.append(vertices)
        self.faces.append(faces + self.count)
        self.materials.extend(materials)
        self.count += len(vertices)

    def loft(self, rings: FloatArray, sides: int | Sequence[int], caps: int | None = None) -> None:
        """Skin over rings (R, K, 3); ``sides``: one material or one for each of the K segments."""
        count, size = rings.shape[:2]
        side = [int(sides)] * size if isinstance(sides, int) else list(sides)
        faces, materials = [], []
        for ring in range(count - 1):
            for k in range(size):
                a, b = ring * size + k, ring * size + (k + 1) % size
                faces += [[a, b, b + size], [a, b + size, a + size]]
                materials += [side[k]] * 2
        for first in (0, (count - 1) * size) if caps is not None else ():
            faces += [[first, first + k, first + k + 1] for k in range(1, size - 1)]
            materials += [int(caps or 0)] * (size - 2)
        self.add(rings.reshape(-1, 3), np.array(faces), materials)

    def box(self, low: Sequence[float], high: Sequence[float], material: int) -> None:
        (x0, y0, z0), (x1, y1, z1) = low, high
        base = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        rings = np.stack([np.c_[base, np.full(4, z)] for z in (z0, z1)])
        self.loft(rings, material, material)

    def tube(
        self,
        path: Sequence[Sequence[float]],
        radii: Sequence[float | tuple[float, float]],
        material: int,
        sides: int = 6,
    ) -> None:
        """Tube with elliptic cross-sections around ``path``; horizontal rings (or upright ones)."""
        centres = np.array(path, dtype=np.float64)
        angle = (np.arange(sides) + 0.5) * (2 * np.pi / sides)
        along = centres[-1] - centres[0]
        upright = abs(along[2]) >= 0.4 * np.hypot(along[0], along[1])
        rings = []
        for centre, radius in zip(centres, radii, strict=True):
            rx, ry = radius if isinstance(radius, tuple) else (radius, radius)
            if upright:
                ring = np.c_[rx * np.cos(angle), ry * np.sin(angle), np.zeros(sides)]
            else:  # a lying tube: rings in the plane across the path
                across = np.array([-along[1], along[0], 0.0]) / np.hypot(along[0], along[1])
                ring = rx * np.cos(angle)[:, None] * across
                ring[:, 2] += ry * np.sin(angle)
            rings.append(centre + ring)
        self.loft(np.stack(rings), material, material)

    def disc(self, x: float, y0: float, y1: float, radius: float, material: int) -> None:
        """Wheel: an upright 8-gon between y0 and y1, standing on z = 0."""
        angle = (np.arange(8) + 0.5) * (np.pi / 4)
        ring = np.c_[x + radius * np.cos(angle), np.zeros(8), radius + radius * np.sin(angle)]
        self.loft(np.stack([ring + [0, y0, 0], ring + [0, y1, 0]]), material, material)

    def leaves(
        self, rng: Generator, centre: FloatArray, radii: FloatArray, count: int, size: float
    ) -> None:
        """Loose triangles filling an ellipsoid, denser outside: rays pass between them."""
        direction = rng.standard_normal((count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        middle = centre + direction * rng.uniform(0.3, 1.0, (count, 1)) ** 0.5 * radii
        corners = middle[:, None] + rng.uniform(-size, size, (count, 3, 3))
        self.add(corners.reshape(-1, 3), np.arange(count * 3).reshape(-1, 3), [M.FOLIAGE] * count)

    def template(self, normalise: bool = True) -> Template:
        vertices = np.concatenate(self.vertices)
        faces = np.concatenate(self.faces)
        corners = vertices[faces]
        area = np.linalg.norm(
            np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
        )
        rng = np.random.default_rng(len(faces))
        # stratified in the cumulated area: an even cover without lucky clumps
        strata = (np.arange(NUM_SURFACE_SAMPLES) + 0.5) / NUM_SURFACE_SAMPLES * area.sum()
        picked = np.searchsorted(np.cumsum(area), strata).clip(max=len(faces) - 1)
        weights = rng.dirichlet((1.0, 1.0, 1.0), NUM_SURFACE_SAMPLES)
        samples = (weights[:, :, None] * corners[picked]).sum(axis=1)
        if normalise:
            low, high = vertices.min(axis=0), vertices.max(axis=0)
            shift = (low + high) / 2 * [1, 1, 0] + low * [0, 0, 1]
            vertices, samples = (vertices - shift) / (high - low), (samples - shift) / (high - low)
        return Template(vertices, faces, np.array(self.materials), picked, samples)


def _profile(points: Sequence[tuple[float, float]], y: float, shrink: float = 1.0) -> FloatArray:
    """Side view (x, z) at one y, shrunk about its middle."""
    xz = np.array(points)
    middle = (xz.max(axis=0) + xz.min(axis=0)) / 2
    xz = middle + (xz - middle) * shrink
    return np.c_[xz[:, 0], np.full(len(xz), y), xz[:, 1]]


def _wheels(b: _Builder, xs: Sequence[float], half_width: float, radius: float) -> None:
    for x in xs:
        for side in (-1, 1):
            b.disc(x, side * (half_width - 0.22), side * half_width, radius, M.RUBBER)


def _car(rng: Generator) -> Template:
    """Saloon, hatchback, estate or SUV: rounded body, narrower cabin with glass, wheels, plates."""
    b = _Builder()
    style = rng.integers(4)
    belt = 0.92 + 0.1 * (style == 3) + rng.uniform(-0.04, 0.04)
    hood = belt - rng.uniform(0.08, 0.2)
    nose = rng.uniform(0.55, 0.65)
    tail = (-1.75, belt - 0.02) if style == 0 else (-1.92, belt)
    body = [(-1.96, 0.28), (-2.0, 0.55), tail, (-1.2, belt), (0.95, belt - 0.02), (1.7, hood)]
    body += [(1.98, nose), (1.93, 0.25)]
    b.loft(
        np.stack(
            [_profile(body, y, s) for y, s in ((-0.83, 0.93), (-0.7, 1), (0.7, 1), (0.83, 0.93))]
        ),
        M.PAINT,
        M.PAINT,
    )
    rear_base, rear_roof = [(-1.45, -0.75), (-1.85, -1.45), (-1.9, -1.7), (-1.9, -1.6)][style]
    front_base, front_roof = rng.uniform(0.85, 1.1), rng.uniform(0.1, 0.35)
    roof = belt + rng.uniform(0.5, 0.6) + 0.12 * (style == 3)
    base = np.array(
        [[rear_base, -0.76], [front_base, -0.74], [front_base, 0.74], [rear_base, 0.76]]
    )
    top = np.array([[rear_roof, -0.56], [front_roof, -0.56], [front_roof, 0.56], [rear_roof, 0.56]])
    sill = base + (top - base) * 0.12  # a painted strip below the windows
    lintel = base + (top - base) * 0.88
    for low, high, f0, f1, material in (
        (base, sill, 0.0, 0.12, M.PAINT),
        (sill, lintel, 0.12, 0.88, M.GLASS),
        (lintel, top, 0.88, 1.0, M.PAINT),
    ):
        zs = [belt - 0.03 + (roof - belt + 0.03) * f for f in (f0, f1)]
        rings = np.stack(
            [np.c_[ring, np.full(4, z)] for ring, z in zip((low, high), zs, strict=True)]
        )
        b.loft(rings, material, M.PAINT)
    _wheels(b, (-1.22, 1.27), 0.82, 0.31)
    for x in (-2.0, 1.97):
        b.box((x - 0.015, -0.26, 0.45), (x + 0.015, 0.26, 0.56), M.REFLECTOR)
        for side in (-1, 1):  # lamps
            b.box(
                (x - 0.03, side * 0.68 - 0.1, 0.62), (x + 0.0, side * 0.68 + 0.1, 0.72), M.REFLECTOR
            )
    for side in (-1, 1):
        b.box((0.55, side * 0.85 - 0.07, belt), (0.68, side * 0.85 + 0.07, belt + 0.13), M.PAINT)
    return b.template()


def _van(rng: Generator) -> Template:
    b = _Builder()
    roof, nose = rng.uniform(1.9, 2.3), rng.uniform(0.9, 1.15)
    body = [(-2.5, 0.3), (-2.52, 1.0), (-2.45, roof - 0.1), (-2.35, roof)]
    body += [(rng.uniform(1.1, 1.4), roof), (1.95, nose + 0.15), (2.45, nose - 0.1), (2.5, 0.35)]
    paint = int(M.PAINT)
    sides = [paint, paint, paint, paint, int(M.GLASS), paint, paint, paint]
    b.loft(
        np.stack(
            [_profile(body, y, s) for y, s in ((-0.95, 0.95), (-0.85, 1), (0.85, 1), (0.95, 0.95))]
        ),
        sides,
        M.PAINT,
    )
    for side in (-0.95, 0.95):
        b.box((0.5, side - 0.005, 1.2), (1.35, side + 0.005, roof - 0.35), M.GLASS)
        if rng.random() < 0.5:
            b.box((-2.2, side - 0.005, 1.2), (0.3, side + 0.005, roof - 0.35), M.GLASS)
    b.box((-2.53, -0.7, 1.25), (-2.51, 0.7, roof - 0.3), M.GLASS)
    b.box((-2.54, -0.26, 0.6), (-2.52, 0.26, 0.7), M.REFLECTOR)
    _wheels(b, (-1.5, 1.6), 0.93, 0.34)
    return b.template()


def _truck(rng: Generator) -> Template:
    b = _Builder()
    length, cab = rng.uniform(6.0, 11.0), rng.uniform(1.7, 2.2)
    half = length / 2
    b.box((half - cab, -1.2, 0.5), (half, 1.2, 1.5), M.PAINT)
    b.box((half - cab, -1.15, 1.5), (half - 0.15, 1.15, 2.4), M.GLASS)
    b.box((half - cab, -1.18, 2.4), (half - 0.1, 1.18, rng.uniform(2.7, 3.0)), M.PAINT)
    b.box((-half, -1.27, 1.0), (half - cab - rng.uniform(0.1, 0.5), 1.27, 3.3), M.METAL)
    b.box((-half, -0.5, 0.65), (half - cab, 0.5, 1.0), M.RUBBER)
    b.box((-half - 0.02, -1.1, 0.75), (-half, 1.1, 0.95), M.REFLECTOR)
    _wheels(b, (half - 1.0, -half + 1.2, -half + 2.3), 1.2, 0.48)
    return b.template()


def _person(b: _Builder, rng: Generator, hip: float, lean: float, cycling: bool) -> None:
    """Legs, torso, arms and head; ``lean``: how far the shoulders are ahead of the hip."""
    stride = 0.12 if cycling else rng.uniform(-0.33, 0.33)
    floor = 0.22 if cycling else 0.0
    for side, step in ((-1, stride), (1, -stride)):
        knee = (step * 0.5 + 0.06 + 0.22 * cycling, side * 0.1, hip * 0.53 + 0.1 * cycling)
        foot = (step + 0.05 * cycling, side * 0.1, floor + side * 0.1 * cycling)
        toe = (foot[0] + 0.02, foot[1], foot[2] + 0.08)
        path = [foot, toe, knee, (0.0, side * 0.09, hip)]
        b.tube(path, [(0.13, 0.05), 0.05, 0.065, 0.095], M.CLOTH, 5)
    shoulder = hip + 0.58 - 0.12 * cycling
    path = [(0, 0, hip - 0.05), (lean * 0.5, 0, hip + 0.25), (lean, 0, shoulder - 0.08)]
    path += [(lean, 0, shoulder), (lean * 1.1, 0, shoulder + 0.06)]
    b.tube(path, [(0.12, 0.17), (0.11, 0.16), (0.13, 0.21), (0.1, 0.19), 0.055], M.CLOTH, 8)
    head = lean * 1.2
    path = [(head, 0, shoulder + z) for z in (0.05, 0.11, 0.2, 0.27, 0.3)]
    b.tube(path, [0.05, 0.085, 0.1, 0.075, 0.02], M.SKIN, 6)
    for side, swing in ((-1, -stride), (1, stride)):
        top = (lean, side * 0.23, shoulder - 0.03)
        if cycling:
            low, hand = (0.3, side * 0.27, shoulder - 0.3), (0.45, side * 0.24, 1.02)
        else:
            low = (lean + swing * 0.3, side * 0.27, shoulder - 0.32)
            hand = (lean + swing * 0.9 + 0.06, side * 0.26, hip - 0.08)
        b.tube([top, low, hand], [0.055, 0.045, 0.035], M.CLOTH, 5)


def _pedestrian(rng: Generator) -> Template:
    b = _Builder()
    _person(b, rng, rng.uniform(0.82, 0.92), rng.uniform(-0.02, 0.08), cycling=False)
    extra = rng.random()
    if extra < 0.25:  # rucksack
        b.box((-0.3, -0.15, 1.0), (-0.1, 0.15, 1.4), M.CLOTH)
    elif extra < 0.4:  # bag in the hand
        b.box((-0.1, 0.24, 0.4), (0.2, 0.34, 0.7), M.CLOTH)
    return b.template()


def _cyclist(rng: Generator) -> Template:
    b = _Builder()
    angle = np.arange(10) * (2 * np.pi / 10)
    circle = np.c_[np.cos(angle), np.zeros(10), np.sin(angle)]
    for x in (-0.53, 0.53):
        for y in (-0.02, 0.02):
            rings = np.stack([circle * 0.34, circle * 0.27]) + [x, y, 0.34]
            b.loft(rings, M.RUBBER)
    rods = [((-0.53, 0, 0.34), (-0.15, 0, 0.85)), ((-0.05, 0, 0.3), (0.4, 0, 0.85))]
    rods += [((-0.53, 0, 0.34), (-0.05, 0, 0.3)), ((0.53, 0, 0.34), (0.4, 0, 1.0))]
    for low, high in rods:
        b.tube([low, high], [0.025, 0.025], M.METAL, 4)
    b.box((-0.25, -0.08, 0.85), (0.02, 0.08, 0.92), M.RUBBER)
    b.box((0.38, -0.28, 0.98), (0.43, 0.28, 1.03), M.METAL)
    _person(b, rng, 0.95, rng.uniform(0.1, 0.35), cycling=True)
    if rng.random() < 0.3:  # basket or child seat
        b.box((-0.75, -0.18, 0.7), (-0.35, 0.18, 1.0), M.CLOTH)
    return b.template()


def _building(rng: Generator) -> Template:
    """Block whose walls are chequered with windows."""
    b = _Builder()
    columns, storeys = 6, 3
    for (x0, y0), (x1, y1) in (
        ((-0.5, -0.5), (0.5, -0.5)),
        ((0.5, -0.5), (0.5, 0.5)),
        ((0.5, 0.5), (-0.5, 0.5)),
        ((-0.5, 0.5), (-0.5, -0.5)),
    ):
        edges = np.linspace(0, 1, 2 * columns + 1)
        heights = np.array([0.0, 0.12, 0.28, 0.45, 0.6, 0.75, 0.9, 1.0])[: 2 * storeys + 2]
        grid = np.array(
            [[[x0 + (x1 - x0) * e, y0 + (y1 - y0) * e, h] for e in edges] for h in heights]
        )
        size, faces, materials = len(edges), [], []
        for row in range(len(heights) - 1):
            if row % 2 == 0:  # one strip of wall
                cells = [(0, size - 1, int(M.FACADE))]
            else:
                kinds = np.where(rng.random(columns) < 0.8, int(M.WINDOW), int(M.FACADE))
                cells = [
                    (c, c + 1, int(kinds[c // 2]) if c % 2 else int(M.FACADE))
                    for c in range(size - 1)
                ]
            for left, right, material in cells:
                a, c = row * size + left, row * size + right
                faces += [[a, c, c + size], [a, c + size, a + size]]
                materials += [material] * 2
        b.add(grid.reshape(-1, 3), np.array(faces), materials)
    b.add(
        np.array([[-0.5, -0.5, 1], [0.5, -0.5, 1], [0.5, 0.5, 1], [-0.5, 0.5, 1.0]]),
        np.array([[0, 1, 2], [0, 2, 3]]),
        [M.FACADE] * 2,
    )
    return b.template()


def _tree(rng: Generator) -> Template:
    b = _Builder()
    crown, lean = rng.uniform(0.3, 0.5), rng.uniform(-0.3, 0.3)
    path = [(0, 0, 0), (lean * 0.3, 0, 2.5), (lean, 0, 5.0)]
    b.tube(path, [0.2, 0.15, 0.08], M.BARK, 6)
    centre = np.array([lean * 0.7, 0, 7 * (0.3 + crown) + 0.4])
    b.leaves(rng, centre, np.array([2.0, 2.0, 7 * (0.7 - crown / 1.5) / 1.4]), 75, 0.55)
    return b.template()


def _bush(rng: Generator) -> Template:
    b = _Builder()
    path = [(0, 0, z) for z in (0.0, 0.35, 0.8, 1.0)]
    b.tube(path, [0.45, 0.6, 0.45, 0.1], M.FOLIAGE, 7)
    b.leaves(rng, np.array([0, 0, 0.6]), np.array([0.75, 0.75, 0.55]), 45, 0.22)
    return b.template()


def _hedge(rng: Generator) -> Template:
    """Uneven slab along x: a chain of sections of varying depth and height."""
    b = _Builder()
    for left in np.linspace(-0.5, 0.4, 10):
        depth, height = rng.uniform(0.35, 0.5), rng.uniform(0.85, 1.0)
        b.box((left, -depth, 0), (left + 0.1, depth, height), M.FOLIAGE)
    return b.template()


def _conifer(rng: Generator) -> Template:
    b = _Builder()
    b.tube([(0, 0, 0), (0, 0, 6)], [0.15, 0.05], M.BARK, 5)
    for z in np.linspace(1.0, 5.6, 7):
        radius = 1.6 * (1 - z / 6.6)
        b.leaves(rng, np.array([0, 0, z]), np.array([radius, radius, 0.4]), 11, 0.45)
    return b.template()


def _wall(rng: Generator) -> Template:
    b = _Builder()
    b.box((-0.5, -0.5, 0), (0.5, 0.5, rng.uniform(0.9, 1.0)), M.FACADE)
    return b.template()


def _fence(rng: Generator) -> Template:
    """Two rails on posts; rays pass between."""
    b = _Builder()
    for x in np.linspace(-0.5, 0.49, int(rng.integers(7, 14))):
        b.box((x, -0.5, 0), (x + 0.01, 0.5, 1), M.METAL)
    for low in (0.35, 0.8):
        b.box((-0.5, -0.3, low), (0.5, 0.3, low + 0.15), M.METAL)
    return b.template()


def _pole(rng: Generator) -> Template:
    b = _Builder()
    b.tube([(0, 0, 0), (0, 0, 1)], [0.5, rng.uniform(0.3, 0.5)], M.METAL, 6)
    return b.template()


def _sign(rng: Generator) -> Template:
    b = _Builder()
    b.tube([(0, 0, 0), (0, 0, 2.5)], [0.035, 0.035], M.METAL, 5)
    size = rng.uniform(0.25, 0.45)
    b.box((-0.03, -size, 2.5 - 2 * size), (-0.025, size, 2.5), M.REFLECTOR)
    return b.template()


def _bin(rng: Generator) -> Template:
    b = _Builder()
    lid = rng.uniform(0.8, 0.95)
    base = np.array([[-0.4, -0.4], [0.4, -0.4], [0.4, 0.4], [-0.4, 0.4]])
    rings = [
        np.c_[base * s, np.full(4, z)] for s, z in ((0.85, 0.05), (1.0, lid), (1.1, lid), (1.0, 1))
    ]
    b.loft(np.stack(rings), M.METAL, M.METAL)
    return b.template()


def _kiosk(rng: Generator) -> Template:
    """Shelter, container or trailer: as large as a car or van, but none."""
    b = _Builder()
    if rng.random() < 0.5:
        b.box((-0.5, -0.5, rng.uniform(0.0, 0.15)), (0.5, 0.5, 1), M.METAL)
    else:
        b.box((-0.5, 0.42, 0), (0.5, 0.5, 0.95), M.GLASS)
        b.box((-0.5, -0.5, 0.93), (0.5, 0.5, 1), M.METAL)
        for x in (-0.5, 0.46):
            b.box((x, -0.4, 0), (x + 0.04, -0.34, 0.93), M.METAL)
        b.box((-0.4, 0.1, 0.15), (0.4, 0.3, 0.2), M.METAL)
    return b.template()


_MAKERS: dict[str, tuple[Callable[[Generator], Template], int]] = {
    'Car': (_car, 32),
    'Van': (_van, 8),
    'Truck': (_truck, 8),
    'Pedestrian': (_pedestrian, 32),
    'Cyclist': (_cyclist, 16),
    'building': (_building, 8),
    'tree': (_tree, 16),
    'conifer': (_conifer, 6),
    'bush': (_bush, 8),
    'hedge': (_hedge, 6),
    'wall': (_wall, 2),
    'fence': (_fence, 4),
    'pole': (_pole, 4),
    'sign': (_sign, 4),
    'bin': (_bin, 4),
    'kiosk': (_kiosk, 6),
}


@lru_cache(maxsize=1)
def templates() -> dict[str, list[Template]]:
    """All variants of every kind, by name; the KITTI classes carry KITTI's names."""
    result = {}
    for number, (name, (maker, variants)) in enumerate(_MAKERS.items()):
        rng = np.random.default_rng([20, number])
        result[name] = [maker(rng) for _ in range(variants)]
    return result
