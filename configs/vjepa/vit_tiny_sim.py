"""V-JEPA, ViT-Ti/8, generated clips of moving sprites, 16 frames of 64 x 64 pixels.

    python tools/create_data.py sim-video --out data/sim_video --clips 6000
    python tools/train.py configs/vjepa/vit_tiny_sim.py --amp            # one GPU

Our own small recipe: the release's schedules on 4,000 steps of 64 clips, a learning rate of 1e-3, a
predictor of 4 blocks. Encoder and predictor are those of configs/salt/student_sim.py, rotary
positions included, so that the two can be compared.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/vit_adamw.py']

data_root = 'data/sim_video'
sources = 'train.csv'  # in data_root; `path label` a line, labels are not read
batch_size = 64  # a process
num_workers = 4
max_epochs = None
max_iters = 4_000  # wins over max_epochs
stretch = 1.25  # schedules are those of a run so much longer
warmup = 0.1  # of the stretched run
seed = 0
accumulate = 1
log_interval = 50
probe_interval = 0  # iters (or epochs) between attentive probes on test.csv; 0: none
probe = dict(protocols=('attentive',), max_train=2000, protocol=dict(attentive=dict(epochs=60)))
on_error = 'skip'  # leaves broken files out and counts them; or 'raise'

arch = 'tiny'
img_size = 64
patch_size = 8
num_frames = 16
frame_step = 1
predictor_depth = 4
predictor_width = 96
positions = 'rotary'  # or 'sincos', those of V-JEPA 1
crop_scale = (0.3, 1.0)
truncate = 'none'  # 'raster' leaves the first time steps, which show no motion; or 'random'

model = dict(
    type='VJEPA',
    data_preprocessor=dict(type='VideoPreprocessor'),
    encoder=dict(
        type='JEPAViT',
        arch=arch,
        img_size=img_size,
        patch_size=patch_size,
        num_frames=num_frames,
        positions=positions,
        rescale_init=True,
    ),
    target=dict(type='TargetEncoder', policy='ema'),
    predictor=dict(
        type='ViTPredictor',
        channels=predictor_width,
        depth=predictor_depth,
        positions=positions,
        rescale_init=True,
        mask_tokens=2,
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
            dict(type='SampleClips', num_frames=num_frames, frame_step=frame_step),
            dict(type='RandomResizedCropVideo', size=img_size, scale=crop_scale),
            dict(type='PackJEPAInputs', keys=['video']),
        ],
    ),
)

optim_wrapper = dict(
    optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10.0), accumulative_counts=accumulate
)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        first=1,
        stretch=stretch,
        phases=[
            dict(until=warmup, start=0.2, stop=1.0, curve='linear'),
            dict(until=1.0, start=1.0, stop=1e-3),
        ],
    ),
    dict(
        type='PhasedScheduler',
        param_name='weight_decay',
        first=1,
        stretch=stretch,
        phases=[dict(until=1.0, start=1.0, stop=10.0)],
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=64)
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
    dict(
        type='TargetUpdateHook',
        momentum=(0.998, 0.998 + 0.002 / stretch),  # 1.0 where the stretched schedule ends
        curve='linear',
    ),
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
] + (
    [dict(type='OnlineProbeHook', interval=probe_interval, by_epoch=not max_iters, settings=probe)]
    if probe_interval
    else []
)
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
