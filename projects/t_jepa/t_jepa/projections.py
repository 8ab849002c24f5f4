"""From the tokens of a frozen encoder to a number each; trained together with the network behind.

T-JEPA, arXiv 2410.05016: a table network expects a row of numbers, the encoder gives vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LinearFlatten(nn.Module):
    """One linear map of all tokens.

    Args:
        tokens: T.
        channels: H.
    """

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(tokens * channels, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H) to (B, T)."""
        return self.linear(tokens.flatten(1))


class LinearPerFeature(nn.Module):
    """A linear map of its own for every token; arguments of :class:`LinearFlatten`."""

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        bound = channels**-0.5  # as nn.Linear(channels, 1)
        self.weight = nn.Parameter(torch.empty(tokens, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(tokens).uniform_(-bound, bound))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H) to (B, T)."""
        return torch.einsum('bth,th->bt', tokens, self.weight) + self.bias


class Pool(nn.Module):
    """Largest or mean channel of each token; nothing is learned."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H) to (B, T)."""
        return tokens.amax(2) if self.kind == 'max' else tokens.mean(2)


def picture_size(tokens: int, channels: int) -> tuple[int, int]:
    """What two unpadded 3 x 3 convolutions, each halved by a max-pool, leave of (T, H)."""
    return tuple(((size - 2) // 2 - 2) // 2 for size in (tokens, channels))  # type: ignore


class Convolution(nn.Module):
    """The tokens as a grey picture: two convolutions, then one linear map.

    Args:
        tokens: T.
        channels: H.

    Raises:
        ValueError: the picture is too small for it.
    """

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        if not fits_convolution(tokens, channels):
            raise ValueError(
                f'projection conv: nothing is left of {tokens} tokens x {channels} channels after '
                'two convolutions, 10 x 10 is the least; take linear_flatten'
            )
        height, width = picture_size(tokens, channels)
        layers: list[nn.Module] = []
        for before, after in ((1, 3), (3, 1)):
            layers += [nn.Conv2d(before, after, 3), nn.ReLU(), nn.BatchNorm2d(after)]
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(height * width, tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H) to (B, T)."""
        return self.layers(tokens[:, None])


def fits_convolution(tokens: int, channels: int) -> bool:
    """Whether :class:`Convolution` has a pixel left."""
    return min(picture_size(tokens, channels)) >= 1


PROJECTIONS: dict[str, Callable[[int, int], nn.Module]] = {
    'linear_flatten': LinearFlatten,
    'linear_per_feature': LinearPerFeature,
    'conv': Convolution,
    'max_pool': lambda tokens, channels: Pool('max'),
    'mean_pool': lambda tokens, channels: Pool('mean'),
}


def resolve_projection(kind: str, tokens: int, channels: int) -> str:
    """The projection that is used: the reference falls back to ``linear_flatten`` from ``conv``.

    Raises:
        ValueError: no such projection.
    """
    if kind not in PROJECTIONS:
        raise ValueError(f'no projection {kind!r}; there are {", ".join(PROJECTIONS)}')
    if kind == 'conv' and not fits_convolution(tokens, channels):
        return 'linear_flatten'
    return kind
