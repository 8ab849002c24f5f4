"""COCO 2017 with instance masks, and the run: data, loaders, metric, pictures.

No grouping by aspect ratio: mmdet's batch sampler keeps what it has drawn, so that a resumed run
would see other batches.
"""

_base_ = ['../../_base_/runtime.py', '../../_base_/layer_decay_adamw.py']

default_scope = 'mmdet'
custom_imports = dict(
    imports=['mmjepa.models', 'mmjepa.downstream.images'], allow_failed_imports=False
)

data_root = 'data/coco'
train_file, train_images = 'annotations/instances_train2017.json', 'train2017'
val_file, val_images = 'annotations/instances_val2017.json', 'val2017'
batch_size = 2  # a process
num_workers = 4
class_names = None  # in the order of the file's categories; None: COCO's 80
draw = False  # pictures of the predictions, by tools/test.py
draw_score = 0.3  # of the objects in them
filter_empty = True  # no training on images without objects

coco = dict(type='CocoDataset', data_root=data_root)
if class_names:
    coco['metainfo'] = dict(classes=class_names)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmjepa.ResumableBatchSampler'),
    dataset=dict(
        type='mmjepa.SeededDataset',
        dataset=dict(
            coco,
            ann_file=train_file,
            data_prefix=dict(img=train_images),
            filter_cfg=dict(filter_empty_gt=filter_empty, min_size=32),
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(coco, ann_file=val_file, data_prefix=dict(img=val_images), test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=f'{data_root}/{val_file}', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

visualizer = dict(type='DetLocalVisualizer', vis_backends=_base_.vis_backends)
default_hooks = dict(
    visualization=dict(type='DetVisualizationHook', draw=draw, score_thr=draw_score)
)
