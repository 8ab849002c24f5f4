"""V-JEPA 2's encoder, ViT-L/16, 16 frames at 256 pixels, rotary positions (arXiv 2506.09985).

    tools/dist_train.sh configs/vjepa/vit_large16_256_rope.py 128 --amp  # 128 GPUs x 24 = 3,072

The primary phase: 4 frames a second, AdamW, 1e-4 -> 5.25e-4 over 12,000 of 240,000 steps, constant
then, weight decay 0.04 and EMA 0.99925 throughout, no clipping, bf16, small weights in deep blocks,
one mask token for both masks. Published (K400 85.1, SSv2 73.7) with 12,000 steps of cool-down on
longer clips, and with VideoMix22M; the weights here are those of the public configs for videos only.
Positions are true rotations; `rope=rotary_vjepa2` is the release's form, which is none.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/vit_adamw.py']

data_root = 'data/videomix2m'
sources = [
    dict(index='k710.csv', weight=0.335),
    dict(index='ssv2.csv', weight=0.1),
    dict(index='howto100m.csv', weight=0.565),
]  # in data_root; `path label` a line, labels are not read
batch_size = 24  # a process
num_workers = 12
max_epochs = None
max_iters = 240_000  # wins over max_epochs
warmup = 12 / 240  # of the run
seed = 0
accumulate = 1
log_interval = 50
on_error = 'skip'  # leaves broken files out and counts them; or 'raise'

arch = 'large'
img_size = 256
patch_size = 16
num_frames = 16
fps = 4
predictor_depth = 12
predictor_width = 384
crop_scale = (0.3, 1.0)
rope = 'rotary'
truncate = 'raster'  # contexts of a batch lose their last tokens; or 'random'

model = dict(
    type='VJEPA',
    data_preprocessor=dict(type='VideoPreprocessor'),
    encoder=dict(
        type='JEPAViT',
        arch=arch,
        img_size=img_size,
        patch_size=patch_size,
        num_frames=num_frames,
        positions=rope,
        rescale_init=True,
    ),
    target=dict(type='TargetEncoder', policy='ema'),
    predictor=dict(
        type='ViTPredictor',
        channels=predictor_width,
        depth=predictor_depth,
        num_heads=12,
        positions=rope,
        rescale_init=True,
        mask_token_std=0.0,
    ),
    # by default two masks a clip: 8 blocks of 15 % of the frame, and 2 of 70 %, at all times
    mask_generator=dict(type='MultiBlock3DMaskGenerator', truncate=truncate),
    loss=dict(type='RegressionLoss', kind='l1'),
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    collate_fn=dict(type='mmjepa.jepa_collate', stack=['video']),
    dataset=dict(
        type='VideoDataset',
        data_root=data_root,
        sources=sources,
        on_error=on_error,
        pipeline=[
            dict(type='SampleClips', num_frames=num_frames, fps=fps),
            dict(type='RandomResizedCropVideo', size=img_size, scale=crop_scale),
            dict(type='PackJEPAInputs', keys=['video']),
        ],
    ),
)

optim_wrapper = dict(optimizer=dict(lr=5.25e-4), accumulative_counts=accumulate)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        first=1,
        phases=[
            dict(until=warmup, start=1 / 5.25, stop=1.0, curve='linear'),
            dict(until=1.0, start=1.0, stop=1.0, curve='constant'),
        ],
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=3072)
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=1 if max_iters is None else max(1, max_iters // 10),
    ),
)
custom_hooks = [
    dict(type='TargetUpdateHook', momentum=(0.99925, 0.99925), curve='constant'),
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
