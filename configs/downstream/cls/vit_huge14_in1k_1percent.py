"""Fine-tuning of a ViT-H/14 on 1 % of ImageNet-1K's labels: 73.3 top-1 published (2301.08243).

    tools/dist_train.sh configs/downstream/cls/vit_huge14_in1k_1percent.py 8 --amp --cfg-options \
        jepa_checkpoint=work_dirs/ijepa/vit_huge14_in1k/epoch_300.pth subset=1percent.txt

8 GPUs x 64 = 512, 50 epochs, I-JEPA's recipe: no mixing, no drop path. `subset` is the published
list of 12,811 file names; without it 1 % of each class is drawn, always the same. Not run here; the
5 epochs of warm-up are ours.
"""

_base_ = ['./_base_/imagenet.py', '../_base_/layer_decay_adamw.py', '../_base_/runtime.py']

train_fraction = 0.01  # of each class, where no subset lists the images
batch_size = 64  # a process
arch = 'huge'
patch_size = 14
checkpoint_blocks = False  # True: less memory, a third more time
label_smoothing = 0.1
lr = 3e-5
weight_decay = 0.4
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
        checkpoint_blocks=checkpoint_blocks,
        final_norm=False,
    ),
    num_classes=_base_.num_classes,
    label_smoothing=label_smoothing,
)
drawn = train_fraction if _base_.subset is None else 1.0
train_dataloader = dict(batch_size=batch_size, dataset=dict(fraction=drawn))
val_dataloader = test_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=weight_decay), paramwise_cfg=dict(layer_decay=layer_decay)
)
rising = dict(until=warmup, start=0.0, stop=1.0, curve='linear')
falling = dict(until=1.0, start=1.0, stop=1e-3)
param_scheduler = dict(type='PhasedScheduler', param_name='lr', first=1, phases=[rising, falling])
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(enable=False, base_batch_size=512)
