"""Voxelisation of point clouds on the device."""

from collections.abc import Sequence
from typing import Any, Literal

from mmjepa.registry import MODELS

from .jepa import JEPAPreprocessor
from .voxelize import hard_voxelize_mean


@MODELS.register_module()
class VoxelPreprocessor(JEPAPreprocessor):
    """Points -> mean features of at most ``max_points`` points a voxel (MeanVFE).

    Args:
        point_cloud_range: x_min, y_min, z_min, x_max, y_max, z_max in metres.
        voxel_size: x, y, z in metres.
        max_points: most points averaged in a voxel.
        max_voxels: most voxels of a sample, in training and in evaluation.
        max_voxels_whole: the same for both where a sample of the batch wasn't cropped to the
            camera's view; None: no distinction.
        drop: ``'random'`` picks at random where a cap binds, ``'first'`` keeps the first in order
            of the points as mmcv's hard voxelisation does.
        non_blocking: overlap the copy with computation.
    """

    def __init__(
        self,
        point_cloud_range: Sequence[float],
        voxel_size: Sequence[float],
        max_points: int = 5,
        max_voxels: Sequence[int] = (16000, 40000),
        max_voxels_whole: int | None = None,
        drop: Literal['random', 'first'] = 'random',
        non_blocking: bool = True,
    ):
        super().__init__(non_blocking=non_blocking)
        self.point_cloud_range = tuple(point_cloud_range)
        self.voxel_size = tuple(voxel_size)
        self.max_points = max_points
        self.max_voxels = tuple(max_voxels)
        self.max_voxels_whole = max_voxels_whole
        self.drop = drop

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Voxelise ``inputs['points']``, a list of (N_i, F) clouds.

        Returns:
            ``inputs``: ``feats`` (M, F) float32, ``coors`` (M, 4) int64 as b, z, y, x,
            ``batch_size``, ``seeds`` (B,), and the shares ``dropped_points``, ``dropped_voxels``.
        """
        data = super().forward(data, training)
        inputs = data['inputs']
        points = inputs.pop('points')
        cap = self.max_voxels[0 if training else 1]
        if self.max_voxels_whole and not all(s.get('fov_cropped') for s in data['data_samples']):
            cap = self.max_voxels_whole
        voxels = hard_voxelize_mean(
            points,
            inputs['seeds'],
            self.point_cloud_range,
            self.voxel_size,
            self.max_points,
            cap,
            self.drop,
        )
        inputs.update(
            feats=voxels.feats,
            coors=voxels.coors,
            batch_size=len(points),
            dropped_points=voxels.dropped_points,
            dropped_voxels=voxels.dropped_voxels,
        )
        return data
