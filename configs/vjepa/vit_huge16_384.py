"""V-JEPA, ViT-H/16, clips of 16 frames at 384 pixels (arXiv 2404.08471): K400 81.9, SSv2 72.2.

    tools/dist_train.sh configs/vjepa/vit_huge16_384.py 240 --amp        # 240 GPUs x 10 = 2,400

Published figures are of frozen encoders with an attentive probe. Recipe of the release: that of
vit_large16_224.py, at the same learning rate.
"""

_base_ = ['./vit_large16_224.py']

batch_size = 10  # a process
arch = 'huge'
img_size = 384

model = dict(encoder=dict(arch=arch, img_size=img_size))
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        pipeline=[
            _base_.train_dataloader['dataset']['pipeline'][0],
            {**_base_.train_dataloader['dataset']['pipeline'][1], 'size': img_size},
            _base_.train_dataloader['dataset']['pipeline'][2],
        ]
    ),
)
auto_scale_lr = dict(base_batch_size=2400)
