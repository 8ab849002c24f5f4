"""Semantic segmentation on masks made from real COCO annotations, in the layout of ADE20K."""

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmseg', exc_type=ImportError)

from dense_scenes import (
    assert_drawn,
    coco_names,
    data_options,
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


# ---- 8 images by heart: 2 minutes on a quiet CPU core

PLAIN = [  # neither jitter nor flips: the question is whether the chain learns
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(448, 112), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(112, 112)),
    dict(type='PackSegInputs'),
]
CHOICE = dict(images=8, largest=8, least=0.02)


def trained(shared, folder, shuffled, steps=300):
    """A runner that has learnt 8 images from their true or from shuffled annotations.

    Its ``test`` evaluates the training images against the true masks. Also the two folders: with
    the true annotations, and with those that it has learnt from.
    """
    true = real_coco(shared, folder / 'true', **CHOICE)
    root = real_coco(shared, folder / 'wrong', **CHOICE, shuffled=True) if shuffled else true
    names = coco_names(true)
    data_options(CONFIG, true, names)  # writes the true masks
    options = dict(arch=(96, 4, 3, 384), channels=96, crop=112, batch_size=4, max_iters=steps)
    options |= dict(lr=1e-3, layer_decay=0.9, warmup=0.1, drop_path=0.0, log_interval=50)
    checkpoint = pretrain(true / 'listed/train', folder / 'pre', arch=options['arch'])
    options['jepa_checkpoint'] = str(checkpoint)
    cfg = small_config(CONFIG, root, folder / 'run', names, **options)
    cfg.train_dataloader.dataset.dataset.pipeline = PLAIN
    cfg.test_dataloader.dataset.update(
        data_root=str(true), data_prefix=dict(img_path='listed/train', seg_map_path='masks/train')
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    runner = build_runner(cfg)
    runner.train()
    return runner, true, root


@torch.no_grad()
def object_iou(runner, root):
    """Mean IoU of the categories in the annotations of ``root``, in percent.

    By names and pycocotools: neither our masks and labels nor mmseg's metric have a part in it.
    """
    coco = pytest.importorskip('pycocotools.coco').COCO(
        root / 'annotations/instances_train2017.json'
    )
    ids = {info['file_name']: number for number, info in coco.imgs.items()}
    classes = runner.test_dataloader.dataset.metainfo['classes']
    both, either = np.zeros(len(classes)), np.zeros(len(classes))
    named = set()
    runner.model.eval()
    for batch in runner.test_dataloader:
        (sample,) = runner.model.test_step(batch)
        found = sample.pred_sem_seg.data[0].numpy()
        image = ids[sample.img_path.rsplit('/', 1)[1]]
        for label, name in enumerate(classes):
            things = coco.loadAnns(coco.getAnnIds(image, coco.getCatIds([name]) or [-1]))
            named |= {label} if things else set()
            truth = np.any([coco.annToMask(t) for t in things] + [0 * found], axis=0)
            both[label] += (truth & (found == label)).sum()
            either[label] += (truth | (found == label)).sum()
    return 100 * np.mean([both[label] / either[label] for label in named])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_it_learns_8_images(shared_dir, tmp_path):
    runner, true, _ = trained(shared_dir, tmp_path, shuffled=False)
    found = runner.test()['mIoU'], object_iou(runner, true)
    print(f'mIoU {found[0]:.1f}, of the objects {found[1]:.1f}')
    assert min(found) >= 50, found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_shuffled_annotations_do_not_give_it(shared_dir, tmp_path):
    """They are learnt as well, and it is these that the model then finds."""
    runner, true, wrong = trained(shared_dir, tmp_path, shuffled=True)
    found = runner.test()['mIoU'], object_iou(runner, true)
    learnt = object_iou(runner, wrong)
    print(f'mIoU {found[0]:.1f}, of the objects {found[1]:.1f}, of the shuffled {learnt:.1f}')
    assert max(found) < 10, found
    assert learnt >= 40, learnt
