"""SECOND on KITTI, 3 classes: mmdet3d's recipe from a pre-trained encoder or from scratch.

    python tools/create_data.py kitti --root data/kitti                # once
    tools/dist_train.sh configs/downstream/mmdet3d/second_kitti.py 8 \
        --cfg-options jepa_checkpoint=work_dirs/adl_jepa/kitti/epoch_30.pth
    python tools/test.py configs/downstream/mmdet3d/second_kitti.py work_dirs/.../epoch_80.pth

Batch 48 (8 x 6), 80 passes over the train frames. mmdet3d reports 65.3 mean moderate AP (R11)
for it from scratch. Its momentum schedule takes ratios for absolute values and ends at
beta1 = 0.99993; here it is 0.95 -> 0.85 -> 0.95.
"""

_base_ = [
    'mmdet3d::_base_/models/second_hv_secfpn_kitti.py',
    './_base_/kitti.py',
    './_base_/runtime.py',
]

encoder_type = 'SparseEncoder'  # or 'mmjepa.SparseVoxelEncoder'
voxel_size = [0.05, 0.05, 0.1]
max_voxels = [16000, 40000]  # training, evaluation
box = _base_.point_cloud_range
cells = [round((box[i + 3] - box[i]) / voxel_size[i]) for i in range(3)]
anchor_z = [-0.6, -0.6, -1.78]

model = dict(
    data_preprocessor=dict(
        voxel_layer=dict(point_cloud_range=box, voxel_size=voxel_size, max_voxels=max_voxels)
    ),
    middle_encoder=dict(
        _delete_=True, type=encoder_type, in_channels=4, sparse_shape=[cells[2] + 1, *cells[1::-1]]
    ),
    bbox_head=dict(anchor_generator=dict(ranges=[[*box[:2], z, *box[3:5], z] for z in anchor_z])),
)
optim_wrapper = dict(optimizer=dict(lr=1.8e-2))  # the peak of the cycle
auto_scale_lr = dict(enable=False, base_batch_size=48)
