"""Waymo detection, 3 classes, every 5th frame; augmentations of mmdet3d without pasted objects."""

data_root = 'data/waymo/kitti_format'
batch_size = 4  # a process
num_workers = 4
load_interval = 5  # every 5th train frame: 20 %
label_fraction = 1.0  # of these, the first ones in the list
class_names = ['Car', 'Pedestrian', 'Cyclist']
point_cloud_range = [-75.2, -75.2, -2, 75.2, 75.2, 4]
ground_truth = 'data/waymo/waymo_format/gt.bin'  # of the validation set, for Waymo's evaluator

load_points = dict(
    type='LoadPointsFromFile',
    coord_type='LIDAR',
    load_dim=6,
    use_dim=5,
    norm_intensity=True,  # tanh, as in pre-training
)
train_pipeline = [
    load_points,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(
        type='RandomFlip3D',
        sync_2d=False,
        flip_ratio_bev_horizontal=0.5,
        flip_ratio_bev_vertical=0.5,
    ),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.78539816, 0.78539816],
        scale_ratio_range=[0.95, 1.05],
    ),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='PointShuffle'),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
]
test_pipeline = [
    load_points,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(
        type='Pack3DDetInputs',
        keys=['points'],
        meta_keys=['box_type_3d', 'sample_idx', 'context_name', 'timestamp'],
    ),
]
waymo = dict(
    type='WaymoDataset',
    data_root=data_root,
    data_prefix=dict(pts='training/velodyne', sweeps='training/velodyne'),
    modality=dict(use_lidar=True, use_camera=False),
    metainfo=dict(classes=class_names),
    box_type_3d='LiDAR',
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='mmjepa.ResumableBatchSampler'),
    dataset=dict(
        type='mmjepa.SeededDataset',
        dataset=dict(
            waymo,
            ann_file='waymo_infos_train.pkl',
            pipeline=train_pipeline,
            load_interval=load_interval,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(waymo, ann_file='waymo_infos_val.pkl', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='WaymoMetric', waymo_bin_file=ground_truth)
test_evaluator = val_evaluator
