"""Deep linear MAE on exact moments: the reconstruction twin of `linear_jepa.py`.

    python tools/train.py projects/linear_jepa/configs/linear_mae.py

One CPU core, no data. Learns features 1, 2, 3 (epsilon 1e-2: 10.13, 11.37, 12.89).
"""

_base_ = '../../../configs/_base_/default_runtime.py'
custom_imports = dict(imports=['projects.linear_jepa.linear_jepa'], allow_failed_imports=False)

data_root = None  # a folder with pairs.npz, your own x and y (N, d), in place of lam and rho
lam = [1.0, 0.9, 0.8]  # covariance of each feature
rho = [0.5, 0.7, 0.95]  # regression coefficient
exact = True  # False: fresh Gaussian samples
batch_size = 2 * len(lam)  # exact moments come in batches of two samples a feature
num_workers = 0
max_epochs = None
max_iters = 2000  # of 0.01: time 20
seed = 0
accumulate = 1
lr = 0.01
log_interval = 200

depth = 3
epsilon = 1e-2  # encoder amplitude at the start; each layer starts at epsilon ** (1 / depth)
p = 0.5  # share of a feature's limit that counts as learned

model = dict(
    type='LinearJEPA',
    data_preprocessor=dict(type='JEPAPreprocessor'),
    encoder=dict(type='DeepLinear', channels=len(lam), depth=depth),
    target=dict(type='TargetEncoder', policy='data', transform=dict(type='torch.nn.Identity')),  # y
    predictor=dict(type='DeepLinear', channels=len(lam)),
    mask_generator=dict(type='SecondViewMaskGenerator', channels=len(lam)),
    loss=dict(type='HalfSquaredError'),
    epsilon=epsilon,
    layer_init='orthogonal',
    predictor_init='aligned',
)

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=False),  # exact batches are whole
    collate_fn=dict(type='mmjepa.jepa_collate', stack=['pairs']),
    dataset=dict(
        type='LinearProcessDataset',
        process=dict(type='direct_process', lam=lam, rho=rho),
        exact=exact,
        data_root=data_root,
        length=2 * len(lam) * 1000,
    ),
)

# no momentum, weight decay or clipping: any of them is another clock
optim_wrapper = dict(
    type='JEPAOptimWrapper',
    constructor='JEPAOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=lr),
    accumulative_counts=accumulate,
)
param_scheduler = []
train_cfg = dict(type='JEPATrainLoop', max_epochs=max_epochs, max_iters=max_iters)
randomness = dict(seed=seed)

default_hooks = dict(
    runtime_info=dict(interval=log_interval),
    logger=dict(interval=log_interval),
    checkpoint=dict(
        by_epoch=max_iters is None,
        interval=1 if max_iters is None else max(1, max_iters // 3),
    ),
)
custom_hooks = [
    dict(type='LinearDynamicsHook', interval=5, p=p),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
