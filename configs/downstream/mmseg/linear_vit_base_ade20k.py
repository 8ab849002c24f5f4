"""Linear segmentation of ADE20K: frozen ViT-B, four levels side by side, BatchNorm, 1 x 1 conv.

    tools/dist_train.sh configs/downstream/mmseg/linear_vit_base_ade20k.py 8 --amp fp16 \
        --cfg-options jepa_checkpoint=work_dirs/ijepa/vit_base16_in1k/epoch_600.pth
    python tools/test.py configs/downstream/mmseg/linear_vit_base_ade20k.py \
        work_dirs/downstream/mmseg/linear_vit_base_ade20k/iter_160000.pth

iBOT's protocol (arXiv 2111.07832), batch 16 (8 x 2), 512 x 512, 160k iterations. Not measured; no
published figure of a JEPA encoder is known to us.
"""

_base_ = ['mmseg::_base_/models/upernet_beit.py', './_base_/ade20k.py']

arch, channels = 'base', 768
out_indices = (3, 5, 7, 11)
lr = 8e-4
norm = 'SyncBN'
size = _base_.crop_size
levels = len(out_indices)

model = dict(
    data_preprocessor=dict(size=size, test_cfg=dict(size_divisor=16)),
    backbone=dict(
        _delete_=True,
        type='mmjepa.JEPAViTBackbone',
        arch=arch,
        img_size=size,
        out_indices=out_indices,
        final_norm=True,
        frozen=True,
    ),
    neck=dict(
        _delete_=True, type='mmjepa.ConcatLevels', channels=channels, count=levels, norm=norm
    ),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=levels * channels,
        channels=levels * channels,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=_base_.num_classes,
    ),
    auxiliary_head=None,
    test_cfg=dict(mode='slide', crop_size=size, stride=[2 * side // 3 for side in size]),
)
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=0.05))
