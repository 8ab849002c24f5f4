"""UperNet on ADE20K with ViT-B, 512 x 512, 160k iterations: BEiT's and iBOT's recipe.

    tools/dist_train.sh configs/downstream/mmseg/upernet_vit_base_ade20k.py 8 --amp fp16 \
        --cfg-options jepa_checkpoint=work_dirs/ijepa/vit_base16_in1k/epoch_600.pth
    python tools/test.py configs/downstream/mmseg/upernet_vit_base_ade20k.py \
        work_dirs/downstream/mmseg/upernet_vit_base_ade20k/iter_160000.pth

Batch 16 (8 x 2), sliding test windows, one scale. Not measured; published for ViT-B: iBOT 50.0,
MAE 48.1, I-JEPA 47.6 mIoU (as tabulated by C-JEPA, arXiv 2410.19560). ViT-L: arch=large
channels=1024 out_indices="(7,11,15,23)" lr=2e-5 layer_decay=0.95 drop_path=0.2.
"""

_base_ = ['mmseg::_base_/models/upernet_beit.py', './_base_/ade20k.py']

arch, channels = 'base', 768
out_indices = (3, 5, 7, 11)
lr = 8e-5
layer_decay = 0.65
drop_path = 0.1
norm = 'SyncBN'
size = _base_.crop_size
heads = dict(num_classes=_base_.num_classes, norm_cfg=dict(type=norm))

model = dict(
    data_preprocessor=dict(size=size, test_cfg=dict(size_divisor=16)),
    backbone=dict(
        _delete_=True,
        type='mmjepa.JEPAViTBackbone',
        arch=arch,
        img_size=size,
        out_indices=out_indices,
        drop_path_rate=drop_path,
        final_norm=True,
    ),
    neck=dict(_delete_=True, type='mmjepa.MultiLevelRescale', channels=channels, norm=norm),
    decode_head=dict(heads, in_channels=[channels] * 4, channels=channels),
    auxiliary_head=dict(heads, in_channels=channels),
    test_cfg=dict(mode='slide', crop_size=size, stride=[2 * side // 3 for side in size]),
)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05), paramwise_cfg=dict(layer_decay=layer_decay)
)
