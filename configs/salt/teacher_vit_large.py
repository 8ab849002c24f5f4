"""SALT's teacher (V-Pixel), ViT-L/16, 16 frames at 224 pixels (arXiv 2509.24317).

    tools/dist_train.sh configs/salt/teacher_vit_large.py 128 --amp      # 128 GPUs x 24 = 3,072

The recipe of teacher_vit_base.py; the teacher of the paper's students from ViT-L to ViT-G.
Published, frozen with an attentive probe, 80,000 steps: K400 70.4, SSv2 66.2.
"""

_base_ = ['./teacher_vit_base.py']

arch = 'large'

model = dict(encoder=dict(arch=arch))
