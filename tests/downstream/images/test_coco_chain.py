"""From pre-training to pictures of the predictions, on real COCO images."""

from types import SimpleNamespace

import pytest

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmdet', exc_type=ImportError)

from dense_scenes import (
    assert_drawn,
    coco_names,
    evaluate,
    listed_images,
    pretrain,
    real_coco,
    small_config,
)

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.runner import build_runner

CONFIG = 'mmdet/mask_rcnn_vitdet_base_coco'


@pytest.fixture(scope='module')
def made(shared_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('chain')
    root = real_coco(shared_dir, folder / 'coco', images=1)
    checkpoint = pretrain(shared_dir / 'data/coco/train2017', folder / 'pretrained')
    return SimpleNamespace(root=root, checkpoint=checkpoint)


def test_pretrain_fine_tune_evaluate_draw(made, tmp_path):
    """Two steps, then tools/test.py with the config that the run has left."""
    options = dict(jepa_checkpoint=str(made.checkpoint), draw=True, draw_score=0.0, seed=3)
    cfg = small_config(CONFIG, made.root, tmp_path / 'run', coco_names(made.root), **options)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = build_runner(cfg)
    runner.train()
    saved = load_file(tmp_path / 'run/iter_2.pth')['state_dict']
    start = load_file(made.checkpoint)['state_dict']
    key = 'blocks.0.attn.qkv.weight'
    moved = (saved[f'backbone.{key}'] - start[f'target.encoder.{key}']).abs().max()
    assert 0 < moved < 1e-3  # two small steps away from the pre-trained weights

    scores, pictures = evaluate(tmp_path / 'run', tmp_path / 'tested')
    assert {'coco/bbox_mAP_50', 'coco/segm_mAP_50'} <= scores.keys()
    assert_drawn(pictures, listed_images(made.root))


# ---- 16 images by heart: 10 minutes on a quiet CPU core

PLAIN = [  # neither jitter nor flips: the question is whether the chain learns
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(224, 224), keep_ratio=True),
    dict(type='PackDetInputs'),
]
CHOICE = dict(images=16, largest=8, least=0.02)  # objects of 32 x 32 pixels and more


def trained(shared, folder, shuffled, steps=1000):
    """A runner that has learnt 16 images from their true or from shuffled annotations.

    Its ``test`` evaluates the training images against the true ones.
    """
    true = real_coco(shared, folder / 'true', **CHOICE)
    root = real_coco(shared, folder / 'wrong', **CHOICE, shuffled=True) if shuffled else true
    options = dict(arch=(96, 4, 3, 384), channels=96, global_blocks=(1, 3), window_size=7)
    options |= dict(image_size=224, batch_size=4, max_iters=steps, lr=1e-3, layer_decay=0.9)
    options |= dict(width=32, regions=32, log_interval=20, val_interval=steps)
    checkpoint = pretrain(true / 'train2017', folder / 'pre', arch=options['arch'])
    options['jepa_checkpoint'] = str(checkpoint)
    cfg = small_config(CONFIG, root, folder / 'run', coco_names(true), **options)
    cfg.log_level = 'INFO'
    cfg.model.backbone.drop_path_rate = 0.0
    cfg.train_dataloader.dataset.dataset.pipeline = PLAIN
    cfg.test_dataloader.dataset.update(
        data_root=str(true),
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017'),
    )
    cfg.test_evaluator.ann_file = str(true / 'annotations/instances_train2017.json')
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = build_runner(cfg)
    runner.train()
    return runner


def ap50(runner):
    """Box and mask, in percent."""
    scores = runner.test()
    found = [100 * scores[f'coco/{kind}_mAP_50'] for kind in ('bbox', 'segm')]
    print(f'AP50 of boxes {found[0]:.1f}, of masks {found[1]:.1f}')
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_it_learns_16_images(shared_dir, tmp_path):
    assert min(found := ap50(trained(shared_dir, tmp_path, shuffled=False))) >= 50, found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_shuffled_annotations_do_not_give_it(shared_dir, tmp_path):
    assert max(found := ap50(trained(shared_dir, tmp_path, shuffled=True))) < 5, found
