"""Fine-tuning of mmdet3d's detectors: optimizer, one cycle, hooks."""

_base_ = ['../../_base_/runtime.py']

default_scope = 'mmdet3d'
custom_imports = dict(
    imports=['mmjepa.models', 'mmjepa.downstream.lidar'], allow_failed_imports=False
)

encoder_lr_mult = 1.0  # learning rate of the encoder relative to the rest

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
custom_hooks = [dict(type='mmjepa.NativeSpconvHook'), *_base_.custom_hooks]
