"""Tiny data in the layouts of COCO and of mmseg, made up or cut out of real COCO, and tiny models.

Folders look like COCO's: ``annotations/instances_{train,val}2017.json``, ``{train,val}2017``;
masks for mmseg stand beside them in ``masks/{train,val}``.
"""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
from image_scenes import write_image

from mmjepa.engine.config import check_config, load_config
from mmjepa.engine.runner import build_runner

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
VIT = dict(arch=(48, 4, 4, 96))
# options that make each config small enough for one CPU core
SMALL = {
    'mmdet/mask_rcnn_vitdet_base_coco': dict(
        VIT, channels=48, image_size=128, window_size=3, global_blocks=(1, 3)
    ),
    'mmdet/cascade_mask_rcnn_vit_base_coco': dict(
        VIT,
        channels=48,
        out_indices=(0, 1, 2, 3),
        img_size=128,
        short_sides=[96, 128],
        crop_sides=[96],
        crop_size=(64, 96),
        long_side=160,
    ),
    'mmseg/upernet_vit_base_ade20k': dict(VIT, channels=48, out_indices=(0, 1, 2, 3), crop=128),
    'mmseg/linear_vit_base_ade20k': dict(VIT, channels=48, out_indices=(0, 1, 2, 3), crop=128),
}
NAMES = ('person', 'bicycle', 'car')


def write_coco(root, images=4):
    """Rectangles and triangles of three categories on photos of 120 x 160 pixels."""
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES, 1)]
    for number, split in enumerate(('train', 'val')):
        files, objects = [], []
        for i in range(images):
            file = dict(id=i + 1, file_name=f'{i:012}.jpg', height=120, width=160)
            files.append(file)
            write_image(root / f'{split}2017' / file['file_name'], 10 * number + i, 120, 160)
            for k in range(3):
                x, y = 10 + 45 * k, 15 + 10 * ((i + k) % 3)
                w, h = 40, 60
                corners = [x, y, x + w, y, x + w, y + h, x, y + h][: 6 if k else 8]
                objects.append(
                    dict(
                        id=len(objects) + 1,
                        image_id=i + 1,
                        category_id=k + 1,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[corners],
                    )
                )
        write_annotations(root, split, files, objects, categories)
    return root


def write_annotations(root, split, images, objects, categories):
    path = root / f'annotations/instances_{split}2017.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=objects, categories=categories)))


def real_coco(shared, root, images=4, largest=15, least=0.0, shuffled=False):
    """The first images of the real annotations with 1 to ``largest`` objects, none of them a crowd.

    ``least`` is the share of the image that the box of each object covers at least; ``shuffled``
    gives every image the objects of another one, scaled to its size.
    """
    for split in ('train', 'val'):
        name = f'instances_{split}2017.json'
        content = json.loads((shared / 'data/coco/annotations' / name).read_text())
        of_image = {}
        for thing in content['annotations']:
            of_image.setdefault(thing['image_id'], []).append(thing)

        def fits(file, of_image=of_image):
            things, area = of_image.get(file['id'], []), file['width'] * file['height']
            shares = [t['bbox'][2] * t['bbox'][3] / area for t in things if not t['iscrowd']]
            return (
                1 <= len(things) <= largest and len(shares) == len(things) and min(shares) >= least
            )

        files = sorted(filter(fits, content['images']), key=lambda file: file['id'])[:images]
        assert len(files) == images
        objects = [thing for file in files for thing in of_image[file['id']]]
        if shuffled:
            others = files[3:] + files[:3]
            objects = [
                moved(thing, other, file)
                for file, other in zip(files, others, strict=True)
                for thing in of_image[other['id']]
            ]
        write_annotations(root, split, files, objects, content['categories'])
        (root / f'{split}2017').symlink_to(shared / f'data/coco/{split}2017')
    return root


def moved(thing, source, target):
    """An object of one image in another, scaled to its size."""
    scale = target['width'] / source['width'], target['height'] / source['height']
    outline = [[v * scale[k % 2] for k, v in enumerate(part)] for part in thing['segmentation']]
    box = [v * scale[k % 2] for k, v in enumerate(thing['bbox'])]
    area = thing['area'] * scale[0] * scale[1]
    return {**thing, 'image_id': target['id'], 'bbox': box, 'area': area, 'segmentation': outline}


def coco_names(root):
    """The categories of the annotations, in the file's order."""
    content = json.loads((root / 'annotations/instances_train2017.json').read_text())
    return [category['name'] for category in content['categories']]


def write_masks(root):
    """``masks/{train,val}/<image>.png`` of the instance annotations: 0 nothing, category k + 1.

    Small objects lie on large ones. Returns the names of all labels.
    """
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/instances_{split}2017.json').read_text())
        labels = {c['id']: i + 1 for i, c in enumerate(content['categories'])}
        folder = root / 'masks' / split
        folder.mkdir(parents=True)
        for file in content['images']:
            mask = np.zeros((file['height'], file['width']), np.uint8)
            things = [t for t in content['annotations'] if t['image_id'] == file['id']]
            for thing in sorted(things, key=lambda t: -t['area']):
                parts = [np.reshape(p, (-1, 2)).round().astype(int) for p in thing['segmentation']]
                cv2.fillPoly(mask, parts, labels[thing['category_id']])
            cv2.imwrite(str(folder / file['file_name'].replace('.jpg', '.png')), mask)
    return ['nothing', *coco_names(root)]


def link_listed(root):
    """Folders with just the listed images, which mmseg takes all of; split -> folder."""
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/instances_{split}2017.json').read_text())
        (root / 'listed' / split).mkdir(parents=True)
        for file in content['images']:
            target = root / 'listed' / split / file['file_name']
            target.symlink_to((root / f'{split}2017' / file['file_name']).resolve())


def data_options(name, root, categories=NAMES):
    """The variables that point a config at ``root``; writes the masks that mmseg needs."""
    if name.startswith('mmdet'):
        return dict(data_root=str(root), class_names=list(categories))
    names = ['nothing', *categories]
    if not (root / 'masks').exists():
        assert write_masks(root) == names
        link_listed(root)
    return dict(
        data_root=str(root),
        dataset_type='BaseSegDataset',
        class_names=names,
        reduce_zero_label=False,
        train_images='listed/train',
        train_masks='masks/train',
        val_images='listed/val',
        val_masks='masks/val',
    )


def small_config(name, root, work_dir, categories=NAMES, width=32, regions=16, **options):
    """A config of configs/downstream on the data in ``root``, for a run of two iterations.

    ``width`` is that of the heads, ``regions`` what a second stage sees of an image.
    """
    run = dict(batch_size=2, num_workers=0, max_iters=2, log_interval=1, val_interval=1)
    options = {**SMALL[name], **data_options(name, root, categories), **run, **options}
    cfg = load_config(CONFIGS / f'downstream/{name}.py', options)
    cfg.model = narrow(cfg.model.to_dict(), width)
    few_regions(cfg, regions)
    cfg.work_dir = str(work_dir)
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{Path(work_dir).name}_{id(cfg)}'  # MMEngine keeps instances by name
    check_config(cfg)
    return cfg


def narrow(part, width):
    """Heads of ``width`` channels instead of 256, and twice as many instead of 1,024."""
    if isinstance(part, dict):
        return {key: narrow(value, width) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [narrow(value, width) for value in part]
    return {256: width, 1024: 2 * width}.get(part, part) if isinstance(part, int) else part


def few_regions(cfg, count):
    """Regions that the second stage sees, and objects that are found, however unsure it is."""
    stages = cfg.model.get('train_cfg', {}).get('rcnn', [])
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = count
    for part in ('train_cfg.rpn_proposal', 'test_cfg.rpn'):
        group, key = part.split('.')
        if key in cfg.model.get(group, {}):
            cfg.model[group][key].update(nms_pre=200, max_per_img=4 * count)
    if 'rcnn' in cfg.model.test_cfg:
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=count)


def pretrain(images, work_dir, **options):
    """One step of I-JEPA on the images below a folder; the checkpoint's path."""
    options = {
        **VIT,
        'data_root': str(images),
        'split': None,
        'img_size': 128,
        'patch_size': 16,
        'predictor_depth': 1,
        'predictor_width': 48,
        'batch_size': 2,
        'num_workers': 0,
        'max_iters': 1,
        **options,
    }
    cfg = load_config(CONFIGS / 'ijepa/vit_tiny4_cifar10.py', options)
    cfg.work_dir, cfg.log_level = str(work_dir), 'WARNING'
    cfg.experiment_name = f'{Path(work_dir).name}_{id(cfg)}'
    build_runner(cfg).train()
    return Path(work_dir) / f'iter_{cfg.max_iters}.pth'


def evaluate(run, work_dir):
    """tools/test.py on what a run of two iterations has left; the scores and the pictures."""
    spec = importlib.util.spec_from_file_location('tool', CONFIGS.parent / 'tools/test.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (config,) = run.glob('*.py')
    scores = tool.main([str(config), str(run / 'iter_2.pth'), '--work-dir', str(work_dir)])
    return scores, [cv2.imread(str(p)) for p in sorted(work_dir.rglob('vis_image/*.png'))]


def listed_images(root, split='val'):
    """The images of a split, as they are listed."""
    content = json.loads((root / f'annotations/instances_{split}2017.json').read_text())
    return [cv2.imread(str(root / f'{split}2017' / f['file_name'])) for f in content['images']]


def assert_drawn(pictures, images):
    """Every picture shows an image twice, with the truth and with the predictions on it."""
    assert len(pictures) == len(images) > 0
    for drawn, plain in zip(pictures, images, strict=True):
        halves = np.split(drawn.astype(int), 2, axis=1)
        for half in halves:
            assert (np.abs(half - plain).max(2) > 20).mean() > 0.001
        assert np.abs(halves[0] - halves[1]).max() > 20
