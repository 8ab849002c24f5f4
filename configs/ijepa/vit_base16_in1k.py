"""I-JEPA, ViT-B/16, ImageNet-1K (arXiv 2301.08243): 72.9 linear top-1 published.

    tools/dist_train.sh configs/ijepa/vit_base16_in1k.py 8 --amp         # 8 GPUs x 256 = 2,048

Recipe of the release: AdamW, 2e-4 -> 1e-3 over 40 epochs -> 1e-6, weight decay 0.04 -> 0.4, EMA
0.996 -> 1, bf16, crops of 30 to 100 % and no other augmentation.
The authors released no config of this size: 600 epochs and the predictor's 6 blocks are the paper's.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/vit_adamw.py']

data_root = 'data/imagenet'
split = 'train'
batch_size = 256  # a process
num_workers = 8
max_epochs = 600
max_iters = None  # wins over max_epochs
warmup = 40 / 600  # of the run
seed = 0
accumulate = 1
log_interval = 50
probe_interval = 0  # epochs (or iters) between kNN probes (needs a labelled test split); 0: none
on_error = 'raise'  # 'skip' leaves broken files out and counts them

arch = 'base'
img_size = 224
patch_size = 16
predictor_depth = 6
predictor_width = 384
crop_scale = (0.3, 1.0)
min_keep = 10
sampling = 'released'  # of masks; or 'corrected'

model = dict(
    type='IJEPA',
    data_preprocessor=dict(type='ImagePreprocessor'),
    encoder=dict(type='JEPAViT', arch=arch, img_size=img_size, patch_size=patch_size),
    target=dict(type='TargetEncoder', policy='ema'),
    predictor=dict(type='ViTPredictor', channels=predictor_width, depth=predictor_depth),
    mask_generator=dict(
        type='MultiBlockMaskGenerator',
        num_targets=4,
        target_scale=(0.15, 0.2),
        target_aspect=(0.75, 1.5),
        context_scale=(0.85, 1.0),
        min_keep=min_keep,
        sampling=sampling,
    ),
    loss=dict(type='RegressionLoss', kind='smooth_l1'),
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    collate_fn=dict(type='mmjepa.jepa_collate', stack=['image']),
    dataset=dict(
        type='ImageFolderDataset',
        data_root=data_root,
        split=split,
        on_error=on_error,
        pipeline=[
            dict(type='LoadCroppedImage', size=img_size, scale=crop_scale),
            dict(type='PackJEPAInputs', keys=['image']),
        ],
    ),
)

optim_wrapper = dict(optimizer=dict(lr=1e-3), accumulative_counts=accumulate)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        first=1,
        phases=[
            dict(until=warmup, start=0.2, stop=1.0, curve='linear'),
            dict(until=1.0, start=1.0, stop=1e-3),
        ],
    ),
    dict(
        type='PhasedScheduler',
        param_name='weight_decay',
        first=1,
        phases=[dict(until=1.0, start=1.0, stop=10.0)],
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=2048)
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=25 if max_iters is None else max(1, max_iters // 3),
        save_best='probe/knn' if probe_interval else None,
        rule='greater' if probe_interval else None,
    ),
)
custom_hooks = [
    dict(type='TargetUpdateHook', momentum=(0.996, 1.0), curve='linear'),
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
] + (
    [dict(type='OnlineProbeHook', interval=probe_interval, by_epoch=max_iters is None)]
    if probe_interval
    else []
)
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
