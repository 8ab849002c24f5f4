"""Runner, loop, hooks and logging of fine-tuning; takes a pre-training checkpoint as it is."""

runner_type = 'mmjepa.JEPARunner'

jepa_checkpoint = None  # None: from scratch, everything else equal
frozen_epochs = 0  # in which the encoder stays as it was pre-trained
log_interval = 50
max_epochs = 80
max_iters = None  # wins over max_epochs
val_interval = 10  # epochs
seed = 0

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
