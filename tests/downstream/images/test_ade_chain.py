"""Semantic segmentation on masks made from real COCO annotations, in the layout of ADE20K."""

import cv2
import numpy as np
import pytest

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmseg', exc_type=ImportError)

from dense_scenes import (
    assert_drawn,
    coco_names,
    evaluate,
    listed_images,
    pretrain,
    real_coco,
    small_config,
    write_masks,
)

from mmjepa.engine.runner import build_runner

CONFIG = 'mmseg/upernet_vit_base_ade20k'


def test_masks_are_pycocotools(shared_dir, tmp_path):
    """Of single objects, but for the pixels on their outlines."""
    coco = pytest.importorskip('pycocotools.coco')
    root = real_coco(shared_dir, tmp_path, images=3, largest=1)
    names = write_masks(root)
    reference = coco.COCO(root / 'annotations/instances_train2017.json')
    for thing in reference.loadAnns(reference.getAnnIds()):
        file = reference.loadImgs(thing['image_id'])[0]['file_name']
        mask = cv2.imread(str(root / 'masks/train' / file.replace('.jpg', '.png')), 0)
        label = names.index(reference.loadCats(thing['category_id'])[0]['name'])
        ours, theirs = mask == label, reference.annToMask(thing) > 0
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9
        assert set(np.unique(mask)) <= {0, label}


def test_pretrain_fine_tune_evaluate_draw(shared_dir, tmp_path):
    """Two steps, then tools/test.py with the config that the run has left."""
    root = real_coco(shared_dir, tmp_path / 'coco', images=1)
    checkpoint = pretrain(root / 'train2017', tmp_path / 'pretrained')
    options = dict(jepa_checkpoint=str(checkpoint), draw=True, seed=3)
    cfg = small_config(CONFIG, root, tmp_path / 'run', coco_names(root), **options)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    build_runner(cfg).train()
    scores, pictures = evaluate(tmp_path / 'run', tmp_path / 'tested')
    assert 0 <= scores['mIoU'] <= scores['aAcc'] <= 100
    assert_drawn(pictures, listed_images(root))
