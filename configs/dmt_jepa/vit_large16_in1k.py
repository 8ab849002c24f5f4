"""DMT-JEPA, ViT-L/16, ImageNet-1K (arXiv 2405.17995).

    tools/dist_train.sh configs/dmt_jepa/vit_large16_in1k.py 8 --amp     # 8 GPUs x 256 = 2,048

Recipe of the release: AdamW, 2e-4 -> 1e-3 over 40 epochs -> 1e-6, weight decay 0.04 -> 0.4, EMA
0.996 -> 1, bf16, crops of 30 to 100 % and no other augmentation.
No figure of the paper is printed here: its tables could not be checked. Deviations from the release,
which cannot run as it is, stand in `mmjepa/models/jepa/dmt_jepa.py`.
"""

_base_ = ['./vit_base16_in1k.py']

arch = 'large'
predictor_depth = 12

model = dict(encoder=dict(arch=arch), predictor=dict(depth=predictor_depth))
