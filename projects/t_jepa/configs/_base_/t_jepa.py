"""T-JEPA for small tables: all but the table. 60 epochs of 512 rows, width 16.

Of the paper's recipes only that of Jannis (`jannis.py`) is published in full; this one takes its
shares and dropout, with fewer and narrower layers and a higher learning rate. These 60 epochs, and
heads of at most 200 that end after 16 without a lower validation loss (tools/benchmark.py), are the
budget of the README's tables.
"""

_base_ = [
    '../../../../configs/_base_/default_runtime.py',
    '../../../../configs/_base_/vit_adamw.py',
]
custom_imports = dict(imports=['projects.t_jepa.t_jepa'], allow_failed_imports=False)

part = 'train'  # rows that are read; 'all' takes in those of validation and test, without labels
fit_on = 'train'  # rows that scales and categories are taken from
num_scaler = 'standard'  # 'minmax' as released, or 'quantile'
batch_size = 512  # a process
num_workers = 0  # a batch is one gather
max_epochs = 60
max_iters = None  # wins over max_epochs
warmup = 0.1  # of the run
lr = 1e-3
seed = 0
accumulate = 1
log_interval = 50

semantics = 'paper'  # or 'released': masks number [REG], too, and the target sets are one
channels = 16
depth = 4
num_heads = 2
ffn_channels = 64
num_reg = 1
dropout = 0.00185
predictor_channels = 16
predictor_depth = 4
predictor_heads = 2
predictor_ffn_channels = 256
predictor_dropout = 0.00193
context_share = (0.1363, 0.3682)
target_share = (0.1556, 0.6222)
num_targets = 4

model = dict(
    type='TJEPA',
    semantics=semantics,
    data_preprocessor=dict(type='TabularPreprocessor'),
    encoder=dict(
        type='TabularEncoder',
        channels=channels,
        depth=depth,
        num_heads=num_heads,
        ffn_channels=ffn_channels,
        num_reg=num_reg,
        dropout=dropout,
    ),
    target=dict(type='TargetEncoder', policy='ema'),
    predictor=dict(
        type='TabularPredictor',
        channels=predictor_channels,
        depth=predictor_depth,
        num_heads=predictor_heads,
        ffn_channels=predictor_ffn_channels,
        dropout=predictor_dropout,
    ),
    mask_generator=dict(
        type='FeatureSubsetMaskGenerator',
        context_share=context_share,
        target_share=target_share,
        num_targets=num_targets,
    ),
    loss=dict(type='RegressionLoss', kind='mse'),
    grad_clamp=1.0,  # of the context encoder alone
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    dataset=dict(type='TabularDataset', part=part, fit_on=fit_on, num_scaler=num_scaler),
)

optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=0.0), accumulative_counts=accumulate)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        phases=[
            dict(until=warmup, start=0.0, stop=1.0, curve='linear'),
            dict(until=1.0, start=1.0, stop=0.0),
        ],
    )
]
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=20 if max_iters is None else max(1, max_iters // 3),
    ),
)
custom_hooks = [
    dict(type='TargetUpdateHook', momentum=(0.996, 1.0), curve='linear'),
    # the start is flat itself, and a dip to a half of it is healthy; predictions are measured
    # around the features' means, far from which they start
    dict(
        type='CollapseMonitorHook',
        interval=log_interval,
        std_floor=0.1,
        rank_floor=0.0,
        prediction_std_floor=0.0,
        constant_std=0.0,
    ),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
