"""Deep linear JEPA on exact moments (arXiv 2407.03475): three features, three layers, plain SGD.

    python tools/train.py projects/linear_jepa/configs/linear_jepa.py
    python tools/train.py projects/linear_jepa/configs/linear_jepa.py --cfg-options policy=ema \
        tau=10 max_iters=6000
    python tools/train.py projects/linear_jepa/configs/linear_jepa.py --cfg-options exact=False \
        batch_size=64 lr=0.05 max_iters=20000

One CPU core, no data. Learns features 3, 2, 1; `hit_times.csv` in the work dir has the times beside
the closed form's (epsilon 1e-2: 758.0, 782.8, 881.2).
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
max_iters = 5000  # of 0.2: time 1000
seed = 0
accumulate = 1
lr = 0.2
log_interval = 500

depth = 3
epsilon = 1e-2  # encoder amplitude at the start; each layer starts at epsilon ** (1 / depth)
policy = 'stop_grad'  # of the target; 'ema' with a lag of `tau`, 'frozen', 'online_grad'
tau = 10.0
p = 0.5  # share of a feature's limit that counts as learned

model = dict(
    type='LinearJEPA',
    data_preprocessor=dict(type='JEPAPreprocessor'),
    encoder=dict(type='DeepLinear', channels=len(lam), depth=depth),
    target=dict(type='TargetEncoder', policy=policy),
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
    dict(type='TargetUpdateHook', momentum=(1 - lr / tau, 1 - lr / tau), curve='constant'),
    dict(type='CollapseMonitorHook', interval=log_interval),
    dict(type='LinearDynamicsHook', interval=5, p=p),
    dict(type='LossGuardHook'),
    dict(type='SaveOnSignalHook'),
]
log_processor = dict(by_epoch=max_iters is None, window_size=log_interval)
