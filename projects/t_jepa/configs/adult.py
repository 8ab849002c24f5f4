"""T-JEPA on Adult (48,842 rows, 6 numeric and 8 categorical features; binary).

    python projects/t_jepa/tools/create_data.py adult --src FOLDER_OF_adult.data_AND_adult.test
    python tools/train.py projects/t_jepa/configs/adult.py

UCI's test part stays unseen; `?` is a category of its own.
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/adult'
table = 'adult.csv'
split = dict(file='split.npz', val=0.1, seed=0)
download_hint = (
    'Get adult.data and adult.test (https://archive.ics.uci.edu/dataset/2), then '
    '`python projects/t_jepa/tools/create_data.py adult --src FOLDER`'
)
target, task = 'income', 'binclass'
numeric = [
    'age', 'fnlwgt', 'education-num', 'capital-gain', 'capital-loss', 'hours-per-week',
]  # fmt: skip
drop, missing = [], 'raise'
categorical = {
    'workclass': 9, 'education': 16, 'marital-status': 7, 'occupation': 15, 'relationship': 6,
    'race': 5, 'sex': 2, 'native-country': 42,
}  # fmt: skip

model = dict(
    encoder=dict(
        num_numeric=len(numeric),
        cardinalities=[count + 1 for count in categorical.values()],  # 0 is unknown
    )
)
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        table=table,
        target=target,
        task=task,
        numeric=numeric,
        categorical=categorical,
        drop=drop,
        missing=missing,
        split=split,
        download_hint=download_hint,
    )
)
