"""A small table with numbers, kinds, a label and what else tables have."""

from pathlib import Path

import numpy as np

NUMERIC = ['age', 'pay', 'size', 'rate']
CATEGORICAL = {'job': 4, 'town': 3}


def toy_table(rows: int = 60, seed: int = 0):
    """A DataFrame whose label follows from ``pay`` and ``job``."""
    pd = __import__('pandas')
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, rows)
    pay = age * 10 + rng.normal(0, 30, rows)
    job = rng.choice(['a', 'b', 'c', 'd'], rows)
    job[:4] = ['a', 'b', 'c', 'd']
    return pd.DataFrame(
        dict(
            age=age,
            pay=pay,
            job=job,
            size=rng.normal(0, 1, rows),
            town=rng.choice(['x', 'y', 'z'], rows),
            rate=pay / 100 + rng.normal(0, 0.1, rows),
            label=np.where((pay > 490) ^ (job == 'a'), 'yes', 'no'),
        )
    )


def write_toy(root: Path, rows: int = 60, **changes) -> Path:
    """``toy.csv`` in a folder; ``changes`` replace columns."""
    root.mkdir(parents=True, exist_ok=True)
    toy_table(rows).assign(**changes).to_csv(root / 'toy.csv', index=False)
    return root
