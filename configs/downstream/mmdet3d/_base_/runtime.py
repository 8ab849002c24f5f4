"""Runner, hooks and logging of fine-tuning; takes a pre-training checkpoint as it is."""

default_scope = 'mmdet3d'
runner_type = 'mmjepa.JEPARunner'
custom_imports = dict(imports=['mmjepa.models', 'mmjepa.downstream'], allow_failed_imports=False)

jepa_checkpoint = None  # None: from scratch, everything else equal
frozen_epochs = 0  # in which the encoder stays as it was pre-trained
encoder_lr_mult = 1.0  # learning rate of the encoder relative to the rest
log_interval = 50
max_epochs = 80
max_iters = None  # wins over max_epochs
val_interval = 10  # epochs
seed = 0

optim_wrapper = dict(
    type='mmjepa.JEPAOptimWrapper',
    constructor='mmjepa.JEPAOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=3e-3, betas=(0.95, 0.99), weight_decay=0.01),
    clip_grad=dict(max_norm=10),
    paramwise_cfg=dict(custom_keys=dict(middle_encoder=dict(lr_mult=encoder_lr_mult)))
    if encoder_lr_mult != 1
    else None,
)
# one cycle: lr / 10 -> lr over the first 40 %, then -> lr / 1e5; absolute values of beta1
param_scheduler = [
    dict(
        type='mmjepa.PhasedScheduler',
        param_name='lr',
        by_epoch=False,
        phases=[dict(until=0.4, start=0.1, stop=1.0), dict(until=1.0, start=1.0, stop=1e-5)],
    ),
    dict(
        type='mmjepa.PhasedScheduler',
        param_name='beta1',
        by_epoch=False,
        phases=[dict(until=0.4, start=0.95, stop=0.85), dict(until=1.0, start=0.85, stop=0.95)],
    ),
]
train_cfg = dict(
    type='mmjepa.JEPATrainLoop',
    max_epochs=max_epochs,
    max_iters=max_iters,
    val_interval=val_interval,
)
val_cfg = dict()
test_cfg = dict()
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(type='mmjepa.DeferredInfoHook', interval=log_interval),
    timer=dict(type='IterTimerHook'),
    sampler_seed=None,  # the data order is a function of (seed, iteration)
    logger=dict(type='mmjepa.JEPALoggerHook', interval=log_interval),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmjepa.JEPACheckpointHook',
        by_epoch=max_iters is None,
        interval=1 if max_iters is None else max(1, max_iters // 3),
        max_keep_ckpts=2,
    ),
)
custom_hooks = [
    dict(type='mmjepa.NativeSpconvHook'),
    dict(type='mmjepa.LoadEncoderHook', checkpoint=jepa_checkpoint, frozen_epochs=frozen_epochs),
    dict(type='mmjepa.LossGuardHook'),
    dict(type='mmjepa.SaveOnSignalHook'),
]
env_cfg = dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)
log_level = 'INFO'
find_unused_parameters = frozen_epochs > 0
load_from = None
resume = False
