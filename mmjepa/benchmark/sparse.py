"""Time of the sparse encoder under each backend of :mod:`mmjepa.models.layers.sparse_ops`."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmjepa.models.encoders.sparse_voxel_encoder import SparseVoxelEncoder
from mmjepa.models.layers.sparse_ops import BACKENDS, backend_name
from mmjepa.models.preprocessors.voxelize import grid_shape, hard_voxelize_mean

KITTI_RANGE = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
KITTI_VOXEL = (0.05, 0.05, 0.1)


@dataclass
class SparseTiming:
    """Milliseconds of one backend, one number a repetition.

    Attributes:
        backend: its name.
        forward: neighbour search and forward pass, gradients recorded.
        backward: backward pass to all weights.
    """

    backend: str
    forward: list[float]
    backward: list[float]

    @property
    def total(self) -> float:
        """Median of forward + backward."""
        both = [f + b for f, b in zip(self.forward, self.backward, strict=True)]
        return statistics.median(both)


@dataclass
class SparseReport:
    """What :func:`benchmark_sparse` measured."""

    source: str
    voxels: int
    device: str
    threads: int
    timings: list[SparseTiming]

    @property
    def ratio(self) -> float | None:
        """Time of the rulebook over time of spconv; ``None`` without spconv."""
        totals = {timing.backend: timing.total for timing in self.timings}
        return totals['rulebook'] / totals['spconv'] if 'spconv' in totals else None

    def text(self) -> str:
        """Table for the terminal."""
        lines = [
            f'{self.source}: {self.voxels} voxels, {self.device}, {self.threads} threads, '
            f'median of {len(self.timings[0].forward)}',
            f'{"backend":10s} {"indices+forward":>16s} {"backward":>10s} {"all":>10s}  ms',
        ]
        for timing in self.timings:
            lines.append(
                f'{timing.backend:10s} {statistics.median(timing.forward):16.1f} '
                f'{statistics.median(timing.backward):10.1f} {timing.total:10.1f}'
            )
        if self.ratio is None:
            lines.append("no ratio: spconv is not installed (pip install 'mmjepa[lidar]')")
        else:
            lines.append(f'rulebook / spconv: {self.ratio:.2f}')
        return '\n'.join(lines)


def synthetic_cloud(seed: int = 0) -> Tensor:
    """(N, 4) stand-in for a sweep: rings on flat ground, a few hundred upright surfaces."""
    generator = torch.Generator().manual_seed(seed)
    azimuth = (torch.arange(900) / 900 - 0.5) * 1.5
    ring = 1.7 / torch.tan(torch.linspace(0.025, 0.42, 48))
    ground = torch.stack(
        [
            ring[:, None] * azimuth.cos(),
            ring[:, None] * azimuth.sin(),
            torch.full((len(ring), len(azimuth)), -1.7),
        ],
        -1,
    ).flatten(0, 1)
    corner = torch.rand(200, 1, 3, generator=generator) * torch.tensor([65.0, 60.0, 0.0])
    patch = torch.rand(200, 150, 3, generator=generator) * torch.tensor([0.05, 2.0, 1.6])
    walls = (corner + patch + torch.tensor([4.0, -30.0, -1.7])).flatten(0, 1)
    xyz = torch.cat([ground, walls])
    xyz = xyz + 0.01 * torch.randn(xyz.shape, generator=generator)
    return torch.cat([xyz, torch.rand(len(xyz), 1, generator=generator)], 1)


def benchmark_sparse(
    points: str | Path | None = None,
    threads: int | None = None,
    repeats: int = 10,
    device: str = 'cpu',
    max_voxels: int = 40000,
    warmup: int = 2,
) -> SparseReport:
    """Times the encoder at KITTI's grid on one sweep under every backend that is installed.

    The backends take turns, so that a change in the machine's speed meets both.

    Args:
        points: sweep to read; ``None`` makes a synthetic one.
        threads: torch threads, ``None`` leaves them as they are.
        repeats: measured repetitions.
        device: where to compute.
        max_voxels: cap of the voxelisation.
        warmup: repetitions before, not measured.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if points is None:
        cloud, source = synthetic_cloud(), 'synthetic cloud'
    else:
        from mmjepa.datasets.point_files import read_points

        cloud, source = torch.from_numpy(read_points(points)[:, :4]), str(points)
    voxels = hard_voxelize_mean(
        [cloud.to(device)],
        torch.zeros(1, dtype=torch.int64),
        KITTI_RANGE,
        KITTI_VOXEL,
        max_voxels=max_voxels,
    )
    depth, height, width = grid_shape(KITTI_RANGE, KITTI_VOXEL)
    backends = [name for name in BACKENDS if name == 'rulebook' or backend_name(device) == name]
    encoders, timings = [], []
    for name in backends:
        torch.manual_seed(0)
        encoder = SparseVoxelEncoder(4, (depth + 1, height, width), backend=name)
        encoders.append(encoder.to(device))
        timings.append(SparseTiming(name, [], []))
    for step in range(warmup + repeats):
        for encoder, timing in zip(encoders, timings, strict=True):
            forward, backward = _one_step(encoder, voxels.feats, voxels.coors)
            if step >= warmup:
                timing.forward.append(forward)
                timing.backward.append(backward)
    return SparseReport(source, len(voxels.feats), device, torch.get_num_threads(), timings)


def _one_step(encoder: SparseVoxelEncoder, feats: Tensor, coors: Tensor) -> tuple[float, float]:
    """Milliseconds of indices + forward, and of backward."""
    encoder.zero_grad(set_to_none=True)
    start = _now(feats)
    out = encoder.forward_sparse(feats, coors, 1).features
    middle = _now(feats)
    out.backward(torch.ones_like(out))
    return 1e3 * (middle - start), 1e3 * (_now(feats) - middle)


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
