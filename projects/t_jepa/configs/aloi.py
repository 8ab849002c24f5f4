"""T-JEPA on ALOI (108,000 rows, 128 numeric features; 1,000 classes).

    python projects/t_jepa/tools/create_data.py aloi --src aloi.csv
    python tools/train.py projects/t_jepa/configs/aloi.py

Not tried here: the table could not be had.
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/aloi'
table = 'aloi.csv'
split = 'split.npz'
download_hint = (
    'Get aloi.csv (128 features, then the label) and run '
    '`python projects/t_jepa/tools/create_data.py aloi --src aloi.csv`'
)
target, task = 'class', 'multiclass'
numeric = [f'f{i}' for i in range(128)]

model = dict(encoder=dict(num_numeric=len(numeric), cardinalities=[]))
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
