"""Post-norm transformer on the tokens of a row."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmjepa.models.layers.transformer import Block, init_transformer
from mmjepa.registry import MODELS

from .tokenizer import FeatureTokenizer


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """(B, N, H) tokens and (B, ...) int64 numbers -> (B, ..., H)."""
    flat = ids.flatten(1)[..., None].expand(-1, -1, tokens.shape[2])
    return tokens.gather(1, flat).unflatten(1, ids.shape[1:])


def dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout of any shape; on CPU a rare one draws the few places, not a number an element.

    Gaps between the dropped elements of independent draws are geometric, so both are the same
    distribution, and a number for every element is what a rare dropout spends its time on.
    """
    if not 0 < rate < 0.05 or x.device.type != 'cpu':
        return F.dropout(x, rate) if rate else x
    expected = x.numel() * rate
    most = int(expected + 10 * math.sqrt(expected) + 20)  # of which there are never more
    places = torch.empty(most, dtype=torch.int64).geometric_(rate).cumsum(0) - 1
    kept = x.contiguous() / (1 - rate)
    kept.view(-1).index_fill_(0, places[places < x.numel()], 0.0)
    return kept


class PostNormBlock(Block):
    """norm(x + attention(x)), then norm(x + MLP(x)) with ReLU, as ``nn.TransformerEncoderLayer``.

    The parameters are those of the core's pre-norm :class:`Block`.

    Args:
        dim: D.
        num_heads: of the attention.
        mlp_dim: hidden width of the MLP.
        dropout: of attention weights, both branches and the hidden layer.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float = 0.0):
        super().__init__(dim, num_heads, mlp_dim)
        self.norm1.eps = self.norm2.eps = 1e-5
        self.dropout = dropout

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout if self.training else 0.0)

    def forward(self, x: Tensor, rope: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        if rope is not None or valid is not None:
            raise ValueError('PostNormBlock has neither rotary positions nor unseen tokens')
        qkv = self.attn.qkv(x).unflatten(-1, (3, self.attn.num_heads, -1))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        rate = self.dropout if self.training else 0.0
        if rate and x.device.type == 'cpu':  # where the fused kernel knows no dropout, either
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
            mixed = dropout(weights, rate) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        x = self.norm1(x + self._drop(self.attn.proj(mixed.transpose(1, 2).flatten(2))))
        hidden = self._drop(F.relu(self.mlp.fc1(x), inplace=True))
        return self.norm2(x + self._drop(self.mlp.fc2(hidden)))


class PostNormStack(nn.Sequential):
    """Blocks, then dropout, norm, linear map, dropout, norm; (B, N, D) -> (B, N, D).

    Linear maps start from a truncated normal of 0.02, but for queries, keys and values: Xavier's
    uniform, PyTorch's own.

    Args:
        dim: D.
        depth: blocks.
        num_heads: of each block.
        mlp_dim: hidden width of the blocks' MLP.
        dropout: everywhere.
    """

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int, dropout: float):
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout must lie in [0, 1), got {dropout}')
        blocks = [PostNormBlock(dim, num_heads, mlp_dim, dropout) for _ in range(depth)]
        super().__init__(
            *blocks,
            nn.Dropout(dropout),
            nn.LayerNorm(dim),
            nn.Linear(dim, dim),
            nn.Dropout(dropout),
            nn.LayerNorm(dim),
        )
        init_transformer(self)
        for block in blocks:
            nn.init.xavier_uniform_(block.attn.qkv.weight)


@MODELS.register_module()
class TabularEncoder(nn.Module):
    """Encodes the features of a row, all or some of them (T-JEPA, arXiv 2410.05016).

    Features that are left out don't enter attention: nothing stands in their place.

    Args:
        num_numeric: numeric columns, which come first.
        cardinalities: codes of each categorical column, the unknown one (0) included.
        channels: H, even.
        depth: blocks.
        num_heads: divides H.
        ffn_channels: hidden width of the blocks' MLP.
        num_reg: R, learned tokens that are in every set.
        dropout: in the blocks and behind them.
        feature_index_embedding: see :class:`FeatureTokenizer`.
        feature_type_embedding: see there.
    """

    def __init__(
        self,
        num_numeric: int,
        cardinalities: Sequence[int] = (),
        channels: int = 64,
        depth: int = 16,
        num_heads: int = 2,
        ffn_channels: int = 64,
        num_reg: int = 1,
        dropout: float = 0.0,
        feature_index_embedding: bool = False,
        feature_type_embedding: bool = False,
    ):
        super().__init__()
        self.tokenizer = FeatureTokenizer(
            num_numeric,
            cardinalities,
            channels,
            num_reg,
            feature_index_embedding,
            feature_type_embedding,
        )
        self.stack = PostNormStack(channels, depth, num_heads, ffn_channels, dropout)
        self.num_reg = num_reg
        self.num_features = self.tokenizer.num_features
        self.out_channels = channels

    def forward(self, rows: Tensor, keep_ids: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            rows: (B, D) float, see :class:`FeatureTokenizer`.
            keep_ids: (B, n) int64 numbers of the features that are seen; None: all.

        Returns:
            (B, R + n, H), [REG] first, features in the order of ``keep_ids``.
        """
        if keep_ids is not None:
            reg = torch.arange(self.num_reg, device=keep_ids.device).expand(len(keep_ids), -1)
            keep_ids = torch.cat([reg, keep_ids + self.num_reg], 1)
        return self.encode_tokens(rows, keep_ids)

    def encode_tokens(self, rows: Tensor, token_ids: Tensor | None = None) -> Tensor:
        """As :meth:`forward`, by token numbers: [REG] are 0 to R - 1, then the features.

        Args:
            rows: (B, D) float.
            token_ids: (B, n) int64 of the tokens that are seen; None: all.

        Returns:
            (B, n, H).
        """
        tokens = self.tokenizer(rows)
        return self.stack(tokens if token_ids is None else gather_tokens(tokens, token_ids))
