"""I-JEPA, ViT-H/14, ImageNet-1K (arXiv 2301.08243): 79.3 linear top-1 published.

    tools/dist_train.sh configs/ijepa/vit_huge14_in1k.py 16 --amp        # 16 GPUs x 128 = 2,048

Recipe of the release: AdamW, 2e-4 -> 1e-3 over 40 epochs -> 1e-6, weight decay 0.04 -> 0.4, EMA
0.996 -> 1, bf16, crops of 30 to 100 % and no other augmentation.
Under 72 hours on 16 A100 of 80 GB, says the paper.
"""

_base_ = ['./vit_base16_in1k.py']

batch_size = 128  # a process
max_epochs = 300
max_iters = None
warmup = 40 / 300  # of the run
arch = 'huge'
patch_size = 14
predictor_depth = 12

model = dict(encoder=dict(arch=arch, patch_size=patch_size), predictor=dict(depth=predictor_depth))
train_dataloader = dict(batch_size=batch_size)
train_cfg = dict(max_epochs=max_epochs)
schedules = _base_.param_scheduler
phases = [dict(until=warmup, start=0.2, stop=1.0, curve='linear'), schedules[0]['phases'][1]]
param_scheduler = [{**schedules[0], 'phases': phases}, schedules[1]]
