"""Turns users' own copies of the six tables into a table file and a split file.

python projects/t_jepa/tools/create_data.py adult --src DIR_WITH_adult.data_AND_adult.test
python projects/t_jepa/tools/create_data.py california --src housing.csv --split split.npz
python projects/t_jepa/tools/create_data.py jannis --src jannis.arff
python projects/t_jepa/tools/create_data.py helena --src helena.arff
python projects/t_jepa/tools/create_data.py higgs --src higgs.csv
python projects/t_jepa/tools/create_data.py aloi --src aloi.csv
python projects/t_jepa/tools/create_data.py rtdl --src data/jannis --name jannis

Each writes data/<name>/<name>.csv and data/<name>/split.npz (0-based row numbers train, test and,
where the source has it, val). Sources may be gzipped. Without a split of its own a table gets a
random one (64 % train, 16 % val, 20 % test, --seed), drawn without a look at labels.

Where they come from: Adult https://archive.ics.uci.edu/dataset/2 (adult.data, adult.test);
California https://www.kaggle.com/datasets/camnugent/california-housing-prices (housing.csv);
Jannis, Helena https://www.openml.org/d/41168 and /d/41169 (arff, class first); HIGGS
https://www.openml.org/d/23512 or the UCI file (label first); ALOI aloi.csv (label last); rtdl:
folders of the benchmark rtdl-revisiting-models (N_*.npy, C_*.npy, y_*.npy), or one .npz of these.
"""

from __future__ import annotations

import argparse
import re
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from projects.t_jepa.t_jepa.tables import PARTS, TableError, carve, read_split, read_table

ADULT = [
    *('age', 'workclass', 'fnlwgt', 'education', 'education-num', 'marital-status', 'occupation'),
    *('relationship', 'race', 'sex', 'capital-gain', 'capital-loss', 'hours-per-week'),
    *('native-country', 'income'),
]
HOUSING = [
    *('longitude', 'latitude', 'housing_median_age', 'total_rooms', 'total_bedrooms'),
    *('population', 'households', 'median_income', 'median_house_value', 'ocean_proximity'),
]
HIGGS = [
    *('lepton_pT', 'lepton_eta', 'lepton_phi', 'missing_energy_magnitude', 'missing_energy_phi'),
    *(f'jet_{k}_{what}' for k in (1, 2, 3, 4) for what in ('pt', 'eta', 'phi', 'btag')),
    *('m_jj', 'm_jjj', 'm_lv', 'm_jlv', 'm_bb', 'm_wbb', 'm_wwbb'),
]
LABELS = ('label', 'class', 'target')
TEST, VAL = 0.2, 0.2  # of all, and of the rest
Split = dict[str, np.ndarray]


def _file(path: Path, *names: str) -> Path:
    """The file, or the first of these names in a folder, gzipped or not."""
    tries = [path] if not names or path.is_file() else [path / n for n in names]
    for one in tries:
        for found in (one, one.with_name(one.name + '.gz')):
            if found.is_file():
                return found
    raise FileNotFoundError(f'no {" or ".join(map(str, tries))} (nor with .gz)')


def _headless(path: Path, **options: Any) -> pd.DataFrame:
    """A comma-separated file without names."""
    try:
        return pd.read_csv(path, header=None, skipinitialspace=True, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise TableError(f'{path} cannot be parsed: {str(error).strip()}') from None


def _random_split(count: int, seed: int) -> Split:
    rest, test = carve(np.arange(count), TEST, seed)
    train, val = carve(rest, VAL, seed + 1)
    return dict(train=train, val=val, test=test)


def adult(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """UCI's two files; rows of adult.test come first, as in Kaggle's adult.csv."""
    tables = []
    for name, skip in (('adult.test', '|'), ('adult.data', None)):
        path = _file(args.src, name)
        # '?' is a category of its own; nothing in these files is missing
        part = _headless(path, comment=skip, keep_default_na=False)
        if part.shape[1] != len(ADULT):
            raise TableError(f'{path}: {part.shape[1]} fields a line, not {len(ADULT)}')
        tables.append(part.set_axis(ADULT, axis=1))
    table = pd.concat(tables, ignore_index=True)
    table['income'] = table['income'].str.rstrip('.')
    rows, tests = np.arange(len(table)), len(tables[0])
    return table, dict(train=rows[tests:], test=rows[:tests])


def california(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """Kaggle's file; the 207 rows without total_bedrooms stay in it."""
    path = _file(args.src, 'housing.csv', 'california.csv')
    table = read_table(path)
    if list(table.columns) != HOUSING:
        raise TableError(f'{path}: columns {list(table.columns)}, not those of housing.csv')
    if args.split is None:
        return table, _random_split(len(table), args.seed)
    return table, read_split(args.split, len(table))


def openml(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """Jannis or Helena: dense arff, attribute 'class' among the others."""
    path = _file(args.src, f'{args.command}.arff')
    table = read_arff(path)
    if 'class' not in table:
        raise TableError(f'{path}: no attribute "class" among {list(table)[:10]}')
    return table, _random_split(len(table), args.seed)


def read_arff(path: Path) -> pd.DataFrame:
    """A dense arff file; '?' is a missing value.

    Raises:
        TableError: no such file.
    """
    import gzip

    opened = gzip.open if path.suffix == '.gz' else open
    names: list[str] = []
    with opened(path, 'rt', encoding='utf-8') as file:
        for line in file:
            word = line.strip().lower()
            if word.startswith('@data'):
                break
            if word.startswith('@attribute'):
                found = re.match(r"@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", line.strip(), re.I)
                names.append(found[1].strip('\'"') if found else '')
        body = file.read()
    if not names or not body.strip() or body.lstrip().startswith('{'):
        raise TableError(f'{path}: no dense arff file (@attribute lines, @data, then values)')
    kinds = dict(comment='%', na_values=['?'], quotechar="'", skipinitialspace=True)
    table = pd.read_csv(StringIO(body), header=None, **kinds)
    if table.shape[1] != len(names):
        raise TableError(f'{path}: {len(names)} attributes but {table.shape[1]} values a line')
    return table.set_axis(names, axis=1)


def higgs(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """28 features and a label: first without a header (UCI), by name with one (OpenML, arff)."""
    path = _file(args.src, 'higgs.csv', 'higgs.arff', 'HIGGS.csv')
    if '.arff' in path.name:
        table = read_arff(path)
    else:
        first = _headless(path, nrows=1, dtype=str).iloc[0]
        named = pd.to_numeric(first, errors='coerce').isna().any()
        table = _headless(path, na_values=['?'], skiprows=1 if named else 0)
        table.columns = first if named else ['label', *HIGGS]
    label = [c for c in table if str(c).lower() in LABELS]
    if len(label) != 1 or table.shape[1] != 1 + len(HIGGS):
        raise TableError(
            f'{path}: 28 features and one column of {LABELS} are needed; it has '
            f'{table.shape[1]} columns, and {label}'
        )
    features = table.drop(columns=label).set_axis(HIGGS, axis=1)
    features.insert(0, 'label', table[label[0]].astype(int))
    return features, _random_split(len(table), args.seed)


def aloi(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """128 features and, last, the label; with or without a header."""
    path = _file(args.src, 'aloi.csv')
    first = _headless(path, nrows=1, dtype=str).iloc[0]
    named = pd.to_numeric(first, errors='coerce').isna().all()
    table = _headless(path, skiprows=1 if named else 0)
    if table.shape[1] != 129:
        raise TableError(f'{path}: {table.shape[1]} columns, not 128 features and a label')
    return (
        table.set_axis([*(f'f{i}' for i in range(128)), 'class'], axis=1),
        _random_split(len(table), args.seed),
    )


def rtdl(args: argparse.Namespace) -> tuple[pd.DataFrame, Split]:
    """N_<part>.npy (numbers), C_<part>.npy (strings), y_<part>.npy, in a folder or one .npz."""
    arrays: dict[str, np.ndarray] = {}
    files = [args.src] if args.src.is_file() else sorted(args.src.glob('[NCy]_*.npy'))
    for path in files:
        try:
            found = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise TableError(f'{path} holds no plain array: {error}') from None
        arrays.update(found if path.suffix == '.npz' else {path.stem: found})
    parts = [p for p in PARTS if f'y_{p}' in arrays]
    if args.as_train:
        if args.as_train not in parts or 'train' in parts:
            raise TableError(f'--as-train {args.as_train}: {args.src} has the parts {parts}')
    elif 'train' not in parts or 'test' not in parts:
        raise TableError(
            f'{args.src}: has the parts {parts}, needs train and test; --as-train val takes '
            'another one for training'
        )
    tables, split, start = [], {}, 0
    for part in parts:
        columns: dict[str, np.ndarray] = {}
        for kind in 'NC':
            values = arrays.get(f'{kind}_{part}')
            if values is not None:
                columns |= {f'{kind}{j}': column for j, column in enumerate(values.T)}
        tables.append(pd.DataFrame({**columns, 'target': arrays[f'y_{part}']}))
        name = 'train' if part == args.as_train else part
        split[name] = np.arange(start, start := start + len(tables[-1]))
    return pd.concat(tables, ignore_index=True), split


COMMANDS = dict(
    adult=adult, california=california, jannis=openml, helena=openml, higgs=higgs, aloi=aloi,
    rtdl=rtdl,
)  # fmt: skip


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest='command', metavar='TABLE')
    for name, make in COMMANDS.items():
        sub = commands.add_parser(name, help=(make.__doc__ or '').splitlines()[0])
        sub.add_argument('--src', type=Path, required=True, help='file, or the folder it lies in')
        sub.add_argument('--out', type=Path, help='folder (default: data/<name>)')
        sub.add_argument('--overwrite', action='store_true', help='replace what is there')
        sub.add_argument('--seed', type=int, default=0, help='of a random split')
        if name == 'california':
            sub.add_argument('--split', type=Path, help='.npz with train, val, test row numbers')
        if name == 'rtdl':
            sub.add_argument('--name', required=True, help='of the table')
            sub.add_argument('--as-train', choices=['val'], help='where there is no train part')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    name = args.name if args.command == 'rtdl' else args.command
    out = args.out or Path('data') / name
    csv, npz = out / f'{name}.csv', out / 'split.npz'
    try:
        there = [str(path) for path in (csv, npz) if path.exists()]
        if there and not args.overwrite:
            raise TableError(f'{" and ".join(there)} exist; --overwrite replaces them')
        table, split = COMMANDS[args.command](args)
        out.mkdir(parents=True, exist_ok=True)
        part = csv.with_suffix('.part')
        table.to_csv(part, index=False)
        np.savez_compressed(npz, **split)
        part.replace(csv)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    counts = ', '.join(f'{len(rows)} {part}' for part, rows in split.items())
    print(f'{csv}: {len(table)} rows, {table.shape[1]} columns; {npz}: {counts}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
