"""Where probe features come from: a frozen encoder, an untrained one, hand-made statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmjepa.evaluation.progress import Progress, silent

from .bev_cells import BEVGrid
from .sampling import CellTable


def grid_of(model: Any, shape: tuple[int, int]) -> BEVGrid:
    """The BEV grid behind the feature map of a LiDAR method.

    Args:
        model: Its preprocessor has ``point_cloud_range`` (and ``voxel_size``), its encoder
            ``stride``.
        shape: (h, w) of the feature map.

    Raises:
        AttributeError: If the preprocessor has no range.
        ValueError: If map, range and cell size contradict each other.
    """
    preprocessor = model.data_preprocessor
    if not hasattr(preprocessor, 'point_cloud_range'):
        raise AttributeError(
            f'{type(preprocessor).__name__} has no point_cloud_range; BEV probes need a method '
            'with a voxel preprocessor'
        )
    return BEVGrid.from_map(
        preprocessor.point_cloud_range,
        shape,
        getattr(preprocessor, 'voxel_size', None),
        getattr(model.encoder, 'stride', None),
    )


def _batches(model: Any, paths: Sequence[str | Path], batch_size: int) -> Iterator[dict[str, Any]]:
    from mmjepa.apis.inference import sweep_pipeline
    from mmjepa.apis.sweeps import preprocess

    pipeline = sweep_pipeline(model)
    for start in range(0, len(paths), batch_size):
        chunk = paths[start : start + batch_size]
        yield preprocess(model, [pipeline(p, start + i) for i, p in enumerate(chunk)])


@contextmanager
def _cumulative_batchnorm(module: nn.Module) -> Iterator[int]:
    """Reset BatchNorm statistics and average them over the forward passes inside."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    was_training = module.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    module.train()
    try:
        yield len(norms)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.train(was_training)


@torch.no_grad()
def calibrate_batchnorm(
    model: Any,
    paths: Sequence[str | Path],
    batch_size: int = 2,
    progress: Progress = silent,
    what: str = 'calibrate BatchNorm',
) -> int:
    """Set the running statistics of the encoder to the average over whole sweeps.

    An untrained encoder in eval mode would otherwise normalise by 0 and 1, which makes a weak
    baseline. No weight changes.

    Args:
        model: From ``init_model``.
        paths: Sweeps to pass through, without augmentation.
        batch_size: Sweeps at a time.
        progress: Called with (what, done, total).
        what: Shown as progress.

    Returns:
        Number of BatchNorm layers.

    Raises:
        ValueError: Without sweeps.
    """
    if not paths:
        raise ValueError('BatchNorm calibration needs at least one sweep')
    done = 0
    with _cumulative_batchnorm(model.encoder) as count:
        if count:
            for inputs in _batches(model, paths, batch_size):
                model.extract_feat(inputs)
                done = min(done + batch_size, len(paths))
                progress(what, done, len(paths))
    return count


@torch.no_grad()
def cell_features(
    model: Any,
    paths: Sequence[str | Path],
    table: CellTable,
    rows: NDArray[np.int64],
    batch_size: int = 2,
    progress: Progress = silent,
    what: str = 'features',
) -> Tensor:
    """Frozen BEV features of chosen cells.

    Args:
        model: From ``init_model``, in eval mode.
        paths: The sweep of each frame of the table.
        table: Labelled cells.
        rows: Ascending row numbers of the table.
        batch_size: Sweeps at a time.
        progress: Called with (what, done, total).
        what: Shown as progress.

    Returns:
        (len(rows), C) float32 on the CPU, in the order of ``rows``.

    Raises:
        ValueError: If features aren't finite.
    """
    frames = np.unique(table.frame[rows])
    parts = []
    done = 0
    for inputs in _batches(model, [paths[f] for f in frames], batch_size):
        bev = model.extract_feat(inputs).float().flatten(2)  # (B, C, h * w)
        for b in range(len(bev)):
            own = rows[table.frame[rows] == frames[done]]
            cells = torch.from_numpy(table.cell[own]).to(bev.device)
            parts.append(bev[b, :, cells].T.cpu())
            done += 1
        progress(what, done, len(frames))
    feats = torch.cat(parts)
    if not bool(feats.isfinite().all()):
        raise ValueError('the encoder gave features with NaN or Inf; check the checkpoint')
    return feats


def map_shape(model: Any, path: str | Path) -> tuple[int, int]:
    """(h, w) of the model's BEV map, from one sweep."""
    with torch.no_grad():
        inputs = next(iter(_batches(model, [path], 1)))
        h, w = model.extract_feat(inputs).shape[-2:]
    return int(h), int(w)
