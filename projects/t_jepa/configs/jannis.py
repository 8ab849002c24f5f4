"""T-JEPA on Jannis (83,733 rows, 54 numeric features; 4 classes): the recipe that is published.

    python projects/t_jepa/tools/create_data.py jannis --src jannis.arff
    python tools/train.py projects/t_jepa/configs/jannis.py

300 epochs of 512 rows; the paper's code reads all rows (`part=all fit_on=all`) and scales them to
[0, 1] (`num_scaler=minmax`).
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/jannis'
table = 'jannis.csv'
split = 'split.npz'
download_hint = (
    'Get the arff file of https://www.openml.org/d/41168, then '
    '`python projects/t_jepa/tools/create_data.py jannis --src jannis.arff`'
)
target, task = 'class', 'multiclass'
numeric = [f'V{i}' for i in range(1, 55)]

max_epochs = 300
warmup = 10 / 300
lr = 3.659e-4
channels = 64
depth = 16
predictor_depth = 16
predictor_heads = 4

model = dict(
    encoder=dict(num_numeric=len(numeric), cardinalities=[], channels=channels, depth=depth),
    predictor=dict(depth=predictor_depth, num_heads=predictor_heads),
)
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        table=table,
        target=target,
        task=task,
        numeric=numeric,
        split=split,
        download_hint=download_hint,
    )
)
optim_wrapper = dict(optimizer=dict(lr=lr))
phases = _base_.param_scheduler[0]['phases']
param_scheduler = [
    {**_base_.param_scheduler[0], 'phases': [{**phases[0], 'until': warmup}, phases[1]]}
]
train_cfg = dict(max_epochs=max_epochs)
