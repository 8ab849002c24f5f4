"""Class-balanced sampling where a class may be absent."""

from typing import Any

import numpy as np
from mmdet3d.datasets import CBGSDataset
from mmdet3d.registry import DATASETS


@DATASETS.register_module()
class PresentClassesCBGS(CBGSDataset):
    """mmdet3d's ``CBGSDataset``, which divides by zero when a class is in no frame.

    "Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection", arXiv 1908.09492:
    each class that is there gets the same share of the samples. mmdet3d draws the list from
    numpy's global generator; here it is a function of ``seed``, so that all ranks and resumed runs
    have the same one. Order and augmentations follow the run's own seed.

    Args:
        dataset: data set or its config.
        lazy_init: as in mmdet3d.
        seed: of the list.

    Raises:
        ValueError: no frame holds an object.
    """

    def __init__(self, dataset: Any, lazy_init: bool = False, seed: int = 0):
        self.seed = seed
        super().__init__(dataset, lazy_init)

    def _get_sample_indices(self, dataset: Any) -> list[int]:
        frames: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            for label in dataset.get_cat_ids(index):
                if label >= 0:  # -1 takes no part
                    frames.setdefault(label, []).append(index)
        if not frames:
            raise ValueError('no train frame holds an object of any class')
        share = sum(map(len, frames.values())) / len(frames)
        rng = np.random.default_rng(self.seed)
        return [
            int(index)
            for label in sorted(frames)
            for index in rng.choice(frames[label], int(share))
        ]
