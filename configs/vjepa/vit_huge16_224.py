"""V-JEPA, ViT-H/16, clips of 16 frames at 224 pixels (arXiv 2404.08471): K400 82.0, SSv2 71.4.

    tools/dist_train.sh configs/vjepa/vit_huge16_224.py 128 --amp        # 128 GPUs x 24 = 3,072

Published figures are of frozen encoders with an attentive probe. Recipe of the release: that of
vit_large16_224.py.
"""

_base_ = ['./vit_large16_224.py']

arch = 'huge'

model = dict(encoder=dict(arch=arch))
