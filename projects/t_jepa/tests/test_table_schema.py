import json

import numpy as np
import pandas as pd
import pytest
from toy_tables import CATEGORICAL, NUMERIC, toy_table

from projects.t_jepa.t_jepa.schema import TableSchema, as_text
from projects.t_jepa.t_jepa.tables import TableError


def test_types_decide_where_nothing_is_named():
    schema = TableSchema.infer(toy_table(), target='label')
    assert schema.numeric == ('age', 'pay', 'size', 'rate')
    assert schema.categorical == {'job': ('a', 'b', 'c', 'd'), 'town': ('x', 'y', 'z')}
    assert schema.task == 'binclass'
    assert schema.columns == ('age', 'pay', 'size', 'rate', 'job', 'town')
    assert schema.cardinalities == (5, 4)  # one more, for unknown
    text = json.dumps(schema.to_dict())
    assert TableSchema.from_dict(json.loads(text)) == schema


def test_what_is_named_wins_over_types_and_keeps_the_order_of_the_table():
    df = toy_table().assign(kind=np.arange(60) % 3, on=np.arange(60) % 2 == 0)
    drop = ['on', 'town', 'size', 'rate', 'job']
    schema = TableSchema.infer(df, 'label', numeric=['pay', 'age'], categorical=['kind'], drop=drop)
    assert schema.numeric == ('age', 'pay')
    assert schema.categorical == {'kind': ('0', '1', '2')}
    given = {'kind': ['2', '1', 0, 'seldom'], 'job': 4, 'town': 3}
    schema = TableSchema.infer(df, 'label', numeric=NUMERIC, categorical=given, drop=['on'])
    assert schema.categorical['kind'] == ('0', '1', '2', 'seldom')
    assert TableSchema.infer(df, 'label').categorical['on'] == ('False', 'True')
    objects = df.astype({'pay': object, 'on': object})
    assert TableSchema.infer(objects, 'label') == TableSchema.infer(df, 'label')


@pytest.mark.parametrize(
    ('labels', 'task'),
    [
        ([0, 1, 1], 'binclass'),
        ([True, False, True], 'binclass'),
        (['u', 'v', 'w'], 'multiclass'),
        ([0, 1, 2], 'multiclass'),
        ([0.5, 1, 2], 'regression'),
        (range(51), 'regression'),
    ],
)
def test_task_follows_from_the_labels(labels, task):
    df = pd.DataFrame(dict(a=np.arange(len(labels)), y=list(labels)))
    assert TableSchema.infer(df, 'y').task == task
    assert TableSchema.infer(df, 'y', task='regression').task == 'regression'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(numeric=['wage']), r"numeric: no columns \['wage'\].*there are: age"),
        (dict(drop=['x9']), 'drop: no columns'),
        (dict(numeric=['job'], categorical=['job']), "'job' is both categorical and numeric"),
        (dict(numeric=['label']), "'label' is both numeric and the target"),
        (dict(numeric='age'), r"numeric is a list of names: \['age'\]"),
        (dict(numeric=NUMERIC, categorical=['job']), r"\['town'\] are neither"),
        (dict(categorical={'job': 3}), "'job' has 4 categories, the config says 3"),
        (dict(categorical={'job': 'ab'}), 'a number or a list'),
        (dict(categorical={'job': ['a', 'a']}), 'different categories'),
        (dict(task='ranking'), 'task must be one of'),
        (dict(drop=[*NUMERIC, *CATEGORICAL]), 'at least one'),
    ],
)
def test_impossible_schemas_are_refused_by_name(options, message):
    with pytest.raises(TableError, match=message):
        TableSchema.infer(toy_table(), 'label', **options)


def test_columns_that_are_no_inputs_are_refused():
    df = toy_table()
    with pytest.raises(TableError, match="'when' is datetime64"):
        TableSchema.infer(df.assign(when=pd.Timestamp('2020-01-01')))
    named = df.assign(name=[f'n{i}' for i in range(len(df))])
    with pytest.raises(TableError, match="'name' has 60 different strings in 60 rows"):
        TableSchema.infer(named)
    assert len(TableSchema.infer(named, categorical=['name']).categorical['name']) == 60
    with pytest.raises(TableError, match="'lists' is object"):
        TableSchema.infer(df.assign(lists=[[1]] * len(df)))


def test_text_of_values_is_the_same_for_all_types_of_a_column():
    wanted = ['3', '12', None]
    for values in (
        pd.Series([3, 12, None]),
        pd.Series([3, 12, None], dtype='Int64'),
        pd.Series(['3', '12', None]),
        pd.Series(['3', '12', None], dtype='string'),
        pd.Series([3, 12, None], dtype='category'),
        pd.Series([3.0, 12, np.nan], dtype=object),
    ):
        assert as_text(values).tolist() == wanted
    assert as_text(pd.Series([0.5, -2.0])).tolist() == ['0.5', '-2']
