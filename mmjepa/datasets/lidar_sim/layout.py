"""Where things stand in a simulated street: traffic, people, street furniture, buildings, trees."""

import numpy as np
from numpy.random import Generator

from .scene import STYLES, Scene, SceneBuilder, Style, random_road

FRONT_SHARE = 0.78  # of the people and moving vehicles stand where the camera looks


def random_scene(rng: Generator, style: str | None = None) -> Scene:
    """Draws a traffic scene.

    Args:
        rng: the only source of randomness.
        style: a key of ``STYLES``; drawn by the styles' weights when None.

    Returns:
        The scene in the LiDAR frame.
    """
    names = list(STYLES)
    weights = np.array([STYLES[name].weight for name in names])
    drawn = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    name = drawn if style is None else style
    kind = STYLES[name]
    builder = SceneBuilder(rng, name, random_road(rng, kind))
    builder.add_ground(kind.verge)
    # the labelled objects first: clutter fills what is left
    _traffic(builder, kind)
    _parked(builder, kind)
    _cyclists(builder, kind)
    _pedestrians(builder, kind)
    _street_furniture(builder, kind)
    _frontage(builder, kind)
    _greenery(builder, kind)
    return builder.build()


def _vehicle(rng: Generator, truck_share: float = 0.05) -> str:
    draw = rng.random()
    return 'Truck' if draw < truck_share else 'Van' if draw < truck_share + 0.1 else 'Car'


def _ahead(rng: Generator, near: float, far: float) -> float:
    """Distance along the road; mostly in front, denser close by."""
    s = near + (far - near) * rng.random() ** 1.5
    return s if rng.random() < FRONT_SHARE else -s


def _traffic(builder: SceneBuilder, kind: Style) -> None:
    """Moving vehicles in both lanes and, at times, across."""
    rng, half = builder.rng, builder.road.half
    for _ in range(int(rng.integers(kind.traffic[0], kind.traffic[1] + 1))):
        name = _vehicle(rng, 0.1)
        direction = 1 if rng.random() < 0.5 else -1  # 1: ours, on the right
        s = _ahead(rng, 7.0, 75.0)
        turn = (0.0 if direction > 0 else np.pi) + rng.normal(0, 0.05)
        if name != 'Truck' and rng.random() < 0.15:  # turning or crossing
            turn = rng.uniform(-np.pi, np.pi)
        builder.place(name, s, -direction * half * rng.uniform(0.35, 0.6), turn, margin=0.4)


def _parked(builder: SceneBuilder, kind: Style) -> None:
    """Rows of parked vehicles along the kerbs, parallel or in bays."""
    rng, half = builder.rng, builder.road.half
    for side in (-1, 1):
        share = rng.uniform(*kind.parked)
        bays = rng.random() < 0.15
        step = 3.0 if bays else 5.4
        for s in np.arange(-40.0, 68.0, step):
            if rng.random() > share:
                continue
            name = _vehicle(rng, 0.02)
            size = builder.draw_size(name)
            if bays and name == 'Truck':
                continue
            turn = (0.0 if side < 0 else np.pi) + np.pi * (rng.random() < 0.15)
            turn += rng.normal(0, 0.03) + (side * np.pi / 2 if bays else 0.0)
            inset = -size[0] / 2 if bays else size[1] / 2 + rng.uniform(0.0, 0.3)
            offset = rng.uniform(-0.3, 0.3) * (not bays)
            builder.place(name, s + offset, side * (half - inset), turn, size, 0.1)


def _cyclists(builder: SceneBuilder, kind: Style) -> None:
    rng, half = builder.rng, builder.road.half
    for _ in range(int(rng.integers(kind.cyclists[0], kind.cyclists[1] + 1))):
        side = 1 if rng.random() < 0.5 else -1
        lateral = side * (half + rng.choice([-2.2, -1.0, 0.8, 1.5]) + rng.normal(0, 0.3))
        turn = (0.0 if side < 0 else np.pi) + rng.normal(0, 0.12)
        if rng.random() < 0.2:
            turn = rng.uniform(-np.pi, np.pi)
        for _ in range(3):
            if builder.place('Cyclist', _ahead(rng, 5.0, 48.0), lateral, turn, margin=0.2):
                break


def _pedestrians(builder: SceneBuilder, kind: Style) -> None:
    """Alone or in twos and threes, on the sidewalk, some on the road."""
    rng, road = builder.rng, builder.road
    left = int(rng.integers(kind.pedestrians[0], kind.pedestrians[1] + 1))
    while left > 0:
        group = min(left, int(rng.choice([1, 1, 1, 2, 2, 3])))
        left -= group
        side = 1 if rng.random() < 0.5 else -1
        s = _ahead(rng, 4.0, 45.0)
        crossing = rng.random() < 0.2
        lateral = side * (road.half + rng.uniform(0.3, road.sidewalk + 1.0))
        turn = rng.choice([0.0, np.pi])
        if crossing:
            lateral, turn = rng.uniform(-road.half, road.half), side * np.pi / 2
        for _ in range(group):
            ds, dl = rng.uniform(-0.9, 0.9, 2)
            builder.place(
                'Pedestrian', s + ds, lateral + dl, turn + rng.normal(0, 0.3), margin=0.05
            )


def _street_furniture(builder: SceneBuilder, kind: Style) -> None:
    """Poles, signs, bins and shelters: the size of people and cars, but none."""
    rng, road = builder.rng, builder.road
    for side in (-1, 1):
        lateral = side * (road.half + 0.5)
        start, gap = rng.uniform(-40, -30), rng.uniform(12, 30)
        tall, thick = rng.uniform(4.0, 8.0), rng.uniform(0.12, 0.25)
        for s in np.arange(start, 75, gap):
            builder.place('pole', s, lateral, size=(thick, thick, tall), margin=0.05)
        for _ in range(int(rng.integers(2, 7))):
            s, out = rng.uniform(-35, 60), rng.uniform(0.3, road.sidewalk + 0.8)
            name = rng.choice(['sign', 'bin', 'pole', 'bush'], p=[0.35, 0.25, 0.25, 0.15])
            size = None
            if name == 'pole':  # bollards and posts
                size = (rng.uniform(0.1, 0.45), rng.uniform(0.1, 0.45), rng.uniform(0.8, 2.2))
            turn = rng.choice([0.0, np.pi]) + rng.normal(0, 0.2)
            builder.place(str(name), s, side * (road.half + out), turn, size, margin=0.05)
        for _ in range(int(rng.integers(0, 3))):
            s, out = rng.uniform(-35, 55), road.sidewalk + rng.uniform(1.0, 3.0)
            builder.place('kiosk', s, side * (road.half + out), rng.normal(0, 0.1), margin=0.2)


def _frontage(builder: SceneBuilder, kind: Style) -> None:
    """Houses behind the sidewalk; walls, hedges and fences where they leave gaps."""
    rng, road = builder.rng, builder.road
    for side in (-1, 1):
        line = road.half + road.sidewalk + rng.uniform(*kind.setback)
        s = -82.0 + rng.uniform(0, 8)
        while s < 82.0:
            width = rng.uniform(8, 26)
            if rng.random() < kind.buildings:
                depth, height = rng.uniform(8, 14), rng.uniform(5, 14)
                lateral = side * (line + depth / 2 + rng.uniform(0, 1.5))
                size = (width, depth, height)
                builder.place('building', s + width / 2, lateral, size=size, claim=False)
                builder.claim_footprint(s + width / 2, lateral, size)
            s += width + (rng.uniform(0, 1) if rng.random() < 0.6 else rng.uniform(2, 7))
        if kind.setback[1] > 2.5:
            _boundaries(builder, side, road.half + road.sidewalk + 0.4)
        # whatever closes the view between the houses: a far row of blocks
        for far in np.arange(-80, 80, 22.0):
            if rng.random() < 0.6:
                lateral = side * rng.uniform(40, 60)
                size = (rng.uniform(12, 30), rng.uniform(8, 14), rng.uniform(5, 12))
                builder.place('building', far, lateral, rng.normal(0, 0.3), size, claim=False)


def _boundaries(builder: SceneBuilder, side: int, line: float) -> None:
    """Garden walls, hedges and fences in pieces along the sidewalk."""
    rng = builder.rng
    s = -60.0
    while s < 70.0:
        length = rng.uniform(4, 14)
        if rng.random() < 0.6:
            name = str(rng.choice(['wall', 'hedge', 'fence'], p=[0.35, 0.4, 0.25]))
            depth = rng.uniform(0.6, 1.2) if name == 'hedge' else rng.uniform(0.1, 0.3)
            height = rng.uniform(0.7, 1.9)
            middle = side * (line + depth / 2)
            builder.place(name, s + length / 2, middle, size=(length, depth, height), margin=0.0)
        s += length + (0.0 if rng.random() < 0.5 else rng.uniform(1, 5))


def _greenery(builder: SceneBuilder, kind: Style) -> None:
    """Street trees in rows, bushes and a loose wood behind."""
    rng, road = builder.rng, builder.road
    for side in (-1, 1):
        if rng.random() < 0.5 * kind.greenery:
            lateral = side * (road.half + min(road.sidewalk, 1.5) + 0.3)
            for s in np.arange(-45 + rng.uniform(0, 6), 75, rng.uniform(8, 16)):
                if rng.random() < 0.8:
                    size = builder.draw_size('tree') * [0.8, 0.8, 0.9]
                    s_tree = s + rng.normal(0, 0.5)
                    if builder.claim_footprint(s_tree, lateral, (0.5, 0.5, 1.0)):
                        turn = rng.uniform(-np.pi, np.pi)
                        builder.place('tree', s_tree, lateral, turn, size, claim=False)
        for _ in range(int(rng.poisson(12 * kind.greenery))):
            s, out = rng.uniform(-60, 78), road.sidewalk + rng.uniform(1.0, 38.0)
            name = str(rng.choice(['tree', 'conifer', 'bush'], p=[0.5, 0.15, 0.35]))
            turn = rng.uniform(-np.pi, np.pi)
            builder.place(name, s, side * (road.half + out), turn, margin=0.0)
