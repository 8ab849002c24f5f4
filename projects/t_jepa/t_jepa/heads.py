"""Networks on tables: MLP, ResNet, FT-Transformer of ``rtdl_revisiting_models``; DCNv2, AutoInt.

They take raw columns, or the scalars that a projection makes of an encoder's tokens. Sizes are the
same for all arms; ``small`` is meant for a CPU, ``paper`` is about what the authors tuned.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .projections import PROJECTIONS

NETS = ('mlp', 'resnet', 'dcnv2', 'autoint', 'ft_transformer')
TOKENISED = ('autoint', 'ft_transformer')  # embed categories, others get them one-hot


@dataclass(frozen=True)
class HeadSize:
    """Architecture and optimisation of a network; equal in all arms."""

    lr: float
    arch: dict[str, Any] = field(default_factory=dict)
    weight_decay: float = 1e-5


SIZES: dict[str, dict[str, HeadSize]] = {
    'small': {
        'mlp': HeadSize(1e-3, dict(n_blocks=3, d_block=128, dropout=0.1)),
        'resnet': HeadSize(
            1e-3,
            dict(n_blocks=2, d_block=128, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.0),
        ),
        'dcnv2': HeadSize(1e-3, dict(width=128, cross=2, deep=2, dropout=0.1)),
        'autoint': HeadSize(1e-3, dict(width=32, depth=2, heads=2, dropout=0.1)),
        'ft_transformer': HeadSize(
            1e-3,
            dict(
                n_blocks=2,
                d_block=32,
                attention_n_heads=4,
                attention_dropout=0.1,
                ffn_d_hidden_multiplier=4 / 3,
                ffn_dropout=0.1,
                residual_dropout=0.0,
            ),
        ),
    },
    'paper': {
        'mlp': HeadSize(1e-4, dict(n_blocks=8, d_block=256, dropout=0.2)),
        'resnet': HeadSize(
            5e-4,
            dict(n_blocks=5, d_block=440, d_hidden_multiplier=4.0, dropout1=0.2, dropout2=0.0),
        ),
        'dcnv2': HeadSize(5e-4, dict(width=512, cross=3, deep=4, dropout=0.1)),
        'autoint': HeadSize(5e-4, dict(width=200, depth=3, heads=2, dropout=0.1)),
        'ft_transformer': HeadSize(
            1e-4,
            dict(
                n_blocks=8,
                d_block=128,
                attention_n_heads=8,
                attention_dropout=0.2,
                ffn_d_hidden_multiplier=4 / 3,
                ffn_dropout=0.1,
                residual_dropout=0.0,
            ),
        ),
    },
}


@dataclass(frozen=True)
class Columns:
    """What a network reads.

    Args:
        numeric: columns of numbers, the first ones.
        cardinalities: of the categorical columns that follow, the code 0 of unknown included.
    """

    numeric: int
    cardinalities: tuple[int, ...] = ()


class FeatureEmbedding(nn.Module):
    """A vector for each column: the number times a weight, or that of the category.

    Args:
        columns: what is embedded.
        width: of a vector.
    """

    offsets: Tensor

    def __init__(self, columns: Columns, width: int):
        super().__init__()
        self.numeric = columns.numeric
        self.weight = nn.Parameter(torch.empty(columns.numeric, width))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)
        # one table for all columns; each begins where the one before ends
        sizes = torch.tensor((0, *columns.cardinalities))
        self.register_buffer('offsets', sizes.cumsum(0)[:-1], persistent=False)
        self.categories = nn.Embedding(int(sizes.sum()), width) if columns.cardinalities else None
        if self.categories is not None:
            nn.init.uniform_(self.categories.weight, -(width**-0.5), width**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) to (B, D, width)."""
        tokens = rows[:, : self.numeric, None] * self.weight
        if self.categories is None:
            return tokens
        codes = rows[:, self.numeric :].long() + self.offsets
        return torch.cat([tokens, self.categories(codes)], 1)


class DCNv2(nn.Module):
    """Cross layers beside deep ones, arXiv 2008.13535.

    Args:
        d_in: numbers of a row.
        d_out: outputs.
        width: of all layers.
        cross: layers ``x0 * linear(x) + x``.
        deep: layers of the network beside them.
        dropout: after each layer.
    """

    def __init__(
        self, d_in: int, d_out: int, width: int, cross: int, deep: int, dropout: float = 0.0
    ):
        super().__init__()
        self.first = nn.Linear(d_in, width)
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(cross))
        self.dropout = nn.Dropout(dropout)
        deeper = [
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
            for _ in range(deep)
        ]
        self.deep = nn.Sequential(*deeper)
        self.last = nn.Sequential(nn.Linear(2 * width, width), nn.Linear(width, d_out))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, d_in) to (B, d_out)."""
        first = crossed = self.first(rows)
        for layer in self.cross:
            crossed = self.dropout(first * layer(crossed)) + crossed
        return self.last(torch.cat([crossed, self.deep(first)], 1))


class InteractingLayer(nn.Module):
    """Attention between columns with a linear way past it, arXiv 1810.11921."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f'autoint: width {width} is no multiple of {heads} heads')
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.past = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D, width) to the same."""
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return F.relu(self.norm(mixed.transpose(1, 2).flatten(2) + self.past(tokens)))


class AutoInt(nn.Module):
    """Layers of attention between columns, arXiv 1810.11921.

    Args:
        columns: what it reads.
        d_out: outputs.
        width: of a column's vector.
        depth: layers.
        heads: of attention.
        dropout: of attention.
    """

    def __init__(
        self,
        columns: Columns,
        d_out: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        count = columns.numeric + len(columns.cardinalities)
        self.embedding = FeatureEmbedding(columns, width)
        layers = [InteractingLayer(width, heads, dropout) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Sequential(nn.Linear(count * width, width), nn.Linear(width, d_out))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) to (B, d_out)."""
        return self.last(self.layers(self.embedding(rows)).flatten(1))


class FTTransformer(nn.Module):
    """``rtdl_revisiting_models.FTTransformer`` on rows of numbers and codes; other arguments its.

    Args:
        columns: what it reads.
        d_out: outputs.
    """

    def __init__(self, columns: Columns, d_out: int, **arch: Any):
        super().__init__()
        self.columns = columns
        self.net = rtdl().FTTransformer(
            n_cont_features=columns.numeric,
            cat_cardinalities=list(columns.cardinalities),
            d_out=d_out,
            **arch,
        )

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) to (B, d_out)."""
        numbers, codes = rows.split([self.columns.numeric, len(self.columns.cardinalities)], 1)
        return self.net(
            numbers if numbers.shape[1] else None, codes.long() if codes.shape[1] else None
        )


def rtdl() -> Any:
    """The package ``rtdl_revisiting_models``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import rtdl_revisiting_models
    except ImportError as error:
        raise ImportError(
            'mlp, resnet and ft_transformer come from rtdl_revisiting_models: '
            'pip install --no-deps rtdl_revisiting_models'
        ) from error
    return rtdl_revisiting_models


def one_hot(rows: Tensor, columns: Columns) -> Tensor:
    """(N, D) to (N, numeric + sum of known categories): an unknown one is all zeros."""
    parts = [rows[:, : columns.numeric]]
    for index, count in enumerate(columns.cardinalities, columns.numeric):
        parts.append(F.one_hot(rows[:, index].long(), count)[:, 1:].to(rows.dtype))
    return torch.cat(parts, 1)


def build_net(name: str, columns: Columns, d_out: int, size: HeadSize) -> nn.Module:
    """A network on rows (B, D), or (B, d_in) where ``columns`` has no categories.

    Raises:
        ValueError: an unknown name, or categories for a network that takes numbers.
        ImportError: see :func:`rtdl`.
    """
    if name not in NETS:
        raise ValueError(f'no network {name!r}; there are {", ".join(NETS)}')
    if columns.cardinalities and name not in TOKENISED:
        raise ValueError(f'{name} takes numbers: one_hot() first')
    if name == 'ft_transformer':
        return FTTransformer(columns, d_out, **size.arch)
    if name == 'autoint':
        return AutoInt(columns, d_out, **size.arch)
    if name == 'dcnv2':
        return DCNv2(columns.numeric, d_out, **size.arch)
    return {'mlp': rtdl().MLP, 'resnet': rtdl().ResNet}[name](
        d_in=columns.numeric, d_out=d_out, **size.arch
    )


def build_head(
    name: str, projection: str, shape: tuple[int, int], d_out: int, size: HeadSize
) -> nn.Module:
    """A projection and a network behind it, on tokens (B, *shape); raises what both do."""
    if projection not in PROJECTIONS:
        raise ValueError(f'no projection {projection!r}; there are {", ".join(PROJECTIONS)}')
    net = build_net(name, Columns(shape[0]), d_out, size)
    return nn.Sequential(PROJECTIONS[projection](*shape), net)


def sizes_of(name: str, size: str) -> HeadSize:
    """Settings of a network.

    Raises:
        ValueError: no such set of sizes.
    """
    if size not in SIZES:
        raise ValueError(f'--head-size {size}: there are {", ".join(SIZES)}')
    return SIZES[size][name]
