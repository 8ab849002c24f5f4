"""T-JEPA on Helena (65,196 rows, 27 numeric features; 100 classes).

    python projects/t_jepa/tools/create_data.py helena --src helena.arff
    python tools/train.py projects/t_jepa/configs/helena.py

Batches of 256, as in the released sweep. Not tried here: the table could not be had.
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/helena'
table = 'helena.csv'
split = 'split.npz'
download_hint = (
    'Get the arff file of https://www.openml.org/d/41169, then '
    '`python projects/t_jepa/tools/create_data.py helena --src helena.arff`'
)
target, task = 'class', 'multiclass'
numeric = [f'V{i}' for i in range(1, 28)]
batch_size = 256

model = dict(encoder=dict(num_numeric=len(numeric), cardinalities=[]))
train_dataloader = dict(
    batch_size=batch_size,
    dataset=dict(
        data_root=data_root,
        table=table,
        target=target,
        task=task,
        numeric=numeric,
        split=split,
        download_hint=download_hint,
    ),
)
