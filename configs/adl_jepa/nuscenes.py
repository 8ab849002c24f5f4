"""AD-L-JEPA on nuScenes sweeps: CenterPoint's plain sparse encoder, no labels.

    tools/dist_train.sh configs/adl_jepa/nuscenes.py 4 --cfg-options batch_size=4

No published AD-L-JEPA config or result exists for nuScenes: the grid is OpenPCDet's, schedule and
weights are those of Waymo, the yaw range is the one usual on nuScenes. Ten sweeps are
aggregated with their time lag. data_root holds the data set's tables (v1.0-trainval or v1.0-mini),
and nuscenes-devkit the scenes of the split. With split=None every sweep is read, those of
validation scenes too; without tables each .pcd.bin then stands alone with lag 0.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/one_cycle_adamw.py']

data_root = 'data/nuscenes'
batch_size = 4  # a process
num_workers = 4
max_epochs = 30
max_iters = None  # wins over max_epochs
seed = 0
accumulate = 1
log_interval = 50

point_cloud_range = [-51.2, -51.2, -5, 51.2, 51.2, 3]
voxel_size = [0.1, 0.1, 0.2]
max_voxels = [60000, 60000]
load_dim = 5
use_dim = 5  # x, y, z, intensity, time lag
num_sweeps = 10
split = 'train'  # of the official scenes; None: every LIDAR_TOP sweep
on_error = 'raise'
download_hint = (
    'Download nuScenes (https://www.nuscenes.org/nuscenes): the metadata and the LiDAR blobs of '
    f'v1.0-trainval or v1.0-mini, unpacked as {data_root}/{{v1.0-trainval,samples,sweeps}}'
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
        max_points=10,
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
            dict(type='LoadPoints', load_dim=load_dim),
            dict(type='AggregateSweeps', num_sweeps=num_sweeps, load_dim=load_dim, use_dim=4),
            dict(type='RandomFlipPoints', axes='xy', prob=0.5),
            dict(type='GlobalRotScale', yaw=[-0.3925, 0.3925], scale=[0.95, 1.05]),
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
