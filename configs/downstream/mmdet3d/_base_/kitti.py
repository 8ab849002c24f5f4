"""KITTI object detection, 3 classes, camera view; augmentations of mmdet3d's SECOND recipe."""

data_root = 'data/kitti'
batch_size = 6  # a process
num_workers = 4
label_fraction = 1.0  # of the train frames, the first ones in the list
class_names = ['Pedestrian', 'Cyclist', 'Car']
point_cloud_range = [0, -40, -3, 70.4, 40, 1]
sample_groups = dict(Car=12, Pedestrian=6, Cyclist=6)  # objects pasted, at least so many a frame
min_points = dict(Car=5, Pedestrian=10, Cyclist=10)  # of such an object
object_noise = True  # move every object a little by itself

load_points = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=4, use_dim=4)
noise = dict(
    type='ObjectNoise',
    num_try=100,
    translation_std=[1.0, 1.0, 0.5],
    global_rot_range=[0.0, 0.0],
    rot_range=[-0.78539816, 0.78539816],
)
db_sampler = dict(
    type='SeededDataBaseSampler',
    data_root=data_root,
    info_path=f'{data_root}/kitti_dbinfos_train.pkl',
    rate=1.0,
    prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=min_points),
    classes=class_names,
    sample_groups=sample_groups,
    points_loader=load_points,
)
loading = [
    load_points,
    dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True),
]
augmentation = [  # of the whole frame
    dict(type='RandomFlip3D', flip_ratio_bev_horizontal=0.5),
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
train_pipeline = [
    *loading,
    dict(type='ObjectSample', db_sampler=db_sampler),
    *([noise] if object_noise else []),
    *augmentation,
]
test_pipeline = [
    load_points,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points']),
]
kitti = dict(
    type='KittiDataset',
    data_root=data_root,
    data_prefix=dict(pts='training/velodyne_reduced'),
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
        dataset=dict(kitti, ann_file='kitti_infos_train.pkl', pipeline=train_pipeline),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(kitti, ann_file='kitti_infos_val.pkl', pipeline=test_pipeline, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmjepa.KittiAPMetric',
    ann_file=f'{data_root}/kitti_infos_val.pkl',
    iou_sets=('strict',),
    recall=(40,),
)
test_evaluator = val_evaluator
