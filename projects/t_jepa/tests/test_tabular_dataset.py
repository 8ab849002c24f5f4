import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from toy_tables import CATEGORICAL, NUMERIC, toy_table, write_toy

from mmjepa.datasets import jepa_collate
from mmjepa.engine.config import load_config
from mmjepa.engine.runner import JEPARunner
from mmjepa.registry import DATASETS, MODELS
from projects.t_jepa.t_jepa.dataset import TabularDataset
from projects.t_jepa.t_jepa.rows import RowFileDataset
from projects.t_jepa.t_jepa.table_transform import TableTransform
from projects.t_jepa.t_jepa.tables import TableError

SPLIT = dict(test=0.2, val=0.1, seed=0)


def toy(root, **options):
    options = dict(table='toy.csv', target='label', split=SPLIT) | options
    return TabularDataset(root, **options)


def loader(data, batch_size=8, workers=0, seed=0):
    init_default_scope('mmjepa')
    settings = dict(
        dataset=data,
        batch_size=batch_size,
        num_workers=workers,
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='ResumableBatchSampler'),
        collate_fn=dict(type='mmjepa.jepa_collate'),
    )
    return JEPARunner.build_dataloader(settings, seed=seed)


def test_parts_share_scales_and_part_the_table(tmp_path):
    train = toy(write_toy(tmp_path))
    val, test, whole = (train.with_part(part) for part in ('val', 'test', 'all'))
    assert [len(d) for d in (train, val, test, whole)] == [43, 5, 12, 60]
    numbers = np.concatenate([d.row_numbers for d in (train, val, test)])
    assert sorted(numbers) == list(range(60)) == whole.row_numbers.tolist()
    df = toy_table()
    wanted = TableTransform(train.schema).fit(df.iloc[train.row_numbers])
    assert np.array_equal(test.rows.numpy(), wanted.transform(df.iloc[test.row_numbers]))
    assert torch.equal(whole.rows[train.row_numbers], train.rows)
    assert torch.equal(toy(tmp_path, part='test').rows, test.rows)
    with pytest.raises(TableError, match=r"part 'val': the split has \['train', 'all'\]"):
        toy(tmp_path, split=None, part='val')


@pytest.mark.parametrize('scaler', ['standard', 'minmax', 'quantile'])
def test_rows_outside_training_change_nothing(tmp_path, scaler):
    """Extreme numbers and unseen kinds in val and test: training is blind to them."""
    before = toy(write_toy(tmp_path), num_scaler=scaler)
    df = toy_table()
    hidden = np.setdiff1d(np.arange(60), before.row_numbers)
    df.loc[hidden, NUMERIC] = 1e7
    df.loc[hidden, ['job', 'town']] = 'unheard of'
    write_toy(tmp_path, **{name: df[name] for name in df})
    after = toy(tmp_path, num_scaler=scaler)
    assert torch.equal(after.rows, before.rows)
    assert after.transform.state_dict() == before.transform.state_dict()
    assert (after.with_part('test').rows[:, 4:] == 0).all()
    assert after.transform.unknown == dict(job=len(hidden), town=len(hidden))
    # the option that sees all rows does so
    told = toy(tmp_path, num_scaler=scaler, fit_on='all')
    assert not torch.equal(told.rows, before.rows)
    assert told.schema.cardinalities == (6, 5)


def test_labels_are_no_inputs_and_may_be_absent(tmp_path):
    stated = dict(numeric=NUMERIC, categorical=CATEGORICAL)
    with_labels = toy(write_toy(tmp_path), **stated)
    toy_table().drop(columns='label').to_csv(tmp_path / 'toy.csv', index=False)
    without = toy(tmp_path, **stated)
    assert torch.equal(without.rows, with_labels.rows)
    assert not {'label', 'target'} & {*without[0]['inputs'], *without[0]['data_samples']}
    with pytest.raises(TableError, match="no label column 'label'"):
        without.labels()
    # a misspelt target would make the label an input
    with pytest.raises(TableError, match=r"target: no columns \['lable'\]"):
        toy(write_toy(tmp_path), target='lable')


def test_a_training_step_has_the_same_loss_without_labels(tmp_path, repo):
    def loss():
        cfg = load_config(repo / 'projects/t_jepa/configs/_base_/t_jepa.py', dict(depth=1))
        stated = dict(numeric=NUMERIC, categorical=CATEGORICAL)
        cfg.model.encoder.update(num_numeric=4, cardinalities=[5, 4])
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        model.init_weights()
        batch = next(iter(loader(toy(tmp_path, **stated))))
        return model.loss(**model.data_preprocessor(batch, True))['loss_prediction']

    write_toy(tmp_path)
    init_default_scope('mmjepa')
    before = loss()
    toy_table().drop(columns='label').to_csv(tmp_path / 'toy.csv', index=False)
    assert torch.equal(loss(), before)


def test_batches_come_in_one_go_and_hold_what_single_rows_do(tmp_path):
    data = toy(write_toy(tmp_path))
    pairs = [(3, 2**61), (0, 7), (3, 8)]
    batch = jepa_collate(data.__getitems__(pairs))
    single = jepa_collate([data[pair] for pair in pairs], stack=['rows'])
    assert torch.equal(batch['inputs']['rows'], single['inputs']['rows'])
    assert batch['inputs']['seeds'].tolist() == [2**61, 7, 8]
    assert list(batch['data_samples']) == single['data_samples']
    row = int(data.row_numbers[3])
    assert single['data_samples'][0] == dict(
        sample_seed=2**61, index=row, path=f'toy.csv, row {row}'
    )
    assert data[5]['data_samples']['sample_seed'] == 5
    with pytest.raises(KeyError, match='image'):
        jepa_collate(data.__getitems__(pairs), stack=['image'])
    assert pickle.loads(pickle.dumps(batch))['data_samples'] == batch['data_samples']


def test_batches_repeat_themselves_for_any_workers_and_go_on_where_they_stopped(tmp_path):
    data = toy(write_toy(tmp_path))

    def batches(count, start=0, **options):
        made = loader(data, **options)
        made.batch_sampler.start_iteration = start
        return [batch for _, batch in zip(range(count), made, strict=False)]

    whole = batches(7)  # more than an epoch of 5
    for a, b in zip(whole, batches(7, workers=1), strict=True):
        assert a['data_samples'] == b['data_samples']
        assert torch.equal(a['inputs']['rows'], b['inputs']['rows'])
    for a, b in zip(whole[4:], batches(3, start=4), strict=True):
        assert torch.equal(a['inputs']['seeds'], b['inputs']['seeds'])
        assert torch.equal(a['inputs']['rows'], b['inputs']['rows'])
    assert not torch.equal(batches(1, seed=1)[0]['inputs']['seeds'], whole[0]['inputs']['seeds'])


def test_missing_values_are_refused_filled_or_dropped_and_never_silent(tmp_path):
    df = toy_table()
    df.loc[[2, 30], 'pay'] = np.nan
    df.loc[9, 'town'] = None
    root = write_toy(tmp_path, pay=df['pay'], town=df['town'])
    with pytest.raises(TableError, match=r"column 'pay', row \d+: the number is missing"):
        toy(root)
    filled = toy(root, missing='median')
    assert len(filled.with_part('all')) == 60
    assert torch.isfinite(filled.with_part('all').rows).all()
    dropped = toy(root, missing='drop')
    assert sorted(dropped.with_part('all').row_numbers) == sorted({*range(60)} - {2, 30})
    assert dropped.transform.unknown == filled.transform.unknown == {'town': 1}


def test_numbers_of_categories_are_checked_against_the_table(tmp_path):
    root = write_toy(tmp_path)
    assert toy(root, categorical=dict(job=4, town=3)).schema.cardinalities == (5, 4)
    with pytest.raises(TableError, match="'town' has 3 categories, the config says 2"):
        toy(root, categorical=dict(job=4, town=2))
    with pytest.raises(TableError, match="'town' has 3 categories, the config says 5"):
        toy(root, categorical=dict(job=4, town=5))
    # the training part may lack one
    df = toy_table()
    hidden = np.setdiff1d(np.arange(60), toy(root).row_numbers)
    df.loc[hidden[0], 'town'] = 'w'
    write_toy(root, town=df['town'])
    assert toy(root, categorical=dict(job=4, town=4)).schema.cardinalities == (5, 4)


def test_labels_of_each_part(tmp_path):
    data = toy(write_toy(tmp_path))
    df = toy_table()
    test = data.with_part('test')
    assert test.class_names == ['no', 'yes']
    wanted = (df['label'] == 'yes').to_numpy(int)[test.row_numbers]
    assert np.array_equal(test.labels(), wanted) and test.labels().dtype == np.int64
    with pytest.raises(TableError, match=r"label '(yes|no)' is not among the names \['maybe'\]"):
        test.labels(['maybe'])
    grades = toy(write_toy(tmp_path, label=np.arange(60) % 12), task='multiclass')
    assert grades.class_names == [str(i) for i in range(12)]  # 2 before 10
    prices = toy(write_toy(tmp_path, label=np.linspace(0, 1, 60)))
    assert prices.schema.task == 'regression'
    np.testing.assert_allclose(prices.labels(), np.linspace(0, 1, 60)[prices.row_numbers])
    gap = toy(write_toy(tmp_path, label=[np.nan, *range(59)]), task='regression', part='all')
    with pytest.raises(TableError, match="column 'label', row 0: no label"):
        gap.labels()


def test_the_transform_travels_in_metainfo(tmp_path):
    data = DATASETS.build(
        dict(type='TabularDataset', data_root=str(write_toy(tmp_path)), table='toy.csv')
    )
    again = TableTransform.from_state(copy.deepcopy(data.metainfo)['transform'])
    assert np.array_equal(again.transform(toy_table()), data.rows.numpy())


def test_indices_take_some_rows_and_bad_arguments_are_refused(tmp_path):
    root = write_toy(tmp_path)
    assert len(toy(root, indices=7)) == 7
    with pytest.raises(ValueError, match='there are 43 rows'):
        toy(root, indices=[43])
    with pytest.raises(TableError, match='fit_on'):
        toy(root, fit_on='test')
    with pytest.raises(FileNotFoundError, match='no such file. Get it'):
        toy(root, table='other.csv', download_hint='Get it')


def test_row_files(tmp_path):
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.save(tmp_path / 'rows.npy', rows)
    data = RowFileDataset(tmp_path / 'rows.npy')
    assert np.array_equal(data.__getitems__([4, 1])['inputs']['rows'].numpy(), rows[[4, 1]])
    np.save(tmp_path / 'wide.npy', rows.astype(float))
    with pytest.raises(TableError, match='float64'):
        RowFileDataset(tmp_path / 'wide.npy')
    with pytest.raises(FileNotFoundError, match='no such file'):
        RowFileDataset(tmp_path / 'none.npy')
