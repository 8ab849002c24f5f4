"""Counter-based random numbers: a hash of (seed, stream, counter).

Masks and drops drawn this way are a function of the sample's seed alone: the same on CPU and
CUDA, for any number of workers, and vectorised over samples.
"""

import torch
from torch import Tensor


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 (torch's own keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """splitmix64 finaliser; int64 multiplication wraps."""
    x = (x ^ _shift_right(x, 30)) * -4658895280553007687
    x = (x ^ _shift_right(x, 27)) * -7723592293110705685
    return x ^ _shift_right(x, 31)


def counter_bits(seeds: Tensor, counters: Tensor, stream: int = 0) -> Tensor:
    """Random 62-bit integers, one per (seed, counter) pair.

    Args:
        seeds: int64, broadcastable against ``counters``.
        counters: int64, e.g. cell or point numbers.
        stream: number of the independent stream (masking, dropping, ...).

    Returns:
        int64 tensor of the broadcast shape, values in [0, 2**62).
    """
    golden = (stream + 1) * 0x9E3779B97F4A7C15 % 2**64  # as int64, which wraps
    key = _mix(seeds.long() + (golden - 2**64 if golden >= 2**63 else golden))
    return _shift_right(_mix(_mix(key ^ counters.long()) + key), 2)


def counter_uniform(seeds: Tensor, counters: Tensor, stream: int = 0) -> Tensor:
    """Uniform float32 numbers in [0, 1); arguments as in :func:`counter_bits`."""
    return _shift_right(counter_bits(seeds, counters, stream), 38).to(torch.float32) * 2.0**-24
