"""One case a registered method: how the contract tests build it and feed it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from toy_images import anonymise, write_toy_images
from toy_lidar import TINY_RANGE, TOY_VOXEL, write_toy_sweeps
from toy_video import forget_labels, write_toy_videos

from mmjepa.engine.checkpoint import atomic_save
from mmjepa.engine.config import load_config
from mmjepa.engine.runner import JEPARunner, build_runner
from mmjepa.registry import MODELS

REPO = Path(__file__).resolve().parents[2]


@dataclass
class Case:
    """A method under contract.

    Attributes:
        config: path below ``configs/``, or of a project's config.
        options: options that make it small.
        make_data: writes toy data with labels into a folder and returns it.
        remove_labels: deletes every label from such a folder.
        hidden_and_visible: of a model and preprocessed inputs: whether every sample has
            something hidden and something visible.
        host_reads: how often loss() may wait for the device (sizes of ragged parts).
        impossible: settings of the mask generator that must raise.
    """

    config: str
    options: dict[str, Any]
    make_data: Callable[[Path], Path]
    remove_labels: Callable[[Path], None]
    hidden_and_visible: Callable[[Any, dict], bool]
    host_reads: int = 0
    impossible: list[dict[str, Any]] = field(default_factory=list)

    def load(self, data_root: Path, **options: Any):
        """The real config, made small."""
        init_default_scope('mmjepa')
        return load_config(
            REPO / self.config, {**self.options, 'data_root': str(data_root), **options}
        )

    def model(self, data_root: Path, **options: Any):
        """An initialised model in train mode."""
        torch.manual_seed(0)
        model = MODELS.build(self.load(data_root, **options).model)
        model.init_weights()
        return model.train()

    def loader(self, data_root: Path, **options: Any):
        """The config's loader."""
        cfg = self.load(data_root, **options)
        return JEPARunner.build_dataloader(cfg.train_dataloader, seed=cfg.seed)

    def batch(self, model, data_root: Path, **options: Any) -> dict:
        """First preprocessed batch."""
        return model.data_preprocessor(next(iter(self.loader(data_root, **options))), True)

    def runner(
        self, data_root: Path, work_dir: Path, load_from: str | None = None, **options: Any
    ) -> Runner:
        """A runner on toy data."""
        cfg = self.load(data_root, **options)
        cfg.work_dir = str(work_dir)
        cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.log_level = 'WARNING'
        cfg.experiment_name = f'{work_dir.name}_{id(cfg)}'  # MMEngine keeps instances by name
        if load_from:
            cfg.resume, cfg.load_from = True, load_from
        return build_runner(cfg)


def _remove_kitti_labels(root: Path) -> None:
    for path in (root / 'training' / 'label_2').glob('*'):
        path.unlink()
    (root / 'training' / 'label_2').rmdir()


def _bev_masks_not_empty(model: Any, inputs: dict) -> bool:
    generator, drawn = model.mask_generator, []
    model.mask_generator = lambda *args: drawn.append(generator(*args)) or drawn[-1]
    model.loss(inputs)
    model.mask_generator = generator
    classes = drawn[0].classes.flatten(1)
    return all(bool((classes == kind).any(1).all()) for kind in range(4))


def _patches_not_empty(model: Any, inputs: dict) -> bool:
    masks = model.inspect(inputs)['masks']
    hidden = torch.zeros(len(masks.context), 64, dtype=torch.bool)
    hidden.scatter_(1, masks.targets.flatten(1), True)
    return masks.context.shape[1] > 0 and not hidden.gather(1, masks.context).any()


def _image_case(config: str) -> Case:
    return Case(
        config=config,
        options=dict(
            arch=[32, 2, 2, 64],
            predictor_depth=1,
            predictor_width=32,
            batch_size=2,
            num_workers=0,
            max_iters=4,
            log_interval=2,
        ),
        make_data=lambda root: write_toy_images(root, 7),
        remove_labels=anonymise,
        hidden_and_visible=_patches_not_empty,
        host_reads=1,  # masks are drawn on the host
        impossible=[
            dict(num_targets=0),
            dict(target_scale=(0.0, 0.2)),
            dict(target_aspect=(2.0, 1.0)),
            dict(context_scale=(0.5, 1.5)),
            dict(min_keep=-1),
            dict(sampling='random'),
            dict(min_keep=10, grid=(6, 6)),
        ],
    )


def _tubelets_not_empty(model: Any, inputs: dict) -> bool:
    return all(
        m.context.shape[1] > 0
        and m.targets.shape[1] > 0
        and not (m.context[:, :, None] == m.targets[:, None]).any()
        for m in model.inspect(inputs)['masks']
    )


def _video_case(config: str, **options: Any) -> Case:
    return Case(
        config=config,
        options=dict(
            arch=[32, 2, 2, 64],
            img_size=32,
            num_frames=8,
            predictor_depth=1,
            predictor_width=32,
            batch_size=2,
            num_workers=0,
            max_iters=4,
            log_interval=2,
            **options,
        ),
        make_data=lambda root: write_toy_videos(root, 7),
        remove_labels=forget_labels,
        hidden_and_visible=_tubelets_not_empty,
        host_reads=1,  # masks are drawn on the host
        impossible=[
            dict(blocks=[]),
            dict(blocks=[dict(num_blocks=0)]),
            dict(blocks=[dict(spatial_scale=(0.0, 0.2))]),
            dict(blocks=[dict(aspect=(2.0, 1.0))]),
            dict(truncate='end'),
            dict(max_keep=0),
        ],
    )


def _student_case() -> Case:
    """A student of a teacher of other width, which lies beside the data."""

    def make_data(root: Path) -> Path:
        write_toy_videos(root, 7)
        stage, size = CASES['VPixel'], dict(arch=[48, 2, 2, 96])
        meta = dict(method='VPixel', cfg=stage.load(root, **size).pretty_text)
        file = dict(meta=meta, state_dict=stage.model(root, **size).state_dict())
        atomic_save(file, root / 'teacher.pth')
        return root

    # relative to the test's own folder
    options = dict(teacher_arch=[48, 2, 2, 96], teacher_checkpoint='toy/teacher.pth')
    case = _video_case('configs/salt/student_sim.py', **options)
    case.make_data = make_data
    return case


CASES = {
    'VJEPA': _video_case('configs/vjepa/vit_tiny_sim.py'),
    'VPixel': _video_case('configs/salt/teacher_sim.py'),
    'SALT': _student_case(),
    'IJEPA': _image_case('configs/ijepa/vit_tiny4_cifar10.py'),
    'DMTJEPA': _image_case('configs/dmt_jepa/vit_tiny4_cifar10.py'),
    'ADLJEPA': Case(
        config='configs/adl_jepa/kitti.py',
        options=dict(
            point_cloud_range=TINY_RANGE,
            voxel_size=TOY_VOXEL,
            batch_size=2,
            num_workers=0,
            max_iters=4,
            log_interval=2,
        ),
        make_data=lambda root: write_toy_sweeps(
            root, 7, labels=True, extent=12.8, ground=400, boxes=3
        ),
        remove_labels=_remove_kitti_labels,
        hidden_and_visible=_bev_masks_not_empty,
        host_reads=1,
        impossible=[
            dict(mask_ratio=0.0),
            dict(mask_ratio=1.0),
            dict(empty_mask_ratio=1.0),
            dict(mask_per='frame'),
            dict(cell_multiplier=0),
        ],
    ),
}
