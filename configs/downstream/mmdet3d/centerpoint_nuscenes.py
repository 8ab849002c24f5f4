"""CenterPoint (0.1 m voxels) on nuScenes with the plain sparse encoder that AD-L-JEPA trains.

    python tools/create_data.py nuscenes --root data/nuscenes          # once
    tools/dist_train.sh configs/downstream/mmdet3d/centerpoint_nuscenes.py 8 \
        --cfg-options jepa_checkpoint=work_dirs/adl_jepa/nuscenes/epoch_30.pth

Batch 32 (8 x 4), 20 epochs, class-balanced sampling. mmdet3d's own model, with the residual
encoder, reports 56.11 mAP, 64.61 NDS from scratch; nobody has published the plain one, nor AD-L-JEPA
on nuScenes. The cycle is mmdet3d's, 1e-4 -> 1e-3 -> 1e-8, with beta1 in absolute values.
"""

_base_ = [
    'mmdet3d::_base_/models/centerpoint_voxel01_second_secfpn_nus.py',
    './_base_/nuscenes.py',
    './_base_/runtime.py',
]

encoder_type = 'SparseEncoder'  # or 'mmjepa.SparseVoxelEncoder'
max_epochs = 20
val_interval = 20
voxel_size = [0.1, 0.1, 0.2]
max_voxels = [90000, 120000]  # training, evaluation
box = _base_.point_cloud_range
cells = [round((box[i + 3] - box[i]) / voxel_size[i]) for i in range(3)]

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(point_cloud_range=box, voxel_size=voxel_size, max_voxels=max_voxels)
    ),
    pts_middle_encoder=dict(
        _delete_=True, type=encoder_type, in_channels=5, sparse_shape=[cells[2] + 1, *cells[1::-1]]
    ),
    pts_bbox_head=dict(bbox_coder=dict(pc_range=box[:2], voxel_size=voxel_size[:2])),
    train_cfg=dict(pts=dict(grid_size=cells, voxel_size=voxel_size, point_cloud_range=box)),
    test_cfg=dict(pts=dict(pc_range=box[:2], voxel_size=voxel_size[:2])),
)
train_cfg = dict(max_epochs=max_epochs, val_interval=val_interval)
optim_wrapper = dict(optimizer=dict(lr=1e-3, betas=(0.9, 0.999)), clip_grad=dict(max_norm=35))
auto_scale_lr = dict(enable=False, base_batch_size=32)
