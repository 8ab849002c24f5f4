"""T-JEPA on California Housing (20,640 rows, 8 numeric features; regression).

    python projects/t_jepa/tools/create_data.py california --src housing.csv --split split.npz
    python tools/train.py projects/t_jepa/configs/california.py

`split.npz` holds rtdl's row numbers, if you have them; otherwise leave out `--split`. As released,
ocean_proximity isn't used; the 207 rows without total_bedrooms get the median instead of being
left out (`missing=drop`), so that the test part stays whole.
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/california'
table = 'california.csv'
split = 'split.npz'
missing = 'median'
download_hint = (
    'Get housing.csv (https://www.kaggle.com/datasets/camnugent/california-housing-prices), then '
    '`python projects/t_jepa/tools/create_data.py california --src housing.csv`'
)
target, task = 'median_house_value', 'regression'
numeric = [
    'longitude', 'latitude', 'housing_median_age', 'total_rooms', 'total_bedrooms', 'population',
    'households', 'median_income',
]  # fmt: skip
categorical = {}
drop = ['ocean_proximity']

model = dict(encoder=dict(num_numeric=len(numeric), cardinalities=[]))
train_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        table=table,
        target=target,
        task=task,
        numeric=numeric,
        categorical=categorical,
        drop=drop,
        split=split,
        missing=missing,
        download_hint=download_hint,
    )
)
