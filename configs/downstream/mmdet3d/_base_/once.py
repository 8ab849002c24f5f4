"""ONCE detection, 5 classes, evaluated as Vehicle, Pedestrian, Cyclist."""

data_root = 'data/once'
batch_size = 4  # a process
num_workers = 4
label_fraction = 1.0  # of the train frames, the first ones in the list
class_names = ['Car', 'Bus', 'Truck', 'Pedestrian', 'Cyclist']
point_cloud_range = [-75.2, -75.2, -5, 75.2, 75.2, 3]
sample_groups = dict(Car=1, Bus=4, Truck=3, Pedestrian=2, Cyclist=2)  # at least so many a frame

load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4)
db_sampler = dict(
    type='SeededDataBaseSampler',
    data_root=data_root,
    info_path=f'{data_root}/once_dbinfos_train.pkl',
    rate=1.0,
    prepare=dict(filter_by_min_points=dict.fromkeys(class_names, 5)),
    classes=class_names,
    sample_groups=sample_groups,
    points_loader=load_points,
)
train_pipeline = [
    load_points,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ObjectSample', db_sampler=db_sampler),
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
    dict(type='Pack3DDetInputs', keys=['points']),
]
once = dict(
    type='ONCEDataset',
    data_root=data_root,
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
        dataset=dict(once, ann_file='once_infos_train.pkl', pipeline=train_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(once, ann_file='once_infos_val.pkl', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmjepa.ONCEAPMetric')
test_evaluator = val_evaluator
