"""ADE20K with 150 classes, and the run: BEiT's and iBOT's input and schedule, 160k iterations."""

_base_ = ['../../_base_/runtime.py', '../../_base_/layer_decay_adamw.py']

default_scope = 'mmseg'
custom_imports = dict(
    imports=['mmjepa.models', 'mmjepa.downstream.images'], allow_failed_imports=False
)

data_root = 'data/ade/ADEChallengeData2016'
dataset_type = 'ADE20KDataset'  # 'BaseSegDataset' for folders of your own, with class_names
class_names = None  # None: those of the data set
reduce_zero_label = True  # label 0 is none of the classes
train_images, train_masks = 'images/training', 'annotations/training'
val_images, val_masks = 'images/validation', 'annotations/validation'
batch_size = 2  # a process
num_workers = 4
crop = 512
max_iters = 160_000
val_interval = 13  # epochs of 1,263 iterations
warmup = 1500 / 160_000  # share of the run
draw = False  # pictures of the predictions, by tools/test.py

num_classes = len(class_names or range(150))
crop_size = (crop, crop)
scale = (4 * crop, crop)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),  # masks keep the size of the file
    dict(type='PackSegInputs'),
]
ade = dict(type=dataset_type, data_root=data_root, reduce_zero_label=reduce_zero_label)
if class_names:
    ade['metainfo'] = dict(classes=class_names)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmjepa.ResumableBatchSampler'),
    dataset=dict(
        type='mmjepa.SeededDataset',
        dataset=dict(
            ade,
            data_prefix=dict(img_path=train_images, seg_map_path=train_masks),
            pipeline=train_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ade,
        data_prefix=dict(img_path=val_images, seg_map_path=val_masks),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

param_scheduler = dict(
    type='mmjepa.PhasedScheduler',
    param_name='lr',
    phases=[
        dict(until=warmup, start=1e-6, stop=1.0, curve='linear'),
        dict(until=1.0, start=1.0, stop=0.0, curve='linear'),
    ],
)
train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=max(1, max_iters // 10)),
    visualization=dict(type='SegVisualizationHook', draw=draw, interval=1),
)
log_processor = dict(by_epoch=False)
visualizer = dict(type='SegLocalVisualizer', vis_backends=_base_.vis_backends)
auto_scale_lr = dict(enable=False, base_batch_size=16)
