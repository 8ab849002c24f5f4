"""Linear probe of a ViT-B/16 on ImageNet-1K: 72.9 top-1 published for I-JEPA of 600 epochs.

    tools/dist_train.sh configs/downstream/cls/vit_base16_in1k_linear.py 8 --amp \
        --cfg-options jepa_checkpoint=work_dirs/ijepa/vit_base16_in1k/epoch_600.pth

I-JEPA's protocol (2301.08243, A.2): frozen target encoder, averaged tokens, LARS, batch 16,384
(8 GPUs x 2,048), 50 epochs, a tenth of the rate every 15. Published is the better one of
`last_layers` 1 and 4, with the best of `lr_per_256` 0.01, 0.05, 0.001 and `weight_decay` 5e-4, 0.
That these rates are for 256 images, as in VISSL, is our reading. Not run here.
"""

_base_ = ['./_base_/imagenet.py', '../_base_/layer_decay_adamw.py', '../_base_/runtime.py']

rand_augment = False
batch_size = 2048  # a process
arch = 'base'
patch_size = 16
last_layers = 1
head_norm = None  # or 'batch'
lr_per_256 = 0.05
weight_decay = 0.0
max_epochs = 50

model = dict(
    type='ImageClassifier',
    backbone=dict(type='JEPAViT', arch=arch, img_size=_base_.img_size, patch_size=patch_size),
    num_classes=_base_.num_classes,
    head_norm=head_norm,
    last_layers=last_layers,
    frozen=True,
)
train_pipeline = [*_base_.cropping, *[_base_.augment] * rand_augment, _base_.pack]
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = test_dataloader = dict(batch_size=batch_size)
optimizer = dict(type='LARS', lr=64 * lr_per_256, momentum=0.9, weight_decay=weight_decay)
optim_wrapper = dict(optimizer=dict(_delete_=True, **optimizer))
steps = [(0.3, 1.0), (0.6, 0.1), (0.9, 0.01), (1.0, 0.001)]
phases = [dict(until=end, start=rate, stop=rate, curve='constant') for end, rate in steps]
param_scheduler = dict(type='PhasedScheduler', param_name='lr', phases=phases)
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(enable=False, base_batch_size=16384)
