"""Build a detector of mmdet3d from a config and a checkpoint, and find objects in a sweep.

mmcv and mmdet3d are imported when a detector is built.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from numpy.typing import NDArray

from .inference import _warn_other_grid, init_quietly, resolve_config
from .sweeps import Sweep

FloatArray = NDArray[Any]

# what mmdet3d's detectors call their heads
HEADS = ('bbox_head', 'pts_bbox_head', 'rpn_head', 'roi_head')
CUDA_ONLY = ('PointVoxelRCNN',)
# mmdet3d's name for the folder of sweeps that were cut to the camera's view
CAMERA_VIEW_FOLDER = 'velodyne_reduced'


class Detections(TypedDict):
    """What :func:`detect` finds in a sweep.

    Attributes:
        boxes: (N, 7) float64 x, y, z of the gravity centre, dx, dy, dz (metres), yaw (radians,
            counter-clockwise from +x); LiDAR frame.
        scores: (N,) float64, falling.
        labels: (N,) int64, index into ``names``.
        names: the detector's classes.
        points: (P, F) float32, what the detector saw, before normalisation.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    points: NDArray[np.float32]


def load_detection_config(
    config: str | Path | Config, cfg_options: Mapping[str, Any] | None = None
) -> Config:
    """A loaded config with its overrides applied, as :func:`init_detector` takes it.

    Raises:
        ImportError: The config needs mmdet3d, which isn't installed.
        ConfigError, TypeError, KeyError: As of :func:`mmjepa.apis.init_model`.
    """
    try:
        return resolve_config(config, cfg_options)
    except ImportError as error:
        absent = [name for name in ('mmcv', 'mmdet3d') if importlib.util.find_spec(name) is None]
        if not absent:
            raise
        raise ImportError(
            f"{config} needs {' and '.join(absent)}: pip install 'mmjepa[mm3d]' ({error})"
        ) from error


def has_detector(cfg: Config) -> bool:
    """Whether a config's model is a detector, not a pre-training method."""
    return any(name in cfg.model for name in HEADS)


def init_detector(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device = 'cpu',
    cfg_options: Mapping[str, Any] | None = None,
) -> Any:
    """Build a detector in eval mode.

    Args:
        config: Path of a detection config (``configs/downstream/mmdet3d/``), or a loaded one.
        checkpoint: What fine-tuning wrote. None leaves the random initialisation, which follows
            torch's global seed.
        device: Where the model goes; on CPU, spconv's layers get the kernels that work there.
        cfg_options: Overrides, as ``--cfg-options`` of ``tools/train.py``.

    Returns:
        mmdet3d's detector, with the config as ``model.cfg``.

    Raises:
        ConfigError: The config has no detector, or one that doesn't read LiDAR sweeps, or doesn't
            run on this device.
        FileNotFoundError: There is no such checkpoint.
        CheckpointError: It doesn't fit completely, or was trained on other classes.
        ImportError: mmdet3d isn't installed.

    Example:
        >>> model = init_detector('configs/downstream/mmdet3d/second_kitti.py', 'epoch_80.pth')
        >>> found = detect(model, 'data/kitti/training/velodyne/000008.bin')
        >>> found['boxes'][found['scores'] > 0.3]  # (n, 7)
    """
    from mmjepa.engine.checkpoint import load_verified
    from mmjepa.engine.config import ConfigError

    cfg = load_detection_config(config, cfg_options)
    if not has_detector(cfg):
        raise ConfigError(
            f'{cfg.filename or "the config"} has no detector (its model is '
            f'{cfg.model.get("type")}): take one of configs/downstream/mmdet3d, or '
            'mmjepa.apis.init_model for a pre-training method'
        )
    sweep_input = DetectorInput(cfg)
    on_cpu = torch.device(device).type == 'cpu'
    if on_cpu and cfg.model.get('type') in CUDA_ONLY:
        raise ConfigError(
            f'{cfg.model.type} samples key points with kernels of mmcv that CPUs lack: take '
            'device cuda, or SECOND'
        )
    state = None if checkpoint is None else _read_weights(checkpoint, cfg, sweep_input.classes)
    from mmdet3d.registry import MODELS

    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet3d')):
        model = MODELS.build(cfg.model)
    if state is None:
        init_quietly(model)
    else:
        load_verified(model, state, what=f'{type(model).__name__} from {checkpoint}')
    if on_cpu:
        from mmjepa.engine.hooks.native_spconv import use_native_kernels

        use_native_kernels(model)
    model.cfg, model.sweep_input = cfg, sweep_input
    return model.to(device).eval()


@torch.no_grad()
def detect(model: Any, sweep: Sweep) -> Detections:
    """Find objects in one sweep.

    A detector trained on the camera's view (KITTI) gets the part of a file's sweep that the camera
    sees, where ``<velodyne>/../calib/<frame>.txt`` exists. Where a config merges sweeps (nuScenes),
    this one stands for its predecessors, too, as in mmdet3d's demo.

    Args:
        model: From :func:`init_detector`.
        sweep: A file, or points (P, F) with the columns of such a file: x y z (metres, LiDAR frame)
            first. An array has no calibration: crop it yourself.

    Returns:
        :class:`Detections`, by falling score.

    Raises:
        ValueError: The sweep is unusable or no point lies in the detector's range; the message
            names file, reason and remedy.
        AttributeError: The model doesn't come from :func:`init_detector`.
    """
    from mmjepa.evaluation.metrics.lidar_predictions import class_names, read_predictions

    if not isinstance(getattr(model, 'sweep_input', None), DetectorInput):
        raise AttributeError(
            f'{type(model).__name__} has no .sweep_input; make it with mmjepa.apis.init_detector'
        )
    points = model.sweep_input.read(sweep)
    was_training = model.training
    model.eval()
    try:
        with DefaultScope.overwrite_default_scope(model.cfg.get('default_scope', 'mmdet3d')):
            sample = model.test_step(model.sweep_input.pack(points))[0]
    finally:
        model.train(was_training)
    where = str(sweep) if isinstance(sweep, str | Path) else '<array>'
    found = read_predictions(sample, where)
    names = model.sweep_input.classes
    class_names({'classes': names}, found.labels, where)  # refuses labels beyond them
    order = np.argsort(-found.scores, kind='stable')
    boxes = found.boxes[order]
    boxes[:, 2] += boxes[:, 5] / 2  # mmdet3d's boxes stand on their z
    return Detections(
        boxes=boxes,
        scores=found.scores[order],
        labels=found.labels[order],
        names=names,
        points=points,
    )


class DetectorInput:
    """Reads a sweep as the test pipeline of a detection config does, with clear errors.

    Args:
        cfg: A detection config.

    Attributes:
        classes: Names by label.
        camera_view: Whether the detector was trained on sweeps cut to the camera's view.
        point_cloud_range: x, y, z lower bounds, then upper bounds, metres.

    Raises:
        ConfigError: No test pipeline that loads sweeps, no classes or no range.
    """

    def __init__(self, cfg: Config) -> None:
        from mmjepa.engine.config import ConfigError

        name = cfg.filename or 'the config'
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        while 'dataset' in dataset:  # wrappers such as RepeatDataset
            dataset = dataset['dataset']
        pipeline = [dict(transform) for transform in dataset.get('pipeline') or ()]
        if not pipeline or pipeline[0]['type'] != 'LoadPointsFromFile':
            raise ConfigError(
                f'{name}: test_dataloader.dataset.pipeline does not begin with LoadPointsFromFile; '
                'a detector that reads LiDAR sweeps is needed'
            )
        classes = (dataset.get('metainfo') or {}).get('classes') or cfg.get('class_names')
        voxels = (cfg.model.get('data_preprocessor') or {}).get('voxel_layer') or {}
        bounds = voxels.get('point_cloud_range') or cfg.get('point_cloud_range')
        for value, key in (
            (classes, 'test_dataloader.dataset.metainfo.classes'),
            (bounds, 'model.data_preprocessor.voxel_layer.point_cloud_range'),
        ):
            if not value:
                raise ConfigError(f'{name} has no {key}, from which detections are read')
        self.classes = tuple(str(item) for item in classes)
        self.point_cloud_range = tuple(float(value) for value in bounds)
        self.camera_view = (
            Path((dataset.get('data_prefix') or {}).get('pts', '')).name == CAMERA_VIEW_FOLDER
        )
        self.load_dim = pipeline[0].get('load_dim', 6)  # mmdet3d's default
        use_dim = pipeline[0].get('use_dim', 3)
        self.use_dim = use_dim if isinstance(use_dim, int) else list(use_dim)
        self._box_type = dataset.get('box_type_3d', 'LiDAR')
        self._pipeline = [dict(pipeline[0], type='LoadPointsFromDict'), *pipeline[1:]]
        self._scope = cfg.get('default_scope', 'mmdet3d')

    def read(self, sweep: Sweep) -> NDArray[np.float32]:
        """(P, F) points in range, P > 0; see :func:`detect` for argument and errors."""
        from mmjepa.datasets.point_files import keep_valid, read_points, select_columns
        from mmjepa.datasets.transforms import CropToCameraView, PointsRangeFilter

        if isinstance(sweep, str | Path):
            path = str(sweep)
            points = read_points(path, self.load_dim, self.use_dim)
        else:
            path, points = '<array>', select_columns(_as_points(sweep), self.use_dim, '<array>')
        results = {'path': path, 'points': keep_valid(points, path)}
        if self.camera_view and path != '<array>':
            results = CropToCameraView('auto')(results)
        return PointsRangeFilter(self.point_cloud_range, min_points=1)(results)['points']

    def pack(self, points: NDArray[np.float32]) -> dict[str, Any]:
        """A batch of one for ``model.test_step``; the array stays as it is."""
        from mmdet3d.structures import get_box_type
        from mmengine.dataset import Compose, pseudo_collate

        box_type, box_mode = get_box_type(self._box_type)
        sample = {
            'points': points.copy(),
            'timestamp': 0.0,
            'sample_idx': 0,
            'box_type_3d': box_type,
            'box_mode_3d': box_mode,
        }
        with DefaultScope.overwrite_default_scope(self._scope):
            return pseudo_collate([Compose(self._pipeline)(sample)])


def _as_points(sweep: Any) -> NDArray[np.float32]:
    if isinstance(sweep, torch.Tensor):
        sweep = sweep.detach().cpu().numpy()
    points = np.array(sweep, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] < 3 or len(points) == 0:
        raise ValueError(
            f'a sweep must be (P, F) with P > 0 and F >= 3: x y z (metres), ...; got shape '
            f'{points.shape}'
        )
    return points


def _read_weights(
    checkpoint: str | Path, cfg: Config, classes: Sequence[str]
) -> Mapping[str, torch.Tensor]:
    """A detector's weights; what would fit by shape but mean something else is refused."""
    from mmjepa.engine.checkpoint import CheckpointError, find_state_dict, load_file
    from mmjepa.engine.trained_with import check_classes

    content = load_file(checkpoint)
    state, _ = find_state_dict(content)
    if not any(key.startswith(HEADS) for key in state):
        raise CheckpointError(
            f'{checkpoint} holds no detector (no weights below {", ".join(HEADS)}). A pre-training '
            'checkpoint is fine-tuned first: python tools/train.py '
            f'{cfg.filename or "CONFIG"} --cfg-options jepa_checkpoint={checkpoint}'
        )
    check_classes(content, classes, checkpoint)
    _warn_other_grid(cfg, content, checkpoint)
    return state
