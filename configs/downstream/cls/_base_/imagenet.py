"""ImageNet-1K, {data_root}/{train,val}/<class>/*.JPEG: MAE's augmentations, evaluation as usual."""

default_scope = 'mmjepa'
custom_imports = dict(imports=['mmjepa.downstream.images'], allow_failed_imports=False)

data_root = 'data/imagenet'
num_classes = 1000
train_fraction = 1.0  # of each class, a fixed choice
subset = None  # or a text file that lists the training images
img_size = 224
interpolation = 'bicubic'
rand_augment = True
batch_size = 128  # a process
num_workers = 8

pack = dict(type='PackJEPAInputs', keys=['image'], meta_keys=['label'])
cropping = [
    dict(type='LoadCroppedImage', size=img_size, scale=(0.08, 1.0), interpolation=interpolation),
    dict(type='RandomFlipImage', prob=0.5),
]
augment = dict(type='RandAugmentImage', magnitude=9, std=0.5)
train_pipeline = [*cropping, *[augment] * rand_augment, pack]
whole = dict(
    type='ResizeCenterCrop',
    size=img_size,
    resize=round(img_size * 256 / 224),
    interpolation=interpolation,
)
images = dict(type='LabelledImageDataset', data_root=data_root, num_classes=num_classes)
loader = dict(
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    pin_memory=True,
    collate_fn=dict(type='mmjepa.jepa_collate', stack=['image']),
)
train_dataloader = dict(
    **loader,
    batch_size=batch_size,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    dataset=dict(
        images, split='train', fraction=train_fraction, subset=subset, pipeline=train_pipeline
    ),
)
val_dataloader = test_dataloader = dict(
    **loader,
    batch_size=batch_size,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, split='val', pipeline=[whole, pack]),
)
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1, 5))
