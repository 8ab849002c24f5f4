"""Class-balanced sampling: the same list for every rank and after a resume."""

from collections import Counter

import numpy as np
import pytest
from mmengine.dataset import BaseDataset

pytest.importorskip('mmdet3d.models', exc_type=ImportError)

from mmjepa.downstream.lidar.cbgs import PresentClassesCBGS


class Frames(BaseDataset):
    """Frames of given labels; -1 is an object that takes no part."""

    METAINFO = {'classes': ('car', 'bus', 'bicycle')}

    def __init__(self, labels):
        self.labels = labels
        super().__init__(lazy_init=True)

    def full_init(self):
        self._fully_initialized = True

    def __len__(self):
        return len(self.labels)

    def get_cat_ids(self, index):
        return self.labels[index]


def indices(labels, **options):
    return PresentClassesCBGS(Frames(labels), **options).sample_indices


CARS = [[0]] * 30 + [[0, 2]] * 4 + [[-1], []]


def test_classes_that_are_there_get_the_same_share():
    counts = Counter(index // 30 for index in indices(CARS))
    # 34 frames with cars and 4 with bicycles, none with buses: 19 each
    assert sum(counts.values()) == 38
    assert counts[1] >= 19, 'bicycles'
    assert set(indices(CARS)) <= set(range(34)), 'frames without objects'


def test_the_list_is_a_function_of_the_seed():
    np.random.seed(1)  # noqa: NPY002 (a rank's or another run's generator)
    first = indices(CARS)
    np.random.seed(2)  # noqa: NPY002
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert indices(CARS) == first
    assert np.random.get_state()[1].tolist() == state, 'the run draws on as before'  # noqa: NPY002
    assert indices(CARS, seed=1) != first


def test_no_object_at_all():
    with pytest.raises(ValueError, match='no train frame holds an object'):
        indices([[], [-1]])
