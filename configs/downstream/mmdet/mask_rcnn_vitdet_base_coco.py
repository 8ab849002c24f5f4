"""Mask R-CNN on COCO with a plain ViT-B and a simple pyramid: ViTDet's recipe, 100 epochs.

    tools/dist_train.sh configs/downstream/mmdet/mask_rcnn_vitdet_base_coco.py 8 --amp fp16 \
        --cfg-options batch_size=8 jepa_checkpoint=work_dirs/ijepa/vit_base16_in1k/epoch_600.pth
    python tools/test.py configs/downstream/mmdet/mask_rcnn_vitdet_base_coco.py \
        work_dirs/downstream/mmdet/mask_rcnn_vitdet_base_coco/iter_184375.pth

Batch 64 (8 x 8), 1024 x 1024 pixels, 184,375 iterations. Not measured; no published figure of a
JEPA encoder is known to us.
"""

_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './_base_/coco_vitdet.py']

arch, channels = 'base', 768
window_size = 14  # 0: every block attends to the whole image
global_blocks = (2, 5, 8, 11)
norm = dict(type='mmjepa.LayerNorm2d', eps=1e-6)
heads = dict(num_classes=len(_base_.class_names or range(80)), norm_cfg=norm)

model = dict(
    data_preprocessor=dict(pad_size_divisor=_base_.image_size),  # to the square
    backbone=dict(
        _delete_=True,
        type='mmjepa.JEPAViTBackbone',
        arch=arch,
        img_size=_base_.image_size,
        window_size=window_size,
        global_blocks=global_blocks if window_size else (),
        rel_pos=True,
        drop_path_rate=0.1,
        final_norm=False,
    ),
    neck=dict(_delete_=True, type='mmjepa.SimpleFPN', in_channels=channels, out_channels=256),
    rpn_head=dict(num_convs=2),
    roi_head=dict(bbox_head=dict(heads, type='Shared4Conv1FCBBoxHead'), mask_head=heads),
)
