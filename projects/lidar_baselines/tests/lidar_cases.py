"""How the tests build and feed the baselines: cases of the core's contract."""

from dataclasses import replace
from pathlib import Path
from typing import Any

# before the cases are added: the parameters of the core's own tests are its own methods
import test_contract  # noqa: F401
import torch
from cases import CASES
from toy_lidar import toy_scene

import projects.lidar_baselines.lidar_baselines  # noqa: F401  (registers the methods)
from mmjepa.registry import MODELS

CONFIGS = 'projects/lidar_baselines/configs'
GRID = dict(point_cloud_range=[0, -6.4, -3, 12.8, 6.4, 1], voxel_size=[0.2, 0.2, 0.1])
# a learning-rate test of the contract asks for this hook; it leaves a target of data alone
HOOKS = [dict(type='LossGuardHook'), dict(type='TargetUpdateHook')]


def _drawn(model: Any, inputs: dict) -> Any:
    """Masks of one loss()."""
    generator, drawn = model.mask_generator, []
    model.mask_generator = lambda *args: drawn.append(generator(*args)) or drawn[-1]
    model.loss(inputs)
    model.mask_generator = generator
    return drawn[0]


def _some_of_each(model: Any, inputs: dict) -> bool:
    masks, sample = _drawn(model, inputs), inputs['coors'][:, 0]
    samples = set(range(inputs['batch_size']))
    return all(
        set(sample[rows].tolist()) == samples
        for rows in (masks.visible_voxels, masks.masked_voxels)
    )


_OPTIONS = {**CASES['ADLJEPA'].options, 'custom_hooks': HOOKS}
BASELINES = ('BEVMAE', 'OccupancyMAE')
CASES['BEVMAE'] = replace(
    CASES['ADLJEPA'],
    config=f'{CONFIGS}/bev_mae_kitti.py',
    options=_OPTIONS,
    hidden_and_visible=_some_of_each,
)
CASES['OccupancyMAE'] = replace(
    CASES['ADLJEPA'],
    config=f'{CONFIGS}/occupancy_mae_kitti.py',
    options={**_OPTIONS, 'thresholds': [4.0, 8.0]},
    hidden_and_visible=_some_of_each,
    impossible=[
        dict(keep_ratios=(0.5, 0.7, 1.0), **GRID),
        dict(keep_ratios=(0.5, 0.0, 0.7), **GRID),
        dict(keep_ratios=(0.5, 0.7), **GRID),
        dict(thresholds=(50.0, 30.0), **GRID),
        dict(thresholds=(0.0, 30.0), **GRID),
        dict(distance='voxels', **GRID),
    ],
)


def build(name: str, seed: int = 0, **options: Any) -> Any:
    """A method of the real config on the tiny grid, in train mode."""
    case = CASES[name]
    torch.manual_seed(seed)
    model = MODELS.build(case.load(Path('nowhere'), **options).model)
    model.init_weights()
    return model.train()


def batch(model: Any, first: int = 0, count: int = 2, seed: int = 1000) -> dict:
    """Preprocessed toy scenes number ``first`` and on."""
    scenes = [toy_scene(first + i, extent=12.8, ground=400, boxes=3) for i in range(count)]
    raw = dict(
        inputs=dict(points=[torch.from_numpy(scene) for scene in scenes]),
        data_samples=[dict(sample_seed=seed + first + i) for i in range(count)],
    )
    return model.data_preprocessor(raw, True)['inputs']


def train(model: Any, steps: int, lr: float) -> list[dict[str, float]]:
    """Losses of some steps on eight scenes that come again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    history = []
    for step in range(steps):
        losses = model.loss(batch(model, 2 * (step % 4), seed=step))
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
        history.append({k: float(v.detach()) for k, v in losses.items()})
    return history
