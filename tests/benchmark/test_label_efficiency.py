"""The label-efficiency experiment: what is planned, found in configs and data, and reported."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from label_efficiency_fakes import SCRATCH, carry_out, choices, found, plan
from mmengine.config import Config

from mmjepa.benchmark.label_efficiency import budget, examine, report, run
from mmjepa.benchmark.label_efficiency.choices import Arm, check_choices, parse_arms

# --------------------------------------------------------------------------------------------- plan


def test_arms_by_name_config_and_checkpoint(repo, tmp_path):
    words = ['scratch', 'adl_jepa', 'bev_mae', 'mine=mine.py', 'theirs=runs/{seed}/last.pth']
    scratch, jepa, bev, mine, theirs = parse_arms(words, repo)
    assert scratch == SCRATCH and scratch.checkpoint_of(7) is None
    assert jepa.config == repo / 'configs/adl_jepa/kitti.py'
    assert bev.config.is_file() and 'lidar_baselines' in str(bev.config)
    assert mine == Arm('mine', config=tmp_path / 'mine.py')  # tests run in tmp_path
    assert theirs.config is None
    assert theirs.checkpoint_of(7) == tmp_path / 'runs/7/last.pth'


def test_plan_has_every_cell_with_equal_iterations(tmp_path):
    a_plan = plan(tmp_path)
    assert Counter(job.stage for job in a_plan.jobs) == {'pretrain': 3, 'finetune': 18}
    by_cell = {}
    for job in a_plan.cells:
        by_cell.setdefault((job.fraction, job.multiple), set()).add((job.iterations, job.frames))
    assert by_cell == {
        (0.05, 1.0): {(1600, 20)},
        (0.05, 2.0): {(3200, 20)},  # the long cells: at the smallest fraction only
        (1.0, 1.0): {(8000, 400)},
    }
    assert len({job.folder for job in a_plan.jobs}) == len({job.hash for job in a_plan.jobs}) == 21
    # seed after seed, pre-training before what needs it
    assert [job.seed for job in a_plan.jobs] == sorted(job.seed for job in a_plan.jobs)
    seen = set()
    for job in a_plan.jobs:
        assert job.needs is None or job.needs in seen
        assert (job.needs is None) == (job.arm == 'scratch' or job.stage == 'pretrain')
        seen.add(job.folder)


def test_plan_follows_the_numbers_given(tmp_path):
    a_plan = plan(tmp_path, finetune_iters=(100, 400), pretrain_iters=50, long=None, seeds=(4,))
    assert [(j.fraction, j.iterations) for j in a_plan.cells] == [(0.05, 100)] * 2 + [(1, 400)] * 2
    assert a_plan.jobs[0].iterations == 50
    assert {job.seed for job in a_plan.jobs} == {4}
    assert {j.iterations for j in plan(tmp_path, finetune_iters=(9,), long=None).cells} == {9}


def test_commands_carry_shared_options_and_the_checkpoint(tmp_path):
    shared = dict(grid=('voxel_size=[0.1,0.1,0.1]',), batch_size=2, num_workers=1, amp='bf16')
    finetuning = ('encoder_lr_mult=0.5', 'log_interval=5')
    pretraining = ('mask_ratio=0.75',)
    a_plan = plan(tmp_path, **shared, pretrain_options=pretraining, finetune_options=finetuning)
    pretraining, scratch, jepa = (a_plan.jobs[0], *a_plan.cells[:2])
    for job in (pretraining, scratch, jepa):
        words = job.command()
        tool = str(tmp_path / 'tools/train.py')
        assert words[:4] == [tool, str(job.config), '--work-dir', str(job.folder)]
        assert words[4:8] == ['--amp', 'bf16', '--resume', '--cfg-options']
        expected = {'data_root=data', 'voxel_size=[0.1,0.1,0.1]', 'batch_size=2', 'num_workers=1'}
        assert expected | {f'seed={job.seed}', f'max_iters={job.iterations}'} < set(words)
        assert ('mask_ratio=0.75' in words) == (job is pretraining)
    words = set(jepa.command())
    assert {*finetuning, 'label_fraction=0.05', f'val_interval={jepa.iterations}'} < words
    assert f'jepa_checkpoint={pretraining.folder / "iter_3000.pth"}' in words
    assert 'jepa_checkpoint=None' in scratch.command()
    own = plan(tmp_path, finetune_options=('val_interval=3',)).cells[0].command()
    assert [word for word in own if word.startswith('val_interval')] == ['val_interval=3']


def test_hash_tells_what_matters(tmp_path):
    def hashes(**changes):
        return {job.title: job.hash for job in plan(tmp_path, seeds=(0,), **changes).jobs}

    usual = hashes()
    assert hashes(num_workers=1, finetune_options=('log_interval=1',)) == usual
    assert {job.hash for job in plan('elsewhere', seeds=(0,)).jobs} == set(usual.values())
    other = hashes(pretrain_iters=10)
    same = {title for title in usual if other[title] == usual[title]}
    assert same == {t for t in usual if t.startswith('scratch')}
    other = hashes(told=found(resolved=dict(model=dict(type='VoxelNet', lr=0.001))))
    same = {title for title in usual if other[title] == usual[title]}
    assert same == {t for t in usual if t.startswith('pre-train')}
    assert not set(hashes(amp='bf16').values()) & set(usual.values())
    # folders of earlier versions hold the same
    assert plan(tmp_path, amp='bf16').cells[0].settings == dict(
        config=found().finetuning.resolved,
        data={'infos.pkl': 'def'},
        options=['seed=0', 'label_fraction=0.05', 'max_iters=1600', 'val_interval=1600'],
        encoder=None,
        amp='bf16',
    )


def test_arm_with_a_checkpoint_of_its_own(tmp_path):
    asked = dict(arms=[SCRATCH, Arm('mine', checkpoint=str(tmp_path / 'a{seed}.pth'))])
    for name in (*examine.INFOS, 'a0.pth', 'a1.pth', 'a2.pth'):
        (tmp_path / name).write_bytes(b'x')
    jobs = plan(tmp_path, **asked).jobs
    assert all(job.stage == 'finetune' and job.needs is None for job in jobs)
    (tmp_path / 'a1.pth').write_bytes(b'another')
    pairs = zip(jobs, plan(tmp_path, **asked).jobs, strict=True)
    assert [(a.arm, a.seed) for a, b in pairs if a.hash != b.hash] == [('mine', 1)] * 3
    check_choices(choices(tmp_path, data=tmp_path, **asked))
    with pytest.raises(FileNotFoundError, match=r'no file .*a3.pth for seed 3'):
        check_choices(choices(tmp_path, data=tmp_path, seeds=range(4), **asked))


# ------------------------------------------------------------------------------------------ examine


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    from mm3d_scenes import write_kitti

    root = tmp_path_factory.mktemp('kitti') / 'data'
    write_kitti(root, frames=4)
    return root


def test_examination_reads_configs_and_data(repo, data):
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    from mmjepa.engine.config import ConfigError, load_config
    from mmjepa.engine.finetune import apply_label_fraction

    asked = choices(
        'out',
        data=data,
        fractions=[0.25, 0.5, 1.0],
        arms=[SCRATCH, Arm('jepa', config=repo / 'configs/adl_jepa/kitti.py')],
        config=repo / 'configs/downstream/mmdet3d/second_kitti_paper.py',
        grid=['point_cloud_range=[0,-25.6,-3,51.2,25.6,1]', 'voxel_size=[0.2,0.2,0.1]'],
        batch_size=2,
    )
    told = examine.examine(asked)
    split = data / 'ImageSets/train.txt'
    names = split.read_text()
    split.write_text(names + (data / 'ImageSets/val.txt').read_text())
    with pytest.raises(ValueError, match='nothing is pre-trained on validation sweeps'):
        examine.examine(asked)
    split.write_text(names)
    split.parent.rename(data / 'aside')
    with pytest.raises(FileNotFoundError, match=r'train\.txt is missing'):
        examine.examine(asked)
    (data / 'aside').rename(split.parent)
    finetuning, pretraining = told.finetuning, told.pretraining['jepa']
    assert finetuning.frames == [1, 2, 4]
    assert finetuning.iterations == [320, 160, 160]  # epochs x frames / batch
    assert pretraining.frames == [4] and pretraining.iterations == [60]
    resolved = json.dumps([finetuning.resolved, pretraining.resolved])
    assert str(data) not in resolved and '<data>' in resolved
    assert set(finetuning.data) == set(examine.INFOS)
    assert all('cannot exceed' in note for note in told.notes) and len(told.notes) == 3
    # the same number of epochs as a run by epochs would have
    config = load_config(asked.config, dict(data_root=str(data)))
    config.label_fraction, config.work_dir = 0.25, '.'
    apply_label_fraction(config)
    assert config.train_cfg.max_epochs == finetuning.iterations[0]

    with pytest.raises(ConfigError, match=r'voxel_size is \[0.05, .* --grid voxel_size'):
        examine.examine(replace(asked, grid=asked.grid[:1], finetune_options=asked.grid[1:]))
    config.val_evaluator.recall = (11,)
    with pytest.raises(ConfigError, match='mmjepa.KittiAPMetric'):
        examine._check_metric(config, asked.config)


def test_notes(data, tmp_path, monkeypatch):
    path = data / 'kitti_infos_val.pkl'
    notes = examine.object_notes(path, ['Car', 'Cyclist'], [0, -40, -3, 70, 40, 1])
    assert len(notes) == 2 and notes[0].startswith('Car: only ')
    assert 'R40 cannot exceed' in notes[0]
    monkeypatch.setattr(examine, 'ENOUGH', 1)
    assert examine.object_notes(path, ['Car'], [0, -40, -3, 70, 40, 1]) == []
    (note,) = examine.object_notes(path, ['Car'], [0, -40, -3, 20, 40, 1])
    assert 'lie outside the grid' in note
    # what a pre-training sees of the labels, and what the spread leaves out
    loader = dict(dataset=dict(split='trainval'))
    config = Config(dict(train_dataloader=loader, gt_sampling=True))
    notes = ' '.join(examine._arm_notes(choices(tmp_path), dict(jepa=config)))
    assert "pre-trains on the split 'trainval'" in notes and 'reads all train labels' in notes
    arms = [SCRATCH, Arm('mine', checkpoint='a.pth'), Arm('ours', checkpoint='a{seed}.pth')]
    (note,) = examine._arm_notes(choices(tmp_path, arms=arms), {})
    assert note.startswith('mine: one checkpoint for all seeds')
    (note,) = examine._arm_notes(choices(tmp_path, seeds=[0]), {})
    assert note.startswith('one seed')


# ------------------------------------------------------------------------------- report and budget


@pytest.fixture
def quick(monkeypatch):
    """Runs without waiting and without pictures."""
    monkeypatch.setattr(run, 'PAUSE', 0.005)
    monkeypatch.setattr(run, 'write_report', lambda *args: None)


def test_mean_and_sample_standard_deviation():
    aps = np.array([1.0, 2.0, 6.0])
    assert report.mean_std(aps) == (3.0, pytest.approx(7**0.5))
    assert report.figure(aps) == '3.00 +- 2.65'
    assert report.figure(aps[:1]) == '1.00'
    assert report.figure(np.array([4.0, np.nan])) == '-'
    assert report.difference(aps, np.array([0.0, 1.0, 2.0])) == '+2.00 (+0.8)'
    assert report.difference(aps, np.array([4.0])) == '-1.00'
    assert report.difference(aps, np.array([4.0, np.nan])) == '-'


def test_table_csv_and_curve(tmp_path, quick):
    a_plan = plan(tmp_path, found(notes=['few objects']))
    runs, _ = carry_out(a_plan, 2)
    table, rows, picture = report.write_report(a_plan, runs.results, {})
    lines = table.read_text().splitlines()
    # scratch at 5 %: 41.5, 42.5, 43.5
    row = next(line for line in lines if line.startswith('| 5 % | 20 | 1600 | scratch | 3 |'))
    assert '42.50 +- 1.00 | 32.50 +- 1.00 | 22.50 +- 1.00 | 32.50 +- 1.00' in row
    assert any(line.startswith('| 5 % x2 | 20 | 3200 | adl_jepa | 3 | 47.50 +-') for line in lines)
    gain = ' | '.join(['+5.00 (+5.0)'] * 4)
    assert [line for line in lines if ' - scratch' in line] == [
        f'| 5 % | adl_jepa - scratch | {gain} |',
        f'| 5 % | adl_jepa - scratch x2 | {gain} |',
        f'| 5 % x2 | adl_jepa - scratch | {gain} |',
        f'| 100 % | adl_jepa - scratch | {gain} |',
    ]
    assert 'adl_jepa 3000 iterations of 4 on 400 sweeps' in lines[2]
    assert lines[-1] == '- note: few objects' and 'finished' not in table.read_text()
    rows = list(csv.DictReader(rows.open()))
    assert len(rows) == 18
    assert rows[0]['arm'] == 'scratch' and rows[0]['iterations'] == '1600'
    assert rows[0]['multiple'] == '1.0' and float(rows[0]['Car_3d_ap40_moderate']) == 41.5
    assert rows[1]['checkpoint'].endswith('pretrain/adl_jepa/seed_0/iter_3000.pth')
    assert float(rows[0]['seconds']) > 0 and 'Car_num_gt_easy' not in rows[0]
    assert picture.name == 'curve.png' and picture.read_bytes()[:4] == b'\x89PNG'
    curves = report.curve(a_plan, report.summarise(a_plan, runs.results)).axes[0].containers
    names = [f'{arm}{long}' for arm in ('scratch', 'adl_jepa') for long in ('', ', 2x iterations')]
    assert [curve.get_label() for curve in curves] == names

    # a part of it
    first, second = a_plan.cells[:2]
    some = {first.folder: runs.results[first.folder]}
    table, rows, _ = report.write_report(a_plan, some, {second.folder: 'exit code 3'})
    assert '1 of 18 cells are finished' in table.read_text()
    assert f'- no result: {second.title}: exit code 3' in table.read_text()
    assert '| 5 % | 20 | 1600 | adl_jepa | 0 | - | - | - | - |' in table.read_text()
    assert len(rows.read_text().splitlines()) == 2
    assert len(report.write_report(a_plan, {}, {})) == 2  # nothing to draw


def test_budget_counts_what_is_left(tmp_path, quick, monkeypatch):
    carry_out(plan(tmp_path, seeds=(1, 2)))
    times = iter([(0.5, 10.0, 0.0), (0.5, 10.0, 0.25)])
    monkeypatch.setattr(
        budget, 'measure', lambda job, work_dir, threads: next(times) if threads == 1 else None
    )
    _, pretraining, cells, total, parallel = budget.budget_text(plan(tmp_path), 2).splitlines()
    assert pretraining.split()[2:] == ['1', '3,000', '0.500', '0:25:10']  # one seed is left
    # twice 810 + 50, 1610 + 50 and 4010 + 50 s
    assert cells.split()[1:] == ['6', '25,600', '0.500', '3:39:20']
    assert 'total: 4:04:30' in total and '2:02:15 at best' in parallel


def test_budget_times_a_run(tmp_path, quick):
    times = [9.0, 2.0, 0.5, 0.5, 0.7, 0.5]
    rows = [*(dict(iter=i, time=t) for i, t in enumerate(times, 1)), dict(time=0.25, step=6)]
    iteration, startup, frame = budget.times_of('\n'.join(map(json.dumps, rows)), wall=20.0)
    assert (iteration, frame) == (0.5, 0.25)  # without the first third
    assert startup == pytest.approx(20 - 6 * 0.5 - 8 * 0.25)  # counted once

    a_plan = plan(tmp_path, seeds=(0,))
    carry_out(a_plan)
    cell = plan(tmp_path / 'new').cells[1]
    assert budget.measure(cell, tmp_path) == (0.5, 0.0, 0.25)
    (tmp_path / 'tools/train.py').write_text("print('no such option'); exit(1)")
    with pytest.raises(ValueError, match=r'exit code 1(.|\n)*no such option'):
        budget.measure(cell, tmp_path)
    assert not list(tmp_path.glob('budget_*'))
