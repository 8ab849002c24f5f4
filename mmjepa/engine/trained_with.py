"""What a checkpoint was trained with, read from its meta; nothing of it is run."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError

GRID = ('point_cloud_range', 'voxel_size')


def other_grid(checkpoint: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[str]:
    """Sentences on variables of the grid that differ; weights themselves fit any grid.

    Args:
        checkpoint: loaded file.
        cfg: config that it is used with.
    """
    text = (checkpoint.get('meta') or {}).get('cfg')
    if not isinstance(text, str):
        return []
    found = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        name = node.targets[0].id
        if name in GRID and name in cfg:
            trained = ast.literal_eval(node.value)
            if list(cfg[name]) != list(trained):
                found.append(f'trained with {name}={trained}, the config says {list(cfg[name])}')
    return found


def check_classes(checkpoint: Mapping[str, Any], classes: Sequence[str], path: str | Path) -> None:
    """Raise CheckpointError where a detector's classes, or their order, aren't the config's."""
    trained = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
    if trained is not None and list(trained) != list(classes):
        raise CheckpointError(
            f'{path} was trained on the classes {", ".join(trained)}, the config has '
            f'{", ".join(classes)}: use the config in its work dir'
        )


def check_detector(checkpoint: Mapping[str, Any], cfg: Mapping[str, Any], path: str) -> None:
    """Raise CheckpointError where a detector would be evaluated as something else.

    Args:
        checkpoint: loaded file.
        cfg: config with a ``test_dataloader``.
        path: of the file.
    """
    dataset = cfg['test_dataloader']['dataset']
    told = dataset.get('metainfo') if isinstance(dataset, Mapping) else None  # or built already
    classes = (told or {}).get('classes')
    if classes is not None:
        check_classes(checkpoint, classes, path)
    if differences := other_grid(checkpoint, cfg):
        raise CheckpointError(
            f'{path}: {"; ".join(differences)}: use the config in its work dir, or the same '
            '--cfg-options'
        )
