"""Occupancy-MAE on KITTI object sweeps (arXiv 2206.09900): SECOND's sparse encoder, no labels.

    python tools/train.py projects/lidar_baselines/configs/occupancy_mae_kitti.py \
        --cfg-options data_root=data/kitti
    python tools/train.py projects/lidar_baselines/configs/occupancy_mae_kitti.py --cfg-options \
        data_root=data/kitti_sim max_iters=300 batch_size=2 "voxel_size=[0.2,0.2,0.1]"     # a CPU

30 epochs, one cycle up to 3e-3; data, augmentation and grid as for AD-L-JEPA. The decoder works
on the whole grid: 92 million voxels a sample at 0.05 m, which takes a GPU. Measured: one small
cell, in the README.
"""

_base_ = [
    '../../../configs/_base_/default_runtime.py',
    '../../../configs/_base_/one_cycle_adamw.py',
]
custom_imports = dict(
    imports=['projects.lidar_baselines.lidar_baselines'], allow_failed_imports=False
)

data_root = 'data/kitti'
batch_size = 4  # a process
num_workers = 4
max_epochs = 30
max_iters = None  # wins over max_epochs
seed = 0
accumulate = 1
log_interval = 50
probe_interval = 0  # epochs between BEV probes (needs labelled ImageSets/val); 0: none

point_cloud_range = [0, -40, -3, 70.4, 40, 1]
voxel_size = [0.05, 0.05, 0.1]
max_voxels = [16000, 40000]  # training, evaluation; camera view
max_voxels_whole = 40000  # sweeps that weren't cropped
load_dim = 4
use_dim = 4
fov_crop = 'auto'
split = 'train'
on_error = 'raise'
download_hint = (
    'Download velodyne points and calibration matrices of the KITTI object benchmark '
    f'(https://www.cvlibs.net/datasets/kitti/eval_object.php) into {data_root}/training; stand-in: '
    f'`python tools/create_data.py sim-kitti --out {data_root} --frames 200`'
)

thresholds = [30.0, 50.0]
keep_ratios = [0.5, 0.7, 0.7]  # nearer than the first threshold, between them, beyond
mask_distance = 'metres'  # 'corner_index': the released rule
prior = None  # 0.005, about the share of occupied voxels: a short run learns much sooner

grid_size = [
    round((point_cloud_range[i + 3] - point_cloud_range[i]) / voxel_size[i]) for i in range(3)
]

model = dict(
    type='OccupancyMAE',
    data_preprocessor=dict(
        type='VoxelPreprocessor',
        point_cloud_range=point_cloud_range,
        voxel_size=voxel_size,
        max_points=5,
        max_voxels=max_voxels,
        max_voxels_whole=max_voxels_whole,
    ),
    encoder=dict(
        type='SparseVoxelEncoder',
        in_channels=use_dim,
        sparse_shape=[grid_size[2] + 1, grid_size[1], grid_size[0]],
    ),
    target=dict(type='TargetEncoder', policy='data', transform=dict(type='OccupiedVoxels')),
    predictor=dict(
        type='OccupancyDecoder',
        channels=[32, 8],
        strides=[2, [4, 2, 2], [3, 2, 2]],
        prior=prior,
    ),
    mask_generator=dict(
        type='RangeAwareMaskGenerator',
        point_cloud_range=point_cloud_range,
        voxel_size=voxel_size,
        thresholds=thresholds,
        keep_ratios=keep_ratios,
        distance=mask_distance,
    ),
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    dataset=dict(
        type='PointSweepDataset',
        data_root=data_root,
        split=split,
        load_dim=load_dim,
        on_error=on_error,
        download_hint=download_hint,
        pipeline=[
            dict(type='LoadPoints', load_dim=load_dim, use_dim=use_dim),
            dict(type='CropToCameraView', fov_crop=fov_crop),
            dict(type='RandomFlipPoints', axes='y', prob=0.5),
            dict(type='GlobalRotScale', yaw=[-0.78539816, 0.78539816], scale=[0.95, 1.05]),
            dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='PointShuffle'),
            dict(type='PackJEPAInputs'),
        ],
    ),
)

optim_wrapper = dict(optimizer=dict(lr=3e-3), accumulative_counts=accumulate)
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=1 if max_iters is None else max(1, max_iters // 3),
        save_best='probe/knn' if probe_interval else None,
        rule='greater' if probe_interval else None,
    ),
)
custom_hooks = [
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
] + ([dict(type='OnlineBEVProbeHook', interval=probe_interval)] if probe_interval else [])
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
