"""ViTDet's training on COCO (arXiv 2203.16527): input, optimizer, schedule.

Large-scale jitter: 0.1 to 2 times the size, cut to a square; the model fills up smaller images.
"""

_base_ = ['./coco.py']

image_size = 1024
max_iters = 184_375  # of 64 images
lr = 1e-4
layer_decay = 0.7
# shares of the run
warmup, first_drop, second_drop = 250 / 184_375, 163_889 / 184_375, 177_546 / 184_375

size = (image_size, image_size)
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    annotations,
    dict(type='RandomResize', scale=size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    annotations,  # for pictures; of the size of the file
    dict(type='PackDetInputs', meta_keys=meta_keys),
]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.1), paramwise_cfg=dict(layer_decay=layer_decay)
)
param_scheduler = dict(
    type='mmjepa.PhasedScheduler',
    param_name='lr',
    phases=[
        dict(until=warmup, start=1e-3, stop=1.0, curve='linear'),
        dict(until=first_drop, start=1.0, stop=1.0),
        dict(until=second_drop, start=0.1, stop=0.1),
        dict(until=1.0, start=0.01, stop=0.01),
    ],
)
train_cfg = dict(max_iters=max_iters)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=max(1, max_iters // 20)))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=False, base_batch_size=64)
