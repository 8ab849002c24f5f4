"""Fine-tuning of a ViT-Ti/4 on CIFAR-10 at its own 32 x 32 pixels.

    python tools/train.py configs/downstream/cls/vit_tiny4_cifar10_finetune.py --amp \
        --cfg-options jepa_checkpoint=work_dirs/dmt_jepa/vit_tiny4_cifar10/epoch_100.pth

One GPU, batch 256, 50 epochs: our own small recipe, without published figures.
"""

_base_ = ['./_base_/cifar10.py', '../_base_/layer_decay_adamw.py', '../_base_/runtime.py']

arch = 'tiny'
patch_size = 4
drop_path = 0.1
mixup = 0.8
cutmix = 1.0
label_smoothing = 0.1
lr = 1e-3
weight_decay = 0.05
layer_decay = 0.75
max_epochs = 50
warmup = 5 / 50  # of the run

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='JEPAViT',
        arch=arch,
        img_size=_base_.img_size,
        patch_size=patch_size,
        drop_path_rate=drop_path,
        final_norm=False,
    ),
    num_classes=_base_.num_classes,
    label_smoothing=label_smoothing,
    mixing=dict(type='MixImages', mixup=mixup, cutmix=cutmix),
)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=weight_decay), paramwise_cfg=dict(layer_decay=layer_decay)
)
rising = dict(until=warmup, start=0.0, stop=1.0, curve='linear')
falling = dict(until=1.0, start=1.0, stop=1e-3)
param_scheduler = dict(type='PhasedScheduler', param_name='lr', first=1, phases=[rising, falling])
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(enable=False, base_batch_size=256)
