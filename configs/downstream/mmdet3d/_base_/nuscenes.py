"""nuScenes detection, 10 classes, 10 sweeps; augmentations of mmdet3d's CenterPoint recipe."""

data_root = 'data/nuscenes'
version = 'v1.0-trainval'
batch_size = 4  # a process
num_workers = 4
label_fraction = 1.0  # of the train frames, the first ones in the list
class_names = [
    *['car', 'truck', 'construction_vehicle', 'bus', 'trailer', 'barrier'],
    *['motorcycle', 'bicycle', 'pedestrian', 'traffic_cone'],
]
point_cloud_range = [-51.2, -51.2, -5, 51.2, 51.2, 3]

sample_groups = dict(  # objects pasted, at least so many a frame
    car=2,
    truck=3,
    construction_vehicle=7,
    bus=4,
    trailer=6,
    barrier=2,
    motorcycle=6,
    bicycle=6,
    pedestrian=2,
    traffic_cone=2,
)

load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=5)
load_sweeps = dict(
    type='LoadPointsFromMultiSweeps',
    sweeps_num=9,
    use_dim=[0, 1, 2, 3, 4],
    pad_empty_sweeps=True,
    remove_close=True,
)
db_sampler = dict(
    type='SeededDataBaseSampler',
    data_root=data_root,
    info_path=f'{data_root}/nuscenes_dbinfos_train.pkl',
    rate=1.0,
    prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict.fromkeys(class_names, 5)),
    classes=class_names,
    sample_groups=sample_groups,
    points_loader=load_points,
)
train_pipeline = [
    load_points,
    load_sweeps,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
    dict(type='ObjectSample', db_sampler=db_sampler),
    dict(type='GlobalRotScaleTrans', rot_range=[-0.3925, 0.3925], scale_ratio_range=[0.95, 1.05]),
    dict(
        type='RandomFlip3D',
        sync_2d=False,
        flip_ratio_bev_horizontal=0.5,
        flip_ratio_bev_vertical=0.5,
    ),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=class_names),
    dict(type='PointShuffle'),
    dict(type='Pack3DDetInputs', keys=['points', 'gt_bboxes_3d', 'gt_labels_3d']),
]
test_pipeline = [
    load_points,
    dict(load_sweeps, test_mode=True),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points']),
]
nuscenes = dict(
    type='NuScenesDataset',
    data_root=data_root,
    data_prefix=dict(pts='samples/LIDAR_TOP', img='', sweeps='sweeps/LIDAR_TOP'),
    modality=dict(use_lidar=True, use_camera=False),
    metainfo=dict(classes=class_names, version=version),
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
            type='PresentClassesCBGS',
            dataset=dict(
                nuscenes,
                ann_file='nuscenes_infos_train.pkl',
                pipeline=train_pipeline,
                use_valid_flag=True,
            ),
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        nuscenes, ann_file='nuscenes_infos_val.pkl', pipeline=test_pipeline, test_mode=True
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='NuScenesMetric',
    data_root=data_root,
    ann_file=f'{data_root}/nuscenes_infos_val.pkl',
    metric='bbox',
)
test_evaluator = val_evaluator
