"""Objects to paste, drawn afresh for every frame."""

from typing import Any

import numpy as np
from mmdet3d.datasets.transforms.dbsampler import DataBaseSampler
from mmdet3d.registry import TRANSFORMS


class _FreshDraws:
    """Stands in for mmdet3d's ``BatchSampler``: remembers nothing."""

    def __init__(self, objects: list[dict]):
        self.objects = objects

    def sample(self, count: int) -> list[dict]:
        """``count`` different objects, all where there are fewer."""
        count = min(count, len(self.objects))
        chosen = np.random.choice(len(self.objects), count, replace=False)  # noqa: NPY002 (seeded by SeededDataset)
        return [self.objects[index] for index in chosen]


@TRANSFORMS.register_module()
class SeededDataBaseSampler(DataBaseSampler):
    """mmdet3d's ``DataBaseSampler`` as a function of the sample's seed.

    mmdet3d walks through a shuffled list, a walk for each worker, so that a run depends on the
    number of workers and can't be resumed exactly. Arguments as there.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.sampler_dict = {name: _FreshDraws(them) for name, them in self.db_infos.items()}
