"""Report and budget of an experiment: known numbers."""

import csv
import io

import pytest
from label_efficiency_fakes import (
    SCRATCH,
    TOOLS,
    FakeLaunch,
    carry_out,
    metrics_of,
    plan,
    write_scalars,
)

from mmjepa.benchmark.label_efficiency import budget, report
from mmjepa.benchmark.label_efficiency.arms import Arm
from mmjepa.benchmark.label_efficiency.files import PlanError
from mmjepa.benchmark.label_efficiency.processes import PythonProcess
from mmjepa.benchmark.label_efficiency.progress import duration

# ------------------------------------------------------------------------------------------- report


def test_mean_and_sample_standard_deviation():
    figure = report.Figure.of([1.0, 2.0, 6.0])
    assert figure.mean == 3.0
    assert figure.std == pytest.approx(7**0.5)
    assert figure.text() == '3.00 +- 2.65'
    assert report.Figure.of([4.0]).text() == '4.00'
    assert report.Figure.of([4.0, float('nan')]).text() == '-'
    difference = report.Difference.of(figure, report.Figure.of([0.0, 1.0, 2.0]))
    assert difference.gain == 2.0 and difference.spread == pytest.approx(7**0.5)
    assert difference.text() == '+2.00 (+0.8)'
    assert report.Difference.of(figure, report.Figure.of([4.0])).text() == '-1.00'


def test_table_csv_and_curve(tmp_path):
    a_plan = plan(tmp_path)
    outcome, _, _ = carry_out(a_plan)
    paths = report.write_report(a_plan, outcome.results, outcome.failed)
    table = paths[1].read_text()
    # scratch at 5 %: 41.5, 42.5, 43.5
    row = next(line for line in table.splitlines() if '| 5 % | 20 | 1600 | scratch | 3 |' in line)
    assert '42.50 +- 1.00 | 32.50 +- 1.00 | 22.50 +- 1.00 | 32.50 +- 1.00' in row
    assert '| 5 % x2 | 20 | 3200 | adl_jepa | 3 | 47.50 +- 1.00 |' in table
    assert '| 5 % | adl_jepa - scratch | +5.00 (+5.0) | +5.00 (+5.0)' in table
    assert '| 5 % | adl_jepa - scratch x2 | +5.00 (+5.0)' in table
    assert 'scratch - ' not in table and 'cells are finished' not in table
    assert 'adl_jepa 3000 iterations of 4 on 400 sweeps' in table
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert rows[0]['arm'] == 'scratch' and rows[0]['iterations'] == '1600'
    assert rows[0]['multiple'] == '1.0' and float(rows[0]['Car_3d_ap40_moderate']) == 41.5
    assert rows[1]['checkpoint'].endswith('pretrain/adl_jepa/seed_0/iter_3000.pth')
    assert 'Car_num_gt_easy' not in rows[0]
    assert paths[2].name == 'curve.png'
    assert paths[2].read_bytes()[:4] == b'\x89PNG'
    closing = report.closing(a_plan, outcome.results)
    assert closing == (
        '5 % labels, mean AP: adl_jepa - scratch +5.00 points, more than the spread over seeds '
        '(1.00)'
    )
    assert not list(tmp_path.glob('.tmp*'))


def test_table_of_a_part_is_readable(tmp_path):
    a_plan = plan(tmp_path)
    bad = a_plan.cells[1].title
    outcome, _, _ = carry_out(a_plan, FakeLaunch(a_plan.jobs, fail=[bad]))
    some = {job.folder: outcome.results[job.folder] for job in a_plan.jobs[:2]}
    paths = report.write_report(a_plan, some, outcome.failed)
    table = paths[1].read_text()
    assert '1 of 18 cells are finished' in table
    assert f'- no result: {bad}: exit code 3' in table
    assert '| 5 % | 20 | 1600 | adl_jepa | 0 | - | - | - | - |' in table
    assert len(list(csv.reader(io.StringIO(paths[0].read_text())))) == 2
    assert [p.name for p in report.write_report(a_plan, {}, {})] == ['results.csv', 'table.md']


def test_curve_keeps_arms_apart_and_marks_the_long_runs(tmp_path):
    from mmjepa.benchmark.label_efficiency.figure import _series

    outcome, _, _ = carry_out(plan(tmp_path))
    summary = report.summarise(list(outcome.results.values()))
    series = _series(summary, ['scratch', 'adl_jepa'], 'mean')
    assert [(label, usual, len(points)) for label, _, usual, points in series] == [
        ('scratch', True, 2),
        ('scratch, 2x iterations', False, 1),
        ('adl_jepa', True, 2),
        ('adl_jepa, 2x iterations', False, 1),
    ]
    assert len({points[0][0] for _, _, _, points in series}) == 2  # places of the two arms


def test_notes_on_what_the_spread_leaves_out(tmp_path):
    arms = (SCRATCH, Arm('mine', checkpoint='a.pth'), Arm('ours', checkpoint='a{seed}.pth'))
    prints = {str(arm.checkpoint_of(s)): 'f' for arm in arms[1:] for s in range(3)}
    a_plan = plan(tmp_path, arms=arms, fingerprints=prints)
    (note,) = report.notes(a_plan)
    assert note.startswith('mine: one checkpoint for all seeds')
    assert 'one seed' in report.notes(plan(tmp_path, seeds=(0,)))[-1]


# ------------------------------------------------------------------------------------------- budget


def test_rate_leaves_out_the_start_and_counts_it_once():
    times = [9.0, 2.0, 0.5, 0.5, 0.7, 0.5]
    rows = [dict(iter=i, time=t, data_time=0.1) for i, t in enumerate(times, 1)]
    rate = budget.rate_of([*rows, dict(time=0.25, step=6)], wall=20.0, val_frames=8)
    assert rate.iteration == 0.5 and rate.evaluation == 0.25
    assert rate.waiting == pytest.approx(0.2)
    assert rate.start == pytest.approx(20 - 6 * 0.5 - 8 * 0.25)
    with pytest.raises(PlanError, match='logged no iteration'):
        budget.rate_of([], 1.0, 8)


def test_budget_times_each_kind_once_and_counts_what_is_left(tmp_path):
    a_plan = plan(tmp_path)
    started = []

    class Timed:
        def __init__(self, command, folder):
            started.append(list(command))
            rows = [dict(iter=i, step=i, time=0.5, data_time=0.0) for i in range(1, 7)]
            val = dict(metrics_of(a_plan.cells[0]), time=0.25, step=6)
            write_scalars(folder, *rows, *([val] if 'fine' in folder.name else []))
            (folder / 'iter_6.pth').touch()

        def poll(self):
            return 0

    rates = budget.measure(a_plan, TOOLS, Timed, 6, say=lambda line: None)
    assert list(rates) == ['pre-train adl_jepa', 'fine-tune'] and len(started) == 2
    assert {'log_interval=1', 'max_iters=6', 'jepa_checkpoint=None'} < set(started[1])
    assert not list((tmp_path / 'budget').rglob('*.pth'))
    rates = {kind: budget.Rate(0.5, 0.0, 10.0, rate.evaluation) for kind, rate in rates.items()}
    done = {job.folder: {} for job in a_plan.jobs if job.seed}
    text = budget.budget_text(a_plan, rates, done, 2)
    # one seed left: 1510 s; 2 x (810 + 50), 2 x (1610 + 50), 2 x (4010 + 50)
    total = 1510 + 2 * (860 + 1660 + 4060)
    assert f'total: {duration(total)}' in text and duration(total / 2) in text
    assert duration(2 * 860) in next(line for line in text.splitlines() if ' 5 %  ' in line)
    known = budget.known_rates(a_plan)
    assert set(known) == set(rates)


def test_budget_of_a_run_that_fails_shows_its_log(tmp_path):
    a_plan = plan(tmp_path, arms=(SCRATCH,))

    def failing(command, folder):
        return PythonProcess(['-c', "print('no such option'); exit(1)"], folder, {})

    with pytest.raises(PlanError, match=r'exit code 1(.|\n)*no such option'):
        budget.measure(a_plan, TOOLS, failing, 6, say=lambda line: None)
