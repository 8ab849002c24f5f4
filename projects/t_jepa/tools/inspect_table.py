"""Prints the lines of a config that describe a table: columns, cardinalities, task.

python projects/t_jepa/tools/inspect_table.py data/adult/adult.csv --target income
python projects/t_jepa/tools/inspect_table.py my.parquet --target y --categorical zip --drop id
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from projects.t_jepa.t_jepa.schema import TASKS, TableSchema
from projects.t_jepa.t_jepa.tables import names_of, read_table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('table', help='.csv, .tsv (each also .gz) or .parquet')
    parser.add_argument('--target', help='label column')
    parser.add_argument('--task', choices=TASKS, help='default: by the label values')
    for role in ('numeric', 'categorical', 'drop'):
        parser.add_argument(f'--{role}', nargs='+', metavar='COLUMN', help='default: by type')
    return parser.parse_args(argv)


def lines(args: argparse.Namespace) -> str:
    """What to paste, and remarks behind '#'."""
    df = read_table(args.table)
    if args.target:
        names_of(list(df.columns), [args.target], 'target')
    drop = args.drop or []
    schema = TableSchema.infer(df, args.target, args.task, args.numeric, args.categorical, drop)
    cards = {name: len(known) for name, known in schema.categorical.items()}
    missing = {c: int(n) for c, n in df[list(schema.columns)].isna().sum().items() if n}
    out = [
        f'# {args.table}: {len(df)} rows, {len(schema.numeric)} numeric and {len(cards)} '
        'categorical columns',
        f'data_root = {str(Path(args.table).parent)!r}',
        f'table = {Path(args.table).name!r}',
        f'split = {dict(test=0.2, val=0.1, seed=0)}',
        f'target = {args.target!r}',
        f'task = {schema.task!r}',
        f'numeric = {list(schema.numeric)}',
        f'categorical = {cards}  # categories; the tables of embeddings have one more, for unknown',
        f'drop = {drop}',
    ]
    numbers = [c for c in missing if c in schema.numeric]
    if missing:
        out.append(f'# missing cells: {missing}')
    fill = 'median' if numbers else 'raise'
    out.append(f"missing = {fill!r}  # 'median', 'mean', 'drop' (their rows) or 'raise'")
    if not args.target:
        out.append('# no --target: if a column is the label, name it, or it becomes an input')
    constant = [c for c in schema.columns if df[c].nunique(dropna=False) == 1]
    if constant:
        out.append(f'# the same in every row: --drop {" ".join(constant)}')
    unique = [c for c in schema.numeric if df[c].is_unique and (df[c] % 1 == 0).all()]
    if unique:
        out.append(
            f'# another whole number in every row, as an identifier: --drop {" ".join(unique)}'
        )
    few = [c for c in schema.numeric if df[c].nunique() <= 10]
    if few:
        out.append(f'# numeric, with 10 different values or fewer; kinds? --categorical: {few}')
    return '\n'.join(out)


def main(argv: list[str] | None = None) -> int:
    try:
        print(lines(parse_args(argv)))
    except (OSError, ValueError, ImportError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
