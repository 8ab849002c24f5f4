"""SALT's student, ViT-Ti/8 of a ViT-Ti/8 teacher, generated clips, 16 frames of 64 x 64 pixels.

    python tools/train.py configs/salt/teacher_sim.py --amp              # first, one GPU
    python tools/train.py configs/salt/student_sim.py --amp

Our own small recipe: five sixths of 4,000 steps of 64 clips, learning rate 1e-3, 4 predictor blocks.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/vit_adamw.py']

data_root = 'data/sim_video'
sources = 'train.csv'  # in data_root; `path label` a line, labels are not read
batch_size = 64  # a process
num_workers = 4
max_epochs = None
max_iters = 3_333  # wins over max_epochs
warmup = 0.1  # of the run
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
crop_scale = (0.3, 1.0)
teacher_arch = 'tiny'
teacher_checkpoint = 'work_dirs/salt/teacher_sim/iter_667.pth'
teacher_amp = None  # as the student
truncate = 'none'  # 'raster' leaves the first time steps, which show no motion; or 'random'

model = dict(
    type='SALT',
    data_preprocessor=dict(type='VideoPreprocessor'),
    encoder=dict(
        type='JEPAViT',
        arch=arch,
        img_size=img_size,
        patch_size=patch_size,
        num_frames=num_frames,
        positions='rotary',
        rescale_init=True,
    ),
    target=dict(
        type='TargetEncoder',
        policy='frozen',
        encoder=dict(
            type='JEPAViT',
            arch=teacher_arch,
            img_size=img_size,
            patch_size=patch_size,
            num_frames=num_frames,
            positions='rotary',
        ),
    ),
    teacher_checkpoint=teacher_checkpoint,
    teacher_amp=teacher_amp,
    predictor=dict(
        type='ViTPredictor',
        channels=predictor_width,
        depth=predictor_depth,
        positions='rotary',
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
    optimizer=dict(lr=1e-3, betas=(0.9, 0.95)),
    clip_grad=dict(max_norm=1.0),
    accumulative_counts=accumulate,
)
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
