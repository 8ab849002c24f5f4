"""Rows of a table -> one token a feature."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.registry import MODELS


def sincos_table(length: int, dim: int, base: float, interleaved: bool) -> Tensor:
    """Fixed sine-cosine positions: angle(p, i) = p / base^(2i / dim).

    Args:
        length: number of positions, from 0.
        dim: even number of channels.
        base: of the wave lengths.
        interleaved: channels sin 0, cos 0, sin 1, ...; else all sines, then all cosines.

    Returns:
        (length, dim) float32, computed in float64.

    Raises:
        ValueError: an odd ``dim``.
    """
    if dim % 2:
        raise ValueError(f'sine-cosine positions need an even number of channels, got {dim}')
    waves = base ** (-2 * torch.arange(dim // 2, dtype=torch.float64) / dim)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * waves
    parts = angles.sin(), angles.cos()
    return (torch.stack(parts, 2).flatten(1) if interleaved else torch.cat(parts, 1)).float()


@MODELS.register_module()
class FeatureTokenizer(nn.Module):
    """[REG] tokens, numeric features, then categorical features (T-JEPA, arXiv 2410.05016).

    A numeric feature is ``x_j * weight[R + j] + bias[j]``, a categorical one the embedding of its
    code plus ``bias``, a [REG] token a row of ``weight``; then fixed positions (interleaved sines
    and cosines of base 100, [REG] first) are added.

    Codes are those of ``TableTransform``: 0 is the unknown category. Others out of range are
    refused on the host; on a device, where looking would cost a wait, they count as unknown. All
    embedding tables are one parameter.

    Args:
        num_numeric: columns that come first.
        cardinalities: codes of each categorical column, the unknown one included.
        channels: H, even.
        num_reg: R.
        feature_index_embedding: adds a learned vector to each feature.
        feature_type_embedding: adds one of two learned vectors: numeric or categorical.

    Attributes:
        num_features: D.

    Raises:
        ValueError: no feature, an odd width, or a column without a known category.
    """

    positions: Tensor
    offsets: Tensor
    codes: Tensor
    types: Tensor

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int],
        channels: int,
        num_reg: int = 1,
        feature_index_embedding: bool = False,
        feature_type_embedding: bool = False,
    ):
        super().__init__()
        self.num_numeric, self.num_reg = num_numeric, num_reg
        self.cardinalities = tuple(cardinalities)
        self.num_features = num_numeric + len(self.cardinalities)
        if num_numeric < 0 or num_reg < 0 or not self.num_features:
            raise ValueError(
                f'a table has features and no negative numbers of anything: {num_numeric=}, '
                f'{len(self.cardinalities)} categorical, {num_reg=}'
            )
        if min(self.cardinalities, default=2) < 2:
            raise ValueError(
                f'cardinalities count the unknown category, so 2 is the least: {cardinalities}'
            )
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(num_reg + num_numeric, channels))
        self.bias = nn.Parameter(torch.empty(self.num_features, channels))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -bound, bound)
        self.categories: nn.Parameter | None = None
        if self.cardinalities:
            self.categories = nn.Parameter(torch.empty(sum(self.cardinalities), channels))
            nn.init.trunc_normal_(self.categories, std=0.02)
        self.index_embedding = self._embedding(feature_index_embedding, self.num_features, channels)
        self.type_embedding = self._embedding(feature_type_embedding, 2, channels)
        codes = torch.tensor(self.cardinalities, dtype=torch.int64)
        fixed = dict(
            positions=sincos_table(num_reg + self.num_features, channels, 100.0, True),
            codes=codes,
            offsets=codes.cumsum(0) - codes,
            types=(torch.arange(self.num_features) >= num_numeric).long(),
        )
        for name, table in fixed.items():
            self.register_buffer(name, table, persistent=False)

    @staticmethod
    def _embedding(wanted: bool, count: int, channels: int) -> nn.Parameter | None:
        if not wanted:
            return None
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(count, channels), std=0.02))

    def _constants(self) -> Tensor:
        """(R + D, H) what is added to the tokens, whatever the row."""
        added: Tensor = self.bias
        if self.index_embedding is not None:
            added = added + self.index_embedding
        if self.type_embedding is not None:
            added = added + self.type_embedding[self.types]
        return F.pad(added, (0, 0, self.num_reg, 0)) + self.positions

    def forward(self, rows: Tensor) -> Tensor:
        """Tokens of whole rows.

        Args:
            rows: (B, D) float, numeric columns first, then codes.

        Returns:
            (B, R + D, H).

        Raises:
            ValueError: another number of columns.
        """
        if rows.ndim != 2 or rows.shape[1] != self.num_features:
            raise ValueError(
                f'rows {tuple(rows.shape)}: this model reads {self.num_features} columns, '
                f'{self.num_numeric} numeric and {len(self.cardinalities)} categorical'
            )
        constants, split = self._constants(), len(self.weight)
        # a [REG] token is its weight times 1
        values = F.pad(rows[:, : self.num_numeric], (self.num_reg, 0), value=1.0)
        tokens = torch.addcmul(constants[:split], values[:, :, None], self.weight)
        if self.categories is None:
            return tokens
        codes = rows[:, self.num_numeric :].long()
        if rows.device.type == 'cpu':  # on a device the answer would have to be waited for
            self._check_codes(codes)
        codes = torch.where((codes > 0) & (codes < self.codes), codes, 0) + self.offsets
        categorical = F.embedding(codes, self.categories) + constants[split:]
        return torch.cat([tokens, categorical], 1)

    def _check_codes(self, codes: Tensor) -> None:
        """Raise ValueError where a code is none of its column's."""
        wrong = ((codes < 0) | (codes >= self.codes)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(
                f'code {int(codes[row, column])} in categorical column {column}, whose cardinality '
                f'is {self.cardinalities[column]}: cardinalities count the unknown category (code '
                '0), too'
            )
