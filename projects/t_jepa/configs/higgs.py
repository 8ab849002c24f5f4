"""T-JEPA on Higgs, small (98,050 rows, 24 numeric and 4 categorical features; binary).

    python projects/t_jepa/tools/create_data.py higgs --src higgs.csv
    python tools/train.py projects/t_jepa/configs/higgs.py

The b-tags of the jets are categories, as released. Only a sample of 10,984 events was tried here.
"""

_base_ = ['./_base_/t_jepa.py']

data_root = 'data/higgs'
table = 'higgs.csv'
split = 'split.npz'
missing = 'median'
download_hint = (
    'Get https://www.openml.org/d/23512, then '
    '`python projects/t_jepa/tools/create_data.py higgs --src higgs.csv`'
)
target, task = 'label', 'binclass'
numeric = [
    'lepton_pT', 'lepton_eta', 'lepton_phi', 'missing_energy_magnitude', 'missing_energy_phi',
    *(f'jet_{k}_{what}' for k in (1, 2, 3, 4) for what in ('pt', 'eta', 'phi')),
    'm_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb',
]  # fmt: skip
btags = 3  # different values of each, 4 in the released loader
categorical = {f'jet_{k}_btag': btags for k in (1, 2, 3, 4)}

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
        split=split,
        missing=missing,
        download_hint=download_hint,
    )
)
