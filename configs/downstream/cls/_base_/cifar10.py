"""CIFAR-10 as folders, {data_root}/{train,test}/<class>/*.jpg, at its own 32 x 32 pixels."""

default_scope = 'mmjepa'
custom_imports = dict(imports=['mmjepa.downstream.images'], allow_failed_imports=False)

data_root = 'data/cifar10'
num_classes = 10
test_split = 'test'
topk = (1, 5)
train_fraction = 1.0  # of each class, a fixed choice
subset = None  # or a text file that lists the training images
img_size = 32
batch_size = 256  # a process
num_workers = 4

pack = dict(type='PackJEPAInputs', keys=['image'], meta_keys=['label'])
train_pipeline = [
    dict(type='LoadCroppedImage', size=img_size, scale=(0.3, 1.0)),
    dict(type='RandomFlipImage', prob=0.5),
    dict(type='RandAugmentImage', magnitude=9, std=0.5),
    pack,
]
whole = dict(type='ResizeCenterCrop', size=img_size, resize=img_size)
images = dict(type='LabelledImageDataset', data_root=data_root, num_classes=num_classes)
loader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    pin_memory=True,
    collate_fn=dict(type='mmjepa.jepa_collate', stack=['image']),
)
train_dataloader = dict(
    **loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    dataset=dict(
        images, split='train', fraction=train_fraction, subset=subset, pipeline=train_pipeline
    ),
)
val_dataloader = test_dataloader = dict(
    **loader,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(images, split=test_split, pipeline=[whole, pack]),
)
val_evaluator = test_evaluator = dict(type='Accuracy', topk=topk)
