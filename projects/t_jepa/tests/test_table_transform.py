import json

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler
from toy_tables import NUMERIC, toy_table

from projects.t_jepa.t_jepa.schema import TableSchema
from projects.t_jepa.t_jepa.table_transform import TableTransform
from projects.t_jepa.t_jepa.tables import TableError


def fitted(df, scaler='standard', missing='raise', **options):
    schema = TableSchema.infer(df, 'label' if 'label' in df else None, **options)
    return TableTransform(schema, scaler, missing).fit(df)


@pytest.mark.parametrize(
    ('scaler', 'theirs'),
    [
        ('standard', StandardScaler()),
        ('minmax', MinMaxScaler()),
        ('quantile', QuantileTransformer(n_quantiles=300, output_distribution='normal')),
    ],
)
def test_scalers_equal_those_of_scikit_learn(scaler, theirs):
    df, later = toy_table(300), toy_table(500, seed=1)
    df.loc[:80, 'size'] = later.loc[:90, 'size'] = 0.0  # a stretch of equal values
    transform = fitted(df, scaler)
    rows = transform.transform(later)
    assert rows.dtype == np.float32
    values = later[NUMERIC].to_numpy()
    wanted = theirs.fit(df[NUMERIC].to_numpy()).transform(values)
    if scaler == 'quantile':  # repeated extreme values stay off the ends
        inside = (values != df[NUMERIC].min().to_numpy()) & (values != df[NUMERIC].max().to_numpy())
        assert inside.mean() > 0.95
        wanted = np.where(inside, wanted, rows[:, :4])
    # quantiles between two values are estimated in another way there
    np.testing.assert_allclose(rows[:, :4], wanted, atol=0.02 if scaler == 'quantile' else 1e-5)


def test_quantiles_put_a_pile_at_the_end_into_the_middle_of_its_ranks():
    df = pd.DataFrame(dict(gain=[0.0] * 80 + list(range(1, 21)), other=range(100)))
    rows = fitted(df, 'quantile').transform(df)
    assert rows[0, 0] == pytest.approx(-0.25, abs=0.02)  # the normal's quantile at 0.4
    assert rows[-1, 0] == pytest.approx(5.2, abs=0.01)


def test_tokens_are_numbers_first_then_codes_from_1():
    df = toy_table()
    transform = fitted(df)
    rows = transform.transform(df)
    assert transform.columns == ('age', 'pay', 'size', 'rate', 'job', 'town')
    assert (transform.num_numeric, transform.cardinalities) == (4, (5, 4))
    for k, (name, known) in enumerate(transform.schema.categorical.items(), 4):
        assert [known[int(code) - 1] for code in rows[:, k]] == df[name].tolist()
    shuffled = df[df.columns[::-1]].assign(more=1)
    assert np.array_equal(transform.transform(shuffled), rows)


def test_unseen_and_missing_categories_are_code_0_and_counted():
    df = toy_table()
    transform = fitted(df)
    other = df.assign(job=['new', None, *df['job'][2:]])
    rows = transform.transform(other)
    assert rows[:2, 4].tolist() == [0, 0] and rows[2:, 4].min() == 1
    assert transform.unknown == {'job': 2}
    transform.transform(df)
    assert transform.unknown == {}


def test_missing_numbers_are_refused_or_filled_from_the_fitted_rows():
    df = toy_table()
    df.loc[[3, 5], 'pay'] = np.nan
    with pytest.raises(TableError, match=r"'pay', row 3: the number is missing \(NaN\).*median"):
        fitted(df)
    for missing, value in (('mean', df['pay'].mean()), ('median', df['pay'].median())):
        transform = fitted(df, missing=missing)
        later = toy_table(4, seed=1).assign(pay=[1e6, np.nan, 1e6, 1e6])
        filled = later.assign(pay=[1e6, value, 1e6, 1e6])
        np.testing.assert_allclose(
            transform.transform(later), transform.transform(filled), atol=1e-6
        )
    with pytest.raises(TableError, match="'pay': all values are missing"):
        fitted(df.assign(pay=np.nan), missing='mean', numeric=['pay'])


def test_bad_numbers_are_refused_by_column_and_row():
    df = toy_table()
    transform = fitted(df)
    for value, message in (
        (np.inf, "'size', row 7: the number is infinite"),
        (1e200, "'size', row 7: the number is too large"),
        ('tall', "'size', row 7: 'tall' is no number"),
        (np.nan, "'size', row 7: the number is missing"),
    ):
        bad = df.astype({'size': object})
        bad.loc[7, 'size'] = value
        with pytest.raises(TableError, match=message):
            transform.transform(bad)
    with pytest.raises(TableError, match=r"no columns \['rate'\] in the table"):
        transform.transform(df.drop(columns='rate'))
    with pytest.raises(TableError, match='not fitted'):
        TableTransform(transform.schema).transform(df)
    with pytest.raises(TableError, match='num_scaler is one of'):
        TableTransform(transform.schema, 'robust')


@pytest.mark.parametrize('scaler', ['standard', 'minmax', 'quantile'])
def test_constant_columns_become_0(scaler):
    df = toy_table().assign(size=0.1)
    rows = fitted(df, scaler).transform(df.assign(size=0.1))
    assert np.abs(rows[:, 2]).max() == 0


@pytest.mark.parametrize('scaler', ['standard', 'minmax', 'quantile'])
def test_state_survives_json_bit_for_bit(scaler):
    df, later = toy_table(), toy_table(seed=1)
    transform = fitted(df, scaler, missing='median')
    again = TableTransform.from_state(json.loads(json.dumps(transform.state_dict())))
    assert np.array_equal(again.transform(later), transform.transform(later))
    kinds = fitted(df[['job', 'town']], scaler)
    again = TableTransform.from_state(json.loads(json.dumps(kinds.state_dict())))
    assert np.array_equal(again.transform(later), kinds.transform(later))
    assert pd.DataFrame(again.transform(later)).shape == (60, 2)


@pytest.mark.parametrize(
    'convert',
    [
        lambda df: df.convert_dtypes(),
        lambda df: df.astype({'job': 'category', 'town': 'category'}),
        lambda df: df.astype(object),
    ],
    ids=['nullable', 'category', 'object'],
)
def test_types_of_pandas_make_no_difference(convert):
    df = toy_table()
    other = convert(df)
    plain, transform = fitted(df, missing='mean'), fitted(other, missing='mean')
    assert transform.schema == plain.schema
    assert np.array_equal(transform.transform(other), plain.transform(df))
    gaps = [frame.copy() for frame in (df, other)]
    for frame in gaps:
        frame.loc[3, 'pay'] = frame.loc[4, 'job'] = None
    assert np.array_equal(transform.transform(gaps[1]), plain.transform(gaps[0]))
