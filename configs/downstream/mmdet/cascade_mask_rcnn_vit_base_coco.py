"""Cascade Mask R-CNN on COCO with ViT-B and an FPN over four rescaled levels: iBOT's 1x recipe.

    tools/dist_train.sh configs/downstream/mmdet/cascade_mask_rcnn_vit_base_coco.py 8 \
        --amp fp16 --cfg-options jepa_checkpoint=work_dirs/ijepa/vit_base16_in1k/epoch_600.pth
    python tools/test.py configs/downstream/mmdet/cascade_mask_rcnn_vit_base_coco.py \
        work_dirs/downstream/mmdet/cascade_mask_rcnn_vit_base_coco/epoch_12.pth

Batch 16 (8 x 2), 12 epochs. Not measured; published for ViT-B: iBOT 51.2 box and 44.2 mask AP,
I-JEPA 49.9 and 44.5 (as tabulated by C-JEPA, arXiv 2410.19560, whose rows mix recipes).
The warm-up over 1,000 iterations is ours.
"""

_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', './_base_/coco_ibot.py']

arch, channels = 'base', 768
out_indices = (3, 5, 7, 11)
img_size = 224  # that the positions are made for, interpolated for every image
norm = 'SyncBN'
num_classes = len(_base_.class_names or range(80))
head = dict(
    type='Shared4Conv1FCBBoxHead',
    num_classes=num_classes,
    norm_cfg=dict(type=norm),
    reg_class_agnostic=False,
    reg_decoded_bbox=True,
    loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
)

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmjepa.JEPAViTBackbone',
        arch=arch,
        img_size=img_size,
        out_indices=out_indices,
        drop_path_rate=0.2,
        final_norm=False,
    ),
    neck=[
        dict(type='mmjepa.MultiLevelRescale', channels=channels, norm=norm),
        dict(type='FPN', in_channels=[channels] * 4, out_channels=256, num_outs=5),
    ],
    roi_head=dict(
        bbox_head=[{**h.to_dict(), **head} for h in _base_.model.roi_head.bbox_head],
        mask_head=dict(num_classes=num_classes),
    ),
)
