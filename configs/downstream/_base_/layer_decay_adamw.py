"""AdamW for a pre-trained ViT: a config adds lr, weight_decay and layer_decay."""

optim_wrapper = dict(
    type='mmjepa.JEPAOptimWrapper',
    constructor='mmjepa.JEPAOptimWrapperConstructor',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999)),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
