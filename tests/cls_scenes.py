"""Two colours as classes, and short runs of the classification configs on them."""

from pathlib import Path

import cv2
import numpy as np
import torch

from mmjepa.apis import init_model
from mmjepa.engine.config import check_config, load_config

FOLDER = Path(__file__).resolve().parents[1] / 'configs/downstream/cls'
TINY = dict(arch=[16, 2, 2, 32], num_workers=0, log_interval=1, batch_size=6, seed=3)


def write_colours(root, splits=('train', 'test'), each=6, size=32, shuffled=False):
    """Two classes of noise around one colour each; ``shuffled``: half of each colour in each."""
    rng = np.random.default_rng(0)
    for split in splits:
        for i in range(2 * each):
            image = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
            image[..., 2 * (i % 2)] += 150
            wrong = shuffled and i % 4 > 1
            folder = root / split / ('blue', 'red')[(i + wrong) % 2]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{i:03d}.png'), image)
    return root


def configured(stem, root, work_dir, resume=False, **options):
    """A config on two colours; nothing is written but checkpoints and the log."""
    changes = {'num_classes': 2, 'data_root': str(root), **TINY, **options}
    cfg = load_config(FOLDER / f'{stem}.py', changes)
    cfg.val_evaluator.topk = cfg.test_evaluator.topk = (1,)
    cfg.work_dir, cfg.resume = str(work_dir), resume
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{work_dir.name}_{id(cfg)}'  # MMEngine keeps instances by name
    check_config(cfg)
    return cfg


def pretrained(repo, root, path, **options):
    """The checkpoint of an I-JEPA that has not been trained, whose target isn't its encoder."""
    cfg = load_config(
        repo / 'configs/ijepa/vit_tiny4_cifar10.py',
        dict(arch=TINY['arch'], predictor_depth=1, predictor_width=16, **options),
    )
    torch.manual_seed(7)
    model = init_model(cfg)
    for parameter in model.target.encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.save({'state_dict': model.state_dict(), 'meta': {'cfg': cfg.pretty_text}}, path)
    return model
