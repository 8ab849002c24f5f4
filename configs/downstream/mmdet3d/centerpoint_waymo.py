"""CenterPoint on 20 % of Waymo with the plain sparse encoder, as AD-L-JEPA was fine-tuned.

    python tools/create_data.py waymo --root data/waymo     # names the converter's environment
    tools/dist_train.sh configs/downstream/mmdet3d/centerpoint_waymo.py 4 \
        --cfg-options jepa_checkpoint=work_dirs/adl_jepa/waymo/epoch_30.pth

Published LEVEL_2 AP, mean of three classes: 64.67 from scratch, 65.07 after pre-training on 20 %
of the frames, 65.41 on all. Batch 16 (4 x 4), 30 epochs, one cycle 3e-4 -> 3e-3 -> 3e-8. Against
the paper no objects are pasted (mmdet3d's Waymo recipe leaves that out). There is no validation
during training: tools/test.py evaluates, where Waymo's package and evaluator are installed.
"""

_base_ = [
    'mmdet3d::_base_/models/centerpoint_voxel01_second_secfpn_nus.py',
    './_base_/waymo.py',
    './_base_/runtime.py',
]

encoder_type = 'SparseEncoder'  # or 'mmjepa.SparseVoxelEncoder'
max_epochs = 30
voxel_size = [0.1, 0.1, 0.15]
max_voxels = [150000, 150000]
box = _base_.point_cloud_range
cells = [round((box[i + 3] - box[i]) / voxel_size[i]) for i in range(3)]
shape = [cells[2] + 1, *cells[1::-1]]
grid = dict(point_cloud_range=box, voxel_size=voxel_size)
cell = dict(pc_range=box[:2], voxel_size=voxel_size[:2])
limits = [*(v - 5 for v in box[:2]), -10, *(v + 5 for v in box[3:5]), 10]
nms = dict(pre_max_size=4096, post_max_size=500, nms_thr=0.7)  # one for all three classes

model = dict(
    data_preprocessor=dict(voxel_layer=dict(**grid, max_num_points=5, max_voxels=max_voxels)),
    pts_middle_encoder=dict(_delete_=True, type=encoder_type, in_channels=5, sparse_shape=shape),
    pts_bbox_head=dict(
        type='StaticCenterHead',  # no velocities
        loss_bbox=dict(loss_weight=2.0),
        tasks=[dict(num_class=3, class_names=_base_.class_names)],
        common_heads=dict(_delete_=True, reg=(2, 2), height=(1, 2), dim=(3, 2), rot=(2, 2)),
        bbox_coder=dict(**cell, post_center_range=limits, code_size=7),
    ),
    train_cfg=dict(pts=dict(**grid, grid_size=cells, code_weights=[1.0] * 8 + [0.0] * 2)),
    test_cfg=dict(pts=dict(**cell, **nms, post_center_limit_range=limits)),
)
train_cfg = dict(max_epochs=max_epochs)
val_cfg = val_dataloader = val_evaluator = None  # Waymo's evaluator: tools/test.py
auto_scale_lr = dict(enable=False, base_batch_size=16)
