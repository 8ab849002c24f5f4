"""Data order is a function of (seed, iteration, position in the global batch)."""

from itertools import islice

import pytest
from mmengine.dataset import DefaultSampler

from mmjepa.engine.sampler import ResumableBatchSampler, sample_seed


def sampler(size=10, batch_size=2, rank=0, world_size=1, seed=0, shuffle=True, start=0):
    inner = DefaultSampler(range(size), shuffle=shuffle, seed=seed)
    inner.rank, inner.world_size = rank, world_size
    batches = ResumableBatchSampler(inner, batch_size)
    batches.start_iteration = start
    return batches


def test_an_epoch_is_a_permutation_and_the_next_another():
    batches = list(islice(sampler(), 15))
    epochs = [[i for batch in batches[k : k + 5] for i, _ in batch] for k in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    ordered = [i for batch in islice(sampler(shuffle=False), 5) for i, _ in batch]
    assert ordered == list(range(10))


@pytest.mark.parametrize('start', [0, 1, 5, 13])
def test_it_starts_anywhere(start):
    assert list(islice(sampler(start=start), 8)) == list(islice(sampler(), start, start + 8))


@pytest.mark.parametrize('world_size', [2, 3])
def test_ranks_cut_the_global_batch(world_size):
    whole = list(islice(sampler(size=25, batch_size=2 * world_size), 9))
    ranks = [
        list(islice(sampler(size=25, rank=rank, world_size=world_size), 9))
        for rank in range(world_size)
    ]
    assert [
        [sample for part in parts for sample in part] for parts in zip(*ranks, strict=True)
    ] == whole
    assert len(sampler(size=25, world_size=world_size)) == 25 // (2 * world_size)


def test_seeds_differ_and_repeat():
    seeds = [s for batch in islice(sampler(), 500) for _, s in batch]
    assert len(set(seeds)) == 1000 and all(0 <= s < 2**62 for s in seeds)
    assert seeds == [s for batch in islice(sampler(), 500) for _, s in batch]
    other = [s for batch in islice(sampler(seed=1), 500) for _, s in batch]
    assert not set(seeds) & set(other)
    assert seeds[7] == sample_seed(0, 3, 1)


def test_the_tail_is_left_out_and_a_small_set_repeated():
    assert len(sampler(size=11, batch_size=4)) == 2
    small = sampler(size=3, batch_size=4)
    assert len(small) == 1
    for batch in islice(small, 3):
        assert {i for i, _ in batch} == {0, 1, 2} and len({s for _, s in batch}) == 4
    with pytest.raises(ValueError, match='empty'):
        sampler(size=0)
