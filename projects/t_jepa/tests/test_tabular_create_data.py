"""The converters, on small files of each layout and on the real ones, and the inspector."""

import ast
import gzip
import importlib.util

import numpy as np
import pandas as pd
import pytest
from toy_tables import write_toy

from mmjepa.engine.config import load_config
from mmjepa.registry import DATASETS
from projects.t_jepa.t_jepa.dataset import TabularDataset


def load_tool(repo, name):
    path = repo / 'projects' / 't_jepa' / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f't_jepa_{name}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def create(repo):
    """Main function of projects/t_jepa/tools/create_data.py."""
    return load_tool(repo, 'create_data').main


@pytest.fixture
def inspect(repo, capsys):
    """What projects/t_jepa/tools/inspect_table.py prints."""
    tool = load_tool(repo, 'inspect_table')

    def run(*argv):
        assert tool.main([str(arg) for arg in argv]) == 0
        return capsys.readouterr().out

    return run


def read(folder, name):
    split = np.load(folder / 'split.npz')
    return pd.read_csv(folder / f'{name}.csv'), {part: split[part] for part in split.files}


ADULT_ROWS = [
    '39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, '
    '2174, 0, 40, United-States, <=50K',
    '52, ?, 209642, HS-grad, 9, Married-civ-spouse, ?, Husband, White, Male, 0, 0, 45, ?, >50K',
]


def test_adult(create, tmp_path):
    (tmp_path / 'adult.data').write_text('\n'.join(ADULT_ROWS) + '\n\n')
    test = '|1x3 Cross validator\n' + ADULT_ROWS[1] + '.\n\n'
    (tmp_path / 'adult.test.gz').write_bytes(gzip.compress(test.encode()))
    assert create(['adult', '--src', str(tmp_path), '--out', str(tmp_path / 'out')]) == 0
    table, split = read(tmp_path / 'out', 'adult')
    assert {k: v.tolist() for k, v in split.items()} == dict(train=[1, 2], test=[0])
    assert table['income'].tolist() == ['>50K', '<=50K', '>50K']
    assert table['workclass'].tolist() == ['?', 'State-gov', '?']
    assert table['native-country'].tolist() == ['?', 'United-States', '?']
    assert (table.shape, table['fnlwgt'].dtype) == ((3, 15), np.int64)


def test_existing_files_are_kept_unless_told(create, tmp_path, capsys):
    (tmp_path / 'aloi.csv').write_text('\n'.join(','.join(['1'] * 129) for _ in range(5)))
    argv = ['aloi', '--src', str(tmp_path), '--out', str(tmp_path / 'out')]
    assert create(argv) == 0
    assert create(argv) == 1
    assert 'exist; --overwrite replaces them' in capsys.readouterr().err
    assert create([*argv, '--overwrite']) == 0


def test_california(create, tmp_path, repo, capsys):
    names = load_tool(repo, 'create_data').HOUSING
    table = pd.DataFrame(np.arange(100.0).reshape(10, 10), columns=names)
    table['ocean_proximity'] = '<1H OCEAN'
    table.loc[3, 'total_bedrooms'] = np.nan
    table.to_csv(tmp_path / 'housing.csv', index=False)
    np.savez(tmp_path / 's.npz', train=[9, 0, 1, 3], val=[2], test=[4, 5])
    argv = ['california', '--src', str(tmp_path / 'housing.csv')]
    given = ['--split', str(tmp_path / 's.npz'), '--out', str(tmp_path / 'out')]
    assert create([*argv, *given]) == 0
    out, split = read(tmp_path / 'out', 'california')
    pd.testing.assert_frame_equal(out, table)
    assert split['train'].tolist() == [9, 0, 1, 3] and split['val'].tolist() == [2]
    assert create([*argv, '--out', str(tmp_path / 'random')]) == 0
    assert {k: len(v) for k, v in read(tmp_path / 'random', 'california')[1].items()} == dict(
        train=6, val=2, test=2
    )
    table.drop(columns='latitude').to_csv(tmp_path / 'housing.csv', index=False)
    assert create([*argv, '--out', str(tmp_path / 'bad')]) == 1
    assert 'not those of housing.csv' in capsys.readouterr().err


def test_arff(create, tmp_path, capsys):
    text = (
        "% a comment\n@RELATION x\n@ATTRIBUTE class {1,2}\n@ATTRIBUTE 'V 1' REAL\n"
        '@attribute V2 numeric\n@DATA\n1,0.5,3\n2,?,4\n1,-1e-3,5\n2,7,6\n1,8,7\n'
    )
    (tmp_path / 'jannis.arff').write_text(text)
    argv = ['--src', str(tmp_path), '--out']
    assert create(['jannis', *argv, str(tmp_path / 'out')]) == 0
    table, split = read(tmp_path / 'out', 'jannis')
    assert list(table) == ['class', 'V 1', 'V2']
    assert table['V 1'].isna().sum() == 1 and table['class'].tolist() == [1, 2, 1, 2, 1]
    assert sorted(np.concatenate(list(split.values()))) == list(range(5))
    assert {part: len(rows) for part, rows in split.items()} == dict(train=3, val=1, test=1)
    assert create(['helena', *argv, str(tmp_path / 'other')]) == 1
    assert 'helena.arff' in capsys.readouterr().err
    (tmp_path / 'helena.arff').write_text('@attribute class {1}\n@data\n{0 1, 3 4}\n')
    assert create(['helena', *argv, str(tmp_path / 'other')]) == 1
    assert 'no dense arff' in capsys.readouterr().err


@pytest.mark.parametrize('layout', ['headless', 'header', 'arff'])
def test_higgs_of_each_source(create, tmp_path, repo, layout, capsys):
    names = load_tool(repo, 'create_data').HIGGS
    values = np.random.default_rng(0).normal(size=(10, 28)).round(3)
    table = pd.DataFrame(values, columns=names)
    labels = np.arange(10) % 2
    path = tmp_path / 'higgs.csv'
    if layout == 'header':  # the label where it happens to be
        table.assign(Class=labels).to_csv(path, index=False)
    else:
        table.insert(0, 'class', labels)
        table.to_csv(path, index=False, header=False)
    if layout == 'arff':
        kinds = ''.join(f'@attribute {name} numeric\n' for name in table)
        (tmp_path / 'higgs.arff').write_text(f'{kinds}@data\n{path.read_text()}')
        path.unlink()
    out = tmp_path / 'out'
    assert create(['higgs', '--src', str(tmp_path), '--out', str(out), '--seed', '3']) == 0
    made, _ = read(out, 'higgs')
    assert made['label'].tolist() == labels.tolist()
    np.testing.assert_array_equal(made[names].to_numpy(), values)
    made.drop(columns='m_jj').to_csv(path, index=False)
    assert create(['higgs', '--src', str(path), '--out', str(tmp_path / 'o2')]) == 1
    assert 'it has 28 columns' in capsys.readouterr().err


def test_rtdl_folders(create, tmp_path, capsys):
    src = tmp_path / 'src'
    src.mkdir()
    rng = np.random.default_rng(0)
    for part, count in dict(train=6, val=2, test=3).items():
        np.save(src / f'N_{part}.npy', rng.normal(size=(count, 2)).astype(np.float32))
        np.save(src / f'C_{part}.npy', rng.choice(['u', 'v'], size=(count, 1)))
        np.save(src / f'y_{part}.npy', rng.integers(0, 3, count))
    argv = ['rtdl', '--name', 'mine', '--out', str(tmp_path / 'out')]
    assert create([*argv, '--src', str(src)]) == 0
    table, split = read(tmp_path / 'out', 'mine')
    assert list(table) == ['N0', 'N1', 'C0', 'target']
    assert {part: len(rows) for part, rows in split.items()} == dict(train=6, val=2, test=3)
    for part, rows in split.items():
        part_table = table.iloc[rows]
        numbers = part_table[['N0', 'N1']].to_numpy(np.float32)
        assert np.array_equal(numbers, np.load(src / f'N_{part}.npy'))
        assert np.array_equal(part_table['target'], np.load(src / f'y_{part}.npy'))
    (src / 'y_train.npy').unlink()
    assert create([*argv, '--src', str(src), '--overwrite']) == 1
    assert '--as-train val' in capsys.readouterr().err
    assert create([*argv, '--src', str(src), '--overwrite', '--as-train', 'val']) == 0
    assert {k: len(v) for k, v in read(tmp_path / 'out', 'mine')[1].items()} == dict(
        train=2, test=3
    )


def test_the_inspector_prints_lines_that_a_data_set_takes(inspect, tmp_path):
    root = write_toy(tmp_path)
    text = inspect(root / 'toy.csv', '--target', 'label')
    lines = [line for line in text.splitlines() if not line.startswith('#')]
    stated = {
        name: ast.literal_eval(value.partition('  #')[0])
        for name, _, value in (line.partition(' = ') for line in lines)
    }
    data = TabularDataset(**stated)
    assert stated['categorical'] == {'job': 4, 'town': 3}
    assert (stated['target'], stated['task']) == ('label', 'binclass')
    assert data.schema.columns == ('age', 'pay', 'size', 'rate', 'job', 'town')
    assert 'no --target' in inspect(root / 'toy.csv')
    gaps = write_toy(tmp_path, rate=[np.nan] + [1, 2, 3] * 19 + [1, 2])
    text = inspect(gaps / 'toy.csv', '--target', 'label')
    assert "# missing cells: {'rate': 1}" in text and "missing = 'median'" in text
    assert "--categorical: ['rate']" in text


def test_real_adult_has_the_counts_of_the_paper(create, inspect, shared_dir, tmp_path):
    source = shared_dir / 'data' / 'tabular' / 'adult'
    if not source.is_dir():
        pytest.skip(f'no {source}')
    assert create(['adult', '--src', str(source), '--out', str(tmp_path)]) == 0
    text = inspect(tmp_path / 'adult.csv', '--target', 'income')
    assert '48842 rows, 6 numeric and 8 categorical' in text
    cards = {
        'workclass': 9, 'education': 16, 'marital-status': 7, 'occupation': 15, 'relationship': 6,
        'race': 5, 'sex': 2, 'native-country': 42,
    }  # fmt: skip
    assert f'categorical = {cards}' in text
    data = TabularDataset(
        tmp_path, 'adult.csv', 'income', split=dict(file='split.npz', val=0.1), categorical=cards
    )
    assert [len(data.with_part(p)) for p in ('train', 'val', 'test')] == [29305, 3256, 16281]
    assert data.with_part('all').labels().mean() == pytest.approx(0.23928, abs=1e-5)
    first = pd.read_csv(tmp_path / 'adult.csv', nrows=1).iloc[0]
    assert (first['age'], first['workclass'], first['fnlwgt']) == (25, 'Private', 226802)


def test_real_california_with_the_split_of_rtdl(create, shared_dir, tmp_path):
    source = shared_dir / 'data' / 'tabular' / 'california_housing'
    if not source.is_dir():
        pytest.skip(f'no {source}')
    split = str(source / 'rtdl_split_indices.npz')
    assert create(['california', '--src', str(source), '--split', split, '--out', '.']) == 0
    options = dict(drop=['ocean_proximity'], split='split.npz', missing='median')
    data = TabularDataset('.', 'california.csv', 'median_house_value', **options)
    assert [len(data.with_part(p)) for p in ('train', 'val', 'test')] == [13209, 3303, 4128]
    labels = data.with_part('all').labels()
    assert labels.mean() == pytest.approx(206855.8, abs=0.1)
    dropped = TabularDataset(
        '.', 'california.csv', 'median_house_value', **dict(options, missing='drop')
    )
    assert len(dropped.with_part('all')) == 20433


@pytest.mark.parametrize(
    ('name', 'argv', 'counts'),
    [
        ('higgs', ['higgs', '--src', 'higgs'], dict(train=7030, val=1757, test=2197)),
        (
            'jannis',
            [
                'rtdl',
                '--name',
                'jannis',
                '--as-train',
                'val',
                '--src',
                'jannis/jannis_val_test.npz',
            ],
            dict(train=13398, test=16747),
        ),
    ],
)
def test_real_tables_are_what_the_configs_read(
    repo, create, shared_dir, tmp_path, name, argv, counts
):
    source = shared_dir / 'data' / 'tabular' / argv[-1]
    if not source.exists():
        pytest.skip(f'no {source}')
    assert create([*argv[:-1], str(source), '--out', str(tmp_path)]) == 0
    cfg = load_config(repo / f'projects/t_jepa/configs/{name}.py', dict(data_root=str(tmp_path)))
    stated = cfg.train_dataloader.dataset
    if name == 'jannis':  # rtdl's arrays have no names of columns
        stated.update(target='target', numeric=[f'N{i}' for i in range(54)])
    data = DATASETS.build(stated)
    assert {part: len(data.with_part(part)) for part in counts} == counts
    assert data.rows.shape[1] == len(data.transform.columns) == {'higgs': 28, 'jannis': 54}[name]
    assert data.rows.isfinite().all()


def test_the_inspector_refuses_a_misspelt_target(repo, tmp_path, capsys):
    """Else the label would be printed, and pasted, among the inputs."""
    root = write_toy(tmp_path)
    assert load_tool(repo, 'inspect_table').main([str(root / 'toy.csv'), '--target', 'lable']) == 1
    assert "error: target: no columns ['lable'] in the table" in capsys.readouterr().err
