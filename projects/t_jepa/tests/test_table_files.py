import gzip

import numpy as np
import pandas as pd
import pytest
from toy_tables import toy_table, write_toy

from projects.t_jepa.t_jepa.tables import (
    TableError,
    carve,
    read_split,
    read_table,
    split_rows,
)


def test_formats_give_the_same_table(tmp_path):
    df = toy_table()
    write_toy(tmp_path)
    (tmp_path / 'toy.csv.gz').write_bytes(gzip.compress((tmp_path / 'toy.csv').read_bytes()))
    df.to_csv(tmp_path / 'toy.tsv', index=False, sep='\t')
    names = ['toy.csv', 'toy.csv.gz', 'toy.tsv']
    try:
        df.to_parquet(tmp_path / 'toy.parquet')
        names.append('toy.parquet')
    except ImportError:
        pass
    for name in names:
        pd.testing.assert_frame_equal(read_table(tmp_path / name), df)


def test_parquet_needs_pyarrow_or_reads(tmp_path):
    pytest.importorskip('pyarrow')
    df = toy_table().set_index('age', drop=False)
    df.to_parquet(tmp_path / 'toy.parquet')
    pd.testing.assert_frame_equal(read_table(tmp_path / 'toy.parquet'), df.reset_index(drop=True))
    (tmp_path / 'bad.parquet').write_bytes(b'PAR1 nothing')
    with pytest.raises(TableError, match='not parquet, or damaged'):
        read_table(tmp_path / 'bad.parquet')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'is empty'),
        ('a,b\n', 'a header but no rows'),
        ('a,a\n1,2\n', r"double column names \['a'\]"),
        ('1,2\n3,4\n', 'holds numbers, not names'),
        (',a\n0,1\n', 'column 0 has no name.*index=False'),
        ('a;b\n1;2\n', 'separator'),
        ('a,b\n1,2\n1,2,3\n', 'cannot be parsed'),
        ('a,b\n1,2,3\n4,5,6\n', 'cannot be parsed.*Length of header'),
        (b'\xff\xfea,b\n1,2\n', 'cannot be parsed'),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path, content, message):
    path = tmp_path / 'bad.csv'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TableError, match=message):
        read_table(path)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file. Fetch it'):
        read_table(tmp_path / 'no.csv', 'Fetch it')
    (tmp_path / 'x.xlsx').write_bytes(b'x')
    with pytest.raises(TableError, match='known are .csv'):
        read_table(tmp_path / 'x.xlsx')
    with pytest.raises(FileNotFoundError, match='a folder'):
        read_table(tmp_path)


def test_carving_parts_all_rows_and_repeats_itself():
    rows = np.arange(100, 200)
    rest, taken = carve(rows, 0.25, 3)
    assert len(taken) == 25
    assert np.array_equal(np.sort(np.concatenate([rest, taken])), rows)
    assert np.array_equal(carve(rows, 0.25, 3)[1], taken)
    assert not np.array_equal(carve(rows, 0.25, 4)[1], taken)
    for share in (0, 1, 0.001, 1.5):
        with pytest.raises(TableError, match='share of'):
            carve(rows, share, 0)


def test_splits_of_files_and_shares(tmp_path):
    np.savez(tmp_path / 's.npz', train=[4, 1, 2, 3], test=[0])
    parts = split_rows('s.npz', tmp_path, 6)
    assert {k: v.tolist() for k, v in parts.items()} == {'train': [4, 1, 2, 3], 'test': [0]}
    parts = split_rows(dict(file='s.npz', val=0.5, seed=1), tmp_path, 6)
    assert sorted([*parts['train'], *parts['val']]) == [1, 2, 3, 4] and len(parts['val']) == 2
    parts = split_rows(dict(test=0.2, val=0.1, seed=0), tmp_path, 100)
    assert {k: len(v) for k, v in parts.items()} == dict(train=72, val=8, test=20)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(100))
    assert list(split_rows(None, tmp_path, 3)) == ['train']
    for bad in (dict(share=0.1), dict(file='s.npz', test=0.1), dict(seed=1)):
        with pytest.raises(TableError, match='split='):
            split_rows(bad, tmp_path, 6)
    np.savez(tmp_path / 'v.npz', train=[1], test=[0], val=[2])
    with pytest.raises(TableError, match='has a val part'):
        split_rows(dict(file='v.npz', val=0.1), tmp_path, 6)


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        (dict(train=[0]), r"has \['train'\], needs train, test"),
        (dict(train=[0], test=[1], more=[2]), 'needs train, test'),
        (dict(train=[0.5], test=[1]), 'integers'),
        (dict(train=np.zeros(0, int), test=[1]), 'n > 0'),
        (dict(train=[0], test=[9]), 'split of another table'),
        (dict(train=[0, 1], test=[1]), 'row 1 and 0 others appear twice'),
    ],
)
def test_bad_splits_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / 's.npz', **arrays)
    with pytest.raises(TableError, match=message):
        read_split(tmp_path / 's.npz', 5)


def test_split_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        read_split(tmp_path / 's.npz', 5)
    (tmp_path / 's.npz').write_text('train: 1 2 3')
    with pytest.raises(TableError, match=r'no \.npz file of row numbers'):
        read_split(tmp_path / 's.npz', 5)
    np.savez(tmp_path / 'o.npz', train=np.array([None, 1]), test=[0])
    with pytest.raises(TableError, match=r'no \.npz file'):
        read_split(tmp_path / 'o.npz', 5)
