"""Augmentations that draw from global generators, as a function of the sample's seed."""

import random

import numpy as np
import torch

from mmjepa.datasets import SeededDataset


class Drawing(torch.utils.data.Dataset):
    metainfo = {'classes': ('a',)}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return index, random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_seed_fixes_every_generator():
    dataset = SeededDataset(Drawing())
    first = dataset[2, 2**61 + 5]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert dataset[2, 2**61 + 5] == first
    other = dataset[2, 2**61 + 6]
    assert other[0] == 2
    assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))
    assert dataset[1] == dataset[1, 1]
    assert len(dataset) == 3
    assert dataset.metainfo == Drawing.metainfo


def test_outer_generators_go_on_as_if_nothing_was_drawn():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    SeededDataset(Drawing())[0, 7]
    assert draw() == expected
