"""The motions that are the classes of generated clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# (share of the clip that has passed (T,), a random number a clip (B, 1)) -> share of the way
Profile = Callable[[Tensor, Tensor], Tensor]

STEADY_WAY = (0.3, 0.5)
SHORT_WAY = (0.2, 0.35)
TURN = (0.4, 0.8)
SHORT_TURN = (0.25, 0.5)


def _steady(tau: Tensor, draw: Tensor) -> Tensor:
    return tau


def _speeding_up(tau: Tensor, draw: Tensor) -> Tensor:
    return tau**2


def _slowing_down(tau: Tensor, draw: Tensor) -> Tensor:
    return 1 - (1 - tau) ** 2


def _first_half(tau: Tensor, draw: Tensor) -> Tensor:
    return (2 * tau).clamp(max=1)


def _second_half(tau: Tensor, draw: Tensor) -> Tensor:
    return (2 * tau - 1).clamp(min=0)


def _there_and_back(tau: Tensor, draw: Tensor) -> Tensor:
    turning = 0.4 + 0.2 * draw
    return torch.minimum(tau / turning, (1 - tau) / (1 - turning))


@dataclass(frozen=True)
class Motion:
    """What a sprite does during a clip.

    Attributes:
        about: In words.
        travel: How its way is spread over time; None: it stays.
        direction: (x, y) of the way, y down; None: right, down, left or up by chance.
        way: Shortest and longest way, in sides of the frame.
        turning: How its rotation is spread over time; None: it doesn't turn.
        spin: 1 clockwise as seen, -1 the other way, 0 either by chance.
        turns: Least and most of a turn.
    """

    about: str
    travel: Profile | None = None
    direction: tuple[int, int] | None = None
    way: tuple[float, float] = STEADY_WAY
    turning: Profile | None = None
    spin: int = 0
    turns: tuple[float, float] = TURN


# five pairs, each the other played backwards, and two that are their own
MOTIONS: dict[str, Motion] = {
    'left': Motion('moves left', _steady, (-1, 0)),
    'right': Motion('moves right', _steady, (1, 0)),
    'up': Motion('moves up', _steady, (0, -1)),
    'down': Motion('moves down', _steady, (0, 1)),
    'clockwise': Motion('turns clockwise in its place', turning=_steady, spin=1),
    'counterclockwise': Motion('turns counterclockwise in its place', turning=_steady, spin=-1),
    'speeding_up': Motion('moves faster and faster, any way', _speeding_up),
    'slowing_down': Motion('moves slower and slower, any way', _slowing_down),
    'move_then_turn': Motion(
        'moves any way, then turns', _first_half, None, SHORT_WAY, _second_half, 0, SHORT_TURN
    ),
    'turn_then_move': Motion(
        'turns, then moves any way', _second_half, None, SHORT_WAY, _first_half, 0, SHORT_TURN
    ),
    'bounce': Motion('moves any way and bounces back', _there_and_back, None, SHORT_WAY),
    'fast': Motion('moves fast, any way', _steady, None, (0.8, 1.2)),
}
NUM_DRAWS = 8


def trajectories(
    names: Sequence[str], labels: Tensor, draws: Tensor, frames: int
) -> tuple[Tensor, Tensor]:
    """Places and angles of sprites over time.

    Where a sprite starts and how it lies are uniform (over the whole frame, whose opposite edges
    meet, and over the circle), so any single frame is equally likely under every motion.

    Args:
        names: Of ``MOTIONS``, the classes.
        labels: (B,) int64 into ``names``.
        draws: (B, ``NUM_DRAWS``) uniform in [0, 1).
        frames: T, at least 2.

    Returns:
        Places (B, T, 2), x and y in sides of the frame, in [0, 1); angles (B, T), clockwise
        radians.
    """
    tau = torch.linspace(0, 1, frames, device=draws.device)
    axes = torch.tensor([(1, 0), (0, 1), (-1, 0), (0, -1)], device=draws.device)
    shift = draws.new_zeros(len(draws), frames, 2)
    turned = draws.new_zeros(len(draws), frames)
    for number, motion in enumerate(MOTIONS[name] for name in names):
        rows = (labels == number).nonzero()[:, 0]
        axis, way, spin, turns, chance = draws[rows, 3:].unbind(1)
        if motion.travel is not None:
            step = axes[(4 * axis).long()] if motion.direction is None else axes.new_tensor(
                motion.direction
            )  # fmt: skip
            low, high = motion.way
            length = (low + (high - low) * way)[:, None] * motion.travel(tau, chance[:, None])
            shift[rows] = length[..., None] * step.view(-1, 1, 2)
        if motion.turning is not None:
            sign = motion.spin or 2 * (spin < 0.5).float() - 1
            low, high = motion.turns
            angle = sign * (low + (high - low) * turns)
            turned[rows] = 2 * torch.pi * angle[:, None] * motion.turning(tau, chance[:, None])
    return (draws[:, None, :2] + shift) % 1, 2 * torch.pi * draws[:, 2:3] + turned
