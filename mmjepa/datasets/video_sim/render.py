"""Generated clips as arrays, rendered in batches on any device."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmjepa.models.masks.counter_rng import counter_bits, counter_uniform

from .motions import MOTIONS, NUM_DRAWS, trajectories
from .textures import tiled_noise

VERSION = 1  # of the pictures: clips of another version differ
RADIUS = (0.14, 0.2)  # of a sprite, in sides of the frame
LOBES = 0.25  # how far its edge leaves the circle, in radii
PATCH = 48  # pixels of a sprite's texture
# streams of random numbers
_KEY, _MOTION, _LOOK, _GROUND, _SPRITE = 0, 1, 2, 10, 20


@dataclass(frozen=True)
class ClipSettings:
    """What the clips depend on.

    Attributes:
        clips: How many.
        classes: Of ``MOTIONS``; clips have them in turn.
        frames: T of each.
        size: Side of the frames in pixels.
        seed: Not negative.
        drift: Longest way that the ground moves during a clip, in sides of the frame, in any
            direction: a camera that pans.
        test_fraction: Share of each class that is listed in ``test.csv``.
        mp4: Files are mp4, not ``.npy``.
        version: Of the pictures.

    Raises:
        ValueError: A value is out of range.
    """

    clips: int
    classes: tuple[str, ...] = tuple(MOTIONS)
    frames: int = 16
    size: int = 64
    seed: int = 0
    drift: float = 0.0
    test_fraction: float = 0.2
    mp4: bool = False
    version: int = VERSION

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in MOTIONS]
        if unknown or len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(
                f'classes must be two or more of {", ".join(MOTIONS)}, got '
                f'{", ".join(self.classes)}'
            )
        low = dict(clips=2 * len(self.classes), frames=4, size=16, seed=0, drift=0.0)
        for name, least in low.items():
            if getattr(self, name) < least:
                raise ValueError(f'{name} must be at least {least}, got {getattr(self, name)}')
        if self.clips > 10**6:
            raise ValueError(f'clips are numbered with six digits: {self.clips} are too many')
        if self.mp4 and self.size % 2:
            raise ValueError(f'mp4 needs an even size, got {self.size}')
        if not 0 < self.test_fraction < 1:
            raise ValueError(f'test_fraction must lie in (0, 1), got {self.test_fraction}')

    def splits(self) -> dict[str, list[int]]:
        """Ascending numbers of the clips in ``train`` and ``test``: at least one of each class."""
        generator = torch.Generator().manual_seed(self.seed)
        test: list[int] = []
        for label in range(len(self.classes)):
            own = torch.arange(label, self.clips, len(self.classes))
            count = min(max(round(self.test_fraction * len(own)), 1), len(own) - 1)
            test += own[torch.randperm(len(own), generator=generator)[:count]].tolist()
        return {'train': sorted(set(range(self.clips)) - set(test)), 'test': sorted(test)}


def labels_of(settings: ClipSettings, numbers: Tensor) -> Tensor:
    """Classes of clips.

    Args:
        settings: Of the clips.
        numbers: (B,) int64.
    """
    return numbers % len(settings.classes)


def _ground(settings: ClipSettings, keys: Tensor, look: Tensor) -> Tensor:
    """(B, T, S * S, 3) uint8."""
    shift = None
    if settings.drift:
        share = torch.linspace(0, 1, settings.frames, device=keys.device)
        angle = 2 * torch.pi * look[:, 7:8]
        way = settings.drift * look[:, 6:7] * share
        shift = torch.stack([way * angle.cos(), way * angle.sin()], -1)
    noise = tiled_noise(keys, settings.size, (4, 8, 16), _GROUND, shift)
    colours = (0.2 + 0.6 * look[:, None, :3, None, None] + 0.4 * noise).clamp(0, 1)
    pixels = (255 * colours).round().to(torch.uint8).flatten(3).transpose(2, 3)
    return pixels.repeat(1, settings.frames // pixels.shape[1], 1, 1)


def _window(places: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The square around a sprite, W pixels a side.

    Returns:
        (B, T, W, W, 2) x and y of its pixels from the sprite's middle, in sides of the frame, and
        (B, T, W * W) their numbers in the frame, whose opposite edges meet.
    """
    width = 2 * math.ceil(size * RADIUS[1] * (1 + LOBES)) + 2
    first = (places * size - width / 2).floor().long()
    pixels = first[..., None] + torch.arange(width, device=places.device)  # (B, T, 2, W)
    away = (pixels + 0.5) / size - places[..., None]
    x, y = torch.broadcast_tensors(away[..., 0, None, :], away[..., 1, :, None])
    columns, rows = (pixels % size).unbind(2)
    return torch.stack([x, y], -1), (rows[..., None] * size + columns[..., None, :]).flatten(2)


def _sprite(keys: Tensor, look: Tensor, away: Tensor, angles: Tensor, size: int) -> tuple:
    """Colours (B, T, W * W, 3) in [0, 1] and cover (B, T, W * W, 1) of the sprites."""
    x, y = away.unbind(-1)
    cos, sin = angles.cos()[..., None, None], angles.sin()[..., None, None]
    x, y = cos * x + sin * y, cos * y - sin * x  # the sprite's own axes
    radius = (RADIUS[0] + (RADIUS[1] - RADIUS[0]) * look[:, 3])[:, None, None, None]
    lobes = (2 + (4 * look[:, 4]).floor())[:, None, None, None]
    phase = 2 * torch.pi * look[:, 5, None, None, None]
    edge = radius * (1 + LOBES * torch.cos(lobes * torch.atan2(y, x) + phase))
    cover = ((edge - (x * x + y * y).sqrt()) * size + 0.5).clamp(0, 1)
    grid = torch.stack([x, y], -1) / (radius * (1 + LOBES))[..., None]
    noise = tiled_noise(keys, PATCH, (3, 6), _SPRITE)[:, 0]
    found = F.grid_sample(
        noise, grid.flatten(1, 2), 'bilinear', padding_mode='border', align_corners=False
    )
    found = found.unflatten(2, x.shape[1:3]).permute(0, 2, 3, 4, 1).flatten(2, 3)
    # far from the ground's colour in every channel
    base = 0.2 + 0.6 * ((look[:, None, None, :3] + 0.5) % 1)
    return (base + 0.5 * found).clamp(0, 1), cover.flatten(2)[..., None]


@torch.no_grad()
def render_clips(
    settings: ClipSettings, numbers: Tensor, device: torch.device | str = 'cpu'
) -> tuple[Tensor, Tensor]:
    """Clips of the given numbers.

    Args:
        settings: Of the clips.
        numbers: (B,) int64.
        device: Where they are made.

    Returns:
        Clips (B, T, S, S, 3) uint8 and classes (B,) int64, on the device.
    """
    numbers = numbers.to(device)
    seed = torch.tensor(settings.seed, device=device)
    keys = counter_bits(seed, numbers, _KEY)
    labels = labels_of(settings, numbers)

    def draws(count: int, stream: int) -> Tensor:
        return counter_uniform(keys[:, None], torch.arange(count, device=device), stream)

    look = draws(8, _LOOK)
    places, angles = trajectories(
        settings.classes, labels, draws(NUM_DRAWS, _MOTION), settings.frames
    )
    away, pixels = _window(places, settings.size)
    colours, cover = _sprite(keys, look, away, angles, settings.size)
    clips = _ground(settings, keys, look)
    pixels = pixels[..., None].expand(-1, -1, -1, 3)
    under = clips.gather(2, pixels).float()
    seen = torch.lerp(under, 255 * colours, cover).round().to(torch.uint8)
    clips.scatter_(2, pixels, seen)
    return clips.unflatten(2, (settings.size, settings.size)), labels
