"""Class-balanced sampling where a class may be absent."""

import numpy as np
from mmdet3d.datasets import CBGSDataset
from mmdet3d.registry import DATASETS


@DATASETS.register_module()
class PresentClassesCBGS(CBGSDataset):
    """mmdet3d's ``CBGSDataset``, which divides by zero when a class is in no frame.

    "Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection", arXiv 1908.09492:
    each class that is there gets the same share of the samples.
    """

    def _get_sample_indices(self, dataset) -> list[int]:
        frames: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            for label in dataset.get_cat_ids(index):
                if label >= 0:  # -1 takes no part
                    frames.setdefault(label, []).append(index)
        if not frames:
            raise ValueError('no train frame holds an object of any class')
        share = sum(map(len, frames.values())) / len(frames)
        return [
            int(index)
            for label in sorted(frames)
            for index in np.random.choice(frames[label], int(share))  # noqa: NPY002 (seeded by the runner)
        ]
