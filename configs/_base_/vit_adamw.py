"""AdamW of I-JEPA's recipe: weight decay 0.04 (a config's schedule raises it), none on biases and norms."""

optim_wrapper = dict(
    type='JEPAOptimWrapper',
    constructor='JEPAOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.04, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
