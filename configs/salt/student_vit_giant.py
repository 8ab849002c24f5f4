"""SALT's student, ViT-g/16 of a ViT-L/16 teacher, 16 frames at 224 pixels (arXiv 2509.24317).

    tools/dist_train.sh configs/salt/teacher_vit_large.py 128 --amp
    tools/dist_train.sh configs/salt/student_vit_giant.py 128 --amp      # 128 GPUs x 24 = 3,072

The recipe of student_vit_base.py.
Published with 80,000 + 160,000 steps, frozen with an attentive probe: K400 78.0, SSv2 72.9.
"""

_base_ = ['./student_vit_base.py']

arch = 'giant'
teacher_arch = 'large'
teacher_checkpoint = 'work_dirs/salt/teacher_vit_large/iter_40000.pth'

model = dict(
    encoder=dict(arch=arch),
    target=dict(encoder=dict(arch=teacher_arch)),
    teacher_checkpoint=teacher_checkpoint,
)
