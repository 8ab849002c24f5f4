"""Fine-tuning of a ViT-B/16 on ImageNet-1K from a pre-trained encoder or from scratch.

    tools/dist_train.sh configs/downstream/cls/vit_base16_in1k_finetune.py 8 --amp \
        --cfg-options jepa_checkpoint=work_dirs/dmt_jepa/vit_base16_in1k/epoch_600.pth
    python tools/test.py configs/downstream/cls/vit_base16_in1k_finetune.py .../epoch_100.pth

8 GPUs x 128 = 1,024. I-JEPA of 600 epochs: 83.5 top-1 as C-JEPA's paper tabulates it (2410.19560);
not run here. I-JEPA's and DMT-JEPA's recipes of this size were never released: these are the
numbers of mmpretrain's MAE config, without random erasing.
"""

_base_ = ['./_base_/imagenet.py', '../_base_/layer_decay_adamw.py', '../_base_/runtime.py']

arch = 'base'
patch_size = 16
drop_path = 0.1
mixup = 0.8
cutmix = 1.0
label_smoothing = 0.1
lr = 2e-3
weight_decay = 0.05
layer_decay = 0.65
max_epochs = 100
warmup = 5 / 100  # of the run

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
auto_scale_lr = dict(enable=False, base_batch_size=1024)
