"""Data order as a function of (seed, iteration)."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from mmjepa.registry import DATA_SAMPLERS

_MASK = 2**64 - 1


def _mix(x: int) -> int:
    """splitmix64."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample_seed(seed: int, iteration: int, position: int) -> int:
    """Seed below 2**62 of the sample at ``position`` of the global batch of ``iteration``."""
    return _mix(_mix(_mix(seed) ^ iteration) ^ position) >> 2


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(Sampler):
    """Endless stream of batches of ``(index, sample_seed)`` that starts at any iteration.

    Each epoch is a fresh permutation by (seed, epoch). The global batch is cut over the ranks in
    order, and seeds follow the position in the global batch: two processes with batch B see the
    samples, augmentations and masks of one process with batch 2B. The tail of an epoch that fills
    no batch is left out; a data set smaller than one batch is repeated.

    Args:
        sampler: MMEngine's ``DefaultSampler``: gives data set, seed, shuffling, rank, world size.
        batch_size: samples a rank and iteration.
        drop_last: accepted because MMEngine passes it; always on.

    Raises:
        ValueError: the data set is empty.
    """

    def __init__(self, sampler: Sampler, batch_size: int, drop_last: bool = True):
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = True
        self.size = len(sampler.dataset)  # type: ignore[attr-defined]
        if self.size == 0:
            raise ValueError('the training data set is empty')
        self.seed: int = sampler.seed or 0  # type: ignore[attr-defined]
        self.rank: int = sampler.rank  # type: ignore[attr-defined]
        self.world_size: int = sampler.world_size  # type: ignore[attr-defined]
        self.start_iteration = 0

    def __len__(self) -> int:
        """Iterations of one epoch."""
        return max(1, self.size // (self.batch_size * self.world_size))

    def epoch_order(self, epoch: int) -> list[int]:
        """Indices of one epoch, ``len(self)`` global batches long."""
        if getattr(self.sampler, 'shuffle', True):
            generator = torch.Generator().manual_seed(_mix(_mix(self.seed) ^ epoch) >> 1)
            order = torch.randperm(self.size, generator=generator).tolist()
        else:
            order = list(range(self.size))
        wanted = len(self) * self.batch_size * self.world_size
        return (order * -(-wanted // self.size))[:wanted]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield batches from ``start_iteration`` on, without end."""
        iteration, epoch, order = self.start_iteration, -1, []
        while True:
            if iteration // len(self) != epoch:
                epoch = iteration // len(self)
                order = self.epoch_order(epoch)
            first = self.rank * self.batch_size
            offset = (iteration % len(self)) * self.batch_size * self.world_size
            yield [
                (order[offset + p], sample_seed(self.seed, iteration, p))
                for p in range(first, first + self.batch_size)
            ]
            iteration += 1
