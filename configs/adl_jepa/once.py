"""AD-L-JEPA on ONCE's unlabelled sweeps (arXiv 2501.04969): SECOND's sparse encoder.

    tools/dist_train.sh configs/adl_jepa/once.py 8 --cfg-options batch_size=16      # 128 in all

No AD-L-JEPA config was ever published for ONCE: grid and voxel caps are OpenPCDet's for that data
set, schedule and weights those of Waymo. data_root holds the lidar_roof folders of raw_small
(about 100k sweeps), raw_medium or raw_large. The paper fine-tunes SECOND: mAP 51.89 -> 53.50 from
100k sweeps, 54.87 from 500k. Deviations: no GT sampling (it needs labels), trained tokens.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/one_cycle_adamw.py']

data_root = 'data/once/raw_small'
batch_size = 4  # a process
num_workers = 4
max_epochs = 30
max_iters = None  # wins over max_epochs
seed = 0
accumulate = 1
log_interval = 50

point_cloud_range = [-75.2, -75.2, -5, 75.2, 75.2, 3]
voxel_size = [0.1, 0.1, 0.2]
max_voxels = [60000, 60000]
load_dim = 4
use_dim = 4
split = None  # every sweep below data_root; name a list of ImageSets otherwise
on_error = 'raise'
download_hint = (
    'Download raw_small (or raw_medium, raw_large) of ONCE (https://once-for-auto-driving.github.io) '
    f'and unpack its sweeps below {data_root}, as <sequence>/lidar_roof/<frame>.bin'
)

mask_ratio = 0.5
mask_per = 'batch'
train_tokens = True
predictor_final_relu = True
variance_weight = 10.0

grid_size = [
    round((point_cloud_range[i + 3] - point_cloud_range[i]) / voxel_size[i]) for i in range(3)
]

model = dict(
    type='ADLJEPA',
    data_preprocessor=dict(
        type='VoxelPreprocessor',
        point_cloud_range=point_cloud_range,
        voxel_size=voxel_size,
        max_points=5,
        max_voxels=max_voxels,
    ),
    encoder=dict(
        type='SparseVoxelEncoder',
        in_channels=use_dim,
        sparse_shape=[grid_size[2] + 1, grid_size[1], grid_size[0]],
    ),
    target=dict(type='TargetEncoder', policy='ema', mode='train', buffers='keep'),
    predictor=dict(type='BEVConvPredictor', num_layers=3, final_relu=predictor_final_relu),
    mask_generator=dict(type='BEVMaskGenerator', mask_ratio=mask_ratio, mask_per=mask_per),
    loss=dict(
        type='BEVJEPALoss',
        occupied_weight=0.75,
        empty_weight=0.25,
        variance_weight=variance_weight,
    ),
    train_tokens=train_tokens,
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
            dict(type='RandomFlipPoints', axes='xy', prob=0.5),
            dict(type='GlobalRotScale', yaw=[-0.78539816, 0.78539816], scale=[0.95, 1.05]),
            dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
            dict(type='PointShuffle'),
            dict(type='PackJEPAInputs'),
        ],
    ),
)

optim_wrapper = dict(accumulative_counts=accumulate)
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=1 if max_iters is None else max(1, max_iters // 3),
    ),
)
custom_hooks = [
    dict(type='TargetUpdateHook', momentum=(0.996, 1.0), curve='linear'),
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
