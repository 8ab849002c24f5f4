"""SALT's student, ViT-B/16 of a ViT-B/16 teacher, 16 frames at 224 pixels (arXiv 2509.24317).

    tools/dist_train.sh configs/salt/teacher_vit_base.py 128 --amp
    tools/dist_train.sh configs/salt/student_vit_base.py 128 --amp       # 128 GPUs x 24 = 3,072

Recipe of the paper: AdamW (betas 0.9 and 0.95), 2e-4 -> 6.25e-4 over 10,000 steps -> 1e-6, weight decay 0.04 -> 0.4,
gradients clipped at a norm of 0.02. 200,000 of
the 240,000 steps of both stages. Guesses, as there is no released code: layer-normed targets, true
rotations as positions, bf16, a student that starts from random weights.
Published with 80,000 + 160,000 steps, frozen with an attentive probe: K400 70.9, SSv2 66.1.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/vit_adamw.py']

data_root = 'data/v36m'
sources = 'train.csv'  # in data_root; `path label` a line, labels are not read
batch_size = 24  # a process
num_workers = 12
max_epochs = None
max_iters = 200_000  # wins over max_epochs
warmup = 10 / 200  # of the run
seed = 0
accumulate = 1
log_interval = 50
on_error = 'skip'  # leaves broken files out and counts them; or 'raise'

arch = 'base'
img_size = 224
patch_size = 16
num_frames = 16
frame_step = 4
predictor_depth = 12
predictor_width = 384
crop_scale = (0.3, 1.0)
teacher_arch = 'base'
teacher_checkpoint = 'work_dirs/salt/teacher_vit_base/iter_40000.pth'
teacher_amp = 'bf16'  # whatever --amp says; or None
truncate = 'raster'  # contexts of a batch lose their last tokens; or 'random'

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
        num_heads=16,
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
    optimizer=dict(lr=6.25e-4, betas=(0.9, 0.95)),
    clip_grad=dict(max_norm=0.02),
    accumulative_counts=accumulate,
)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        first=1,
        phases=[
            dict(until=warmup, start=0.32, stop=1.0, curve='linear'),
            dict(until=1.0, start=1.0, stop=1e-6 / 6.25e-4),
        ],
    ),
    dict(
        type='PhasedScheduler',
        param_name='weight_decay',
        first=1,
        phases=[dict(until=1.0, start=1.0, stop=10.0)],
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
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
    dict(type='SkippedSamplesHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
