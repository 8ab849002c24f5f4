"""Loader, logging, checkpoints and monitors shared by all pre-training configs."""

default_scope = 'mmjepa'
runner_type = 'JEPARunner'

train_dataloader = dict(
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='ResumableBatchSampler'),
    collate_fn=dict(type='mmjepa.jepa_collate'),
)
default_hooks = dict(
    runtime_info=dict(type='DeferredInfoHook', interval=50),
    timer=dict(type='IterTimerHook'),
    sampler_seed=None,  # the data order is a function of (seed, iteration)
    logger=dict(type='JEPALoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='JEPACheckpointHook', interval=1, max_keep_ckpts=3),
)
# shapes are the same in every step
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
# means over the window for what is measured at every iteration, not for the monitors
log_processor = dict(mean_pattern=r'^(?!.*collapse/).*(loss|distance|hinge|dropped|time|grad_norm)')
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)
log_level = 'INFO'
sync_bn = None  # 'torch': BatchNorm over all ranks (CUDA)
find_unused_parameters = False
compile = False  # True: torch.compile of transformer blocks
load_from = None
resume = False
