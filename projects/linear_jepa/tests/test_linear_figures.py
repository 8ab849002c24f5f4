"""The figures: one here, the others and the documented command where slow tests run."""

import csv
import subprocess
import sys

import pytest

from projects.linear_jepa.linear_jepa.drawing import write_csv
from projects.linear_jepa.linear_jepa.figures import FIGURES


def draw(name, out, depths, seeds=(0,)):
    """Rows of a figure, as its CSV has them, and what it said."""
    said = []
    rows = FIGURES[name](out, seeds, said.append, depths)
    write_csv(out / f'{name}.csv', rows)
    assert (out / f'{name}.png').stat().st_size > 10_000
    assert said
    return list(csv.DictReader((out / f'{name}.csv').open()))


def near(row, theory, simulated, rel):
    assert float(row[simulated]) == pytest.approx(float(row[theory]), rel=rel), row


@pytest.mark.slow
def test_order(tmp_path):
    rows = draw('order', tmp_path, (1,))
    assert [row['place'] for row in rows] == ['1', '2', '3'] * 2
    for row in rows:
        near(row, 'theory', 'flow', 1e-4)
        near(row, 'theory', 'sgd', 0.01)
    curves = list(csv.DictReader((tmp_path / 'order_curves.csv').open()))
    assert {(c['objective'], c['feature']) for c in curves} == {
        (objective, str(i)) for objective in ('jepa', 'mae') for i in (1, 2, 3)
    }


@pytest.mark.slow
def test_critical_time(tmp_path):
    rows = draw('critical_time', tmp_path, (1,))
    assert len(rows) == 10
    for row in rows:
        near(row, 'theory', 'flow', 1e-4)
        if row['sgd'] != 'nan':
            near(row, 'theory', 'sgd', 0.01)
    assert sum(row['sgd'] != 'nan' for row in rows) == 7


def test_depth(tmp_path):
    rows = draw('depth', tmp_path, (2, 3))
    assert len(rows) == 8
    for row in rows:
        near(row, 'theory', 'flow', 1e-4)
    below, above = csv.DictReader((tmp_path / 'depth_order.csv').open())
    assert above['flow'] == '3, 2, 1' != below['flow']


@pytest.mark.slow
def test_noise(tmp_path):
    rows = draw('noise', tmp_path, (1,), (0, 1))
    views = [row for row in rows if row['part'] == 'two views']
    assert len(views) == 16 and len(rows) == 24
    for row in views:
        near(row, 'theory', 'time', 0.02)
        near(row, 'theory', 'time_sampled', 0.2)
        near(row, 'limit', 'amplitude', 0.05)
    for row in rows[16:]:
        near(row, 'theory', 'time', 1e-3)


@pytest.mark.slow
def test_command_line(repo, tmp_path):
    done = subprocess.run(
        [sys.executable, str(repo / 'projects/linear_jepa/tools/run.py'), '--figure', 'all',
         '--out', str(tmp_path / 'out'), '--seeds', '0'],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'JEPA, 3 layers: learns 3, 2, 1' in done.stdout
    assert 'MAE, 4 layers: learns 1, 2, 3' in done.stdout
    for name in FIGURES:
        assert (tmp_path / 'out' / f'{name}.png').is_file()
        assert (tmp_path / 'out' / f'{name}.csv').is_file()
