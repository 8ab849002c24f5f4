"""Surface materials of the simulated scenes.

One row a material. Reflectivities of different classes overlap on purpose: an encoder has to read
shapes, not a single intensity. Real cars are dark to the sensor (median intensity 0 in most real
KITTI cars), apart from plates and lamps.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Material(IntEnum):
    """Index into the tables of this module."""

    ASPHALT = 0
    PAVING = 1
    GRASS = 2
    PAINT = 3
    GLASS = 4
    RUBBER = 5
    CLOTH = 6
    SKIN = 7
    METAL = 8
    FOLIAGE = 9
    BARK = 10
    FACADE = 11
    WINDOW = 12
    REFLECTOR = 13


class _Row(NamedTuple):
    albedo: float  # diffuse reflectivity; 1 for tinted materials, whose value the instance brings
    tinted: bool
    spread: float  # relative standard deviation of the reflectivity from point to point
    roughness: float  # m, standard deviation of the range on top of the sensor's noise
    dropout: float  # share of the echoes lost whatever the range
    colour: tuple[int, int, int]  # RGB, for the rendered image


_TABLE = {
    Material.ASPHALT: _Row(0.30, True, 0.12, 0.003, 0.0, (96, 96, 98)),
    Material.PAVING: _Row(0.36, True, 0.12, 0.004, 0.0, (146, 140, 132)),
    Material.GRASS: _Row(0.42, True, 0.30, 0.030, 0.0, (88, 124, 60)),
    Material.PAINT: _Row(1.0, True, 0.35, 0.0, 0.07, (255, 255, 255)),
    Material.GLASS: _Row(0.03, False, 0.50, 0.02, 0.65, (48, 58, 70)),
    Material.RUBBER: _Row(0.06, False, 0.40, 0.0, 0.10, (24, 24, 26)),
    Material.CLOTH: _Row(1.0, True, 0.30, 0.008, 0.02, (255, 255, 255)),
    Material.SKIN: _Row(0.45, False, 0.20, 0.0, 0.02, (214, 170, 140)),
    Material.METAL: _Row(1.0, True, 0.35, 0.0, 0.04, (180, 180, 184)),
    Material.FOLIAGE: _Row(0.40, True, 0.40, 0.040, 0.05, (52, 100, 44)),
    Material.BARK: _Row(0.32, True, 0.30, 0.010, 0.0, (94, 74, 54)),
    Material.FACADE: _Row(1.0, True, 0.20, 0.006, 0.0, (200, 186, 164)),
    Material.WINDOW: _Row(0.10, False, 0.60, 0.05, 0.50, (70, 86, 104)),
    Material.REFLECTOR: _Row(1.6, False, 0.25, 0.0, 0.0, (240, 236, 200)),
}
_ROWS = [_TABLE[material] for material in Material]

ALBEDO: NDArray[np.float64] = np.array([row.albedo for row in _ROWS])
TINTED: NDArray[np.bool_] = np.array([row.tinted for row in _ROWS])
SPREAD: NDArray[np.float64] = np.array([row.spread for row in _ROWS])
ROUGHNESS: NDArray[np.float64] = np.array([row.roughness for row in _ROWS])
DROPOUT: NDArray[np.float64] = np.array([row.dropout for row in _ROWS])
COLOUR: NDArray[np.float64] = np.array([row.colour for row in _ROWS], dtype=np.float64)
