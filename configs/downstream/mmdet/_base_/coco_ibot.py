"""iBOT's training on COCO (arXiv 2111.07832): input, optimizer, 12 epochs with drops at 8 and 11.

Short side 480 to 800; half of the images are cut before (DETR's augmentation).
"""

_base_ = ['./coco.py']

max_epochs = 12
val_interval = 1
lr = 1e-4
layer_decay = 0.75
short_sides = list(range(480, 801, 32))
crop_sides = [400, 500, 600]  # before the cut
crop_size = (384, 600)  # range of its sides
long_side = 1333
warmup, first_drop, second_drop = 1000 / 87_960, 8 / 12, 11 / 12  # shares of the run

meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
resize = dict(
    type='RandomChoiceResize', scales=[(s, long_side) for s in short_sides], keep_ratio=True
)
annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    annotations,
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='RandomChoice',
        transforms=[
            [resize],
            [
                dict(resize, scales=[(s, long_side) for s in crop_sides]),
                dict(
                    type='RandomCrop',
                    crop_type='absolute_range',
                    crop_size=crop_size,
                    allow_negative_crop=True,
                ),
                resize,
            ],
        ],
    ),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(long_side, short_sides[-1]), keep_ratio=True),
    annotations,  # for pictures; of the size of the file
    dict(type='PackDetInputs', meta_keys=meta_keys),
]

train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05), paramwise_cfg=dict(layer_decay=layer_decay)
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
train_cfg = dict(max_epochs=max_epochs, val_interval=val_interval)
auto_scale_lr = dict(enable=False, base_batch_size=16)
