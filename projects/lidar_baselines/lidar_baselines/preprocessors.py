"""Voxels and the raw points behind them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmjepa.models.preprocessors import VoxelPreprocessor
from mmjepa.models.preprocessors.voxelize import grid_shape
from mmjepa.registry import MODELS


def _constant(values: Sequence[float], device: torch.device) -> Tensor:
    """Small float32 tensor, filled on the device: a copy from the host would wait for it."""
    return torch.stack([torch.full((), value, device=device) for value in values])


@MODELS.register_module()
class PointVoxelPreprocessor(VoxelPreprocessor):
    """:class:`VoxelPreprocessor` that hands the points on, too; it takes the same arguments."""

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Voxelise ``inputs['points']``, a list of (N_i, F) clouds.

        Returns:
            what :class:`VoxelPreprocessor` makes, and in ``inputs``: ``points`` (P, 3) x, y, z in
            voxels from the grid's corner, ``point_sample`` (P,) int64 and ``grid_shape``, the
            voxels of the range in z, y, x. Points out of range are among them.
        """
        data = dict(data, inputs=self.cast_data(data['inputs']))
        clouds = data['inputs']['points']
        data = super().forward(data, training)
        # the same arithmetic as the voxels', so that a point lies in the cell of its voxel
        low = _constant(self.point_cloud_range[:3], clouds[0].device)
        size = _constant(self.voxel_size, clouds[0].device)
        data['inputs'].update(
            points=torch.cat([(cloud[:, :3].float() - low) / size for cloud in clouds]),
            point_sample=torch.cat(
                [
                    torch.full((len(cloud),), i, dtype=torch.int64, device=cloud.device)
                    for i, cloud in enumerate(clouds)
                ]
            ),
            grid_shape=grid_shape(self.point_cloud_range, self.voxel_size),
        )
        return data
