"""AdamW with one cycle over the whole run, as released for AD-L-JEPA (OpenPCDet's adam_onecycle).

Learning rate 3e-5 -> 3e-4 over the first 40 %, then -> 3e-9; beta1 0.95 -> 0.85 -> 0.95 (absolute
values: MMDetection3D's cyclic recipe takes them as ratios and ends at 0.99993).
"""

optim_wrapper = dict(
    type='JEPAOptimWrapper',
    constructor='JEPAOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=3e-4, betas=(0.95, 0.99), weight_decay=0.01, fused=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(
        type='PhasedScheduler',
        param_name='lr',
        by_epoch=False,
        phases=[dict(until=0.4, start=0.1, stop=1.0), dict(until=1.0, start=1.0, stop=1e-5)],
    ),
    dict(
        type='PhasedScheduler',
        param_name='beta1',
        by_epoch=False,
        phases=[dict(until=0.4, start=0.95, stop=0.85), dict(until=1.0, start=0.85, stop=0.95)],
    ),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
