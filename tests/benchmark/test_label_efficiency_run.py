"""Running an experiment: settings, skipping, failures, Ctrl-C, processes; no training."""

import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest
from label_efficiency_fakes import SCRATCH, carry_out, found, name_of, plan

from mmjepa.benchmark.label_efficiency import results, run

SLEEPING = ['-c', 'import time; time.sleep(60)']


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """Runs without waiting and pictures; how many results each report had."""
    counts = []
    monkeypatch.setattr(run, 'PAUSE', 0.005)
    monkeypatch.setattr(run, 'write_report', lambda plan, there, failed: counts.append(len(there)))
    return counts


# ------------------------------------------------------------------------------------------ results


def test_validation_is_the_last_one_after_the_last_iteration(tmp_path):
    job = plan(tmp_path).cells[0]

    def write(stamp, *rows):
        path = job.folder / stamp / 'vis_data/scalars.json'
        path.parent.mkdir(parents=True)
        killed = '{"kitti/mean_3d_ap40_moderate": 9'  # while writing
        path.write_text(''.join(json.dumps(row) + '\n' for row in rows) + killed)

    assert results.validation(job) is None
    first = {
        'kitti/mean_3d_ap40_moderate': 1.0,
        'kitti/Van_ap': float('nan'),
        'kitti/Tram_ap': None,
    }
    write('1', dict(first, step=job.iterations // 2))
    assert results.validation(job) is None  # of an unfinished run
    last = {**first, 'kitti/mean_3d_ap40_moderate': 2.0, 'step': job.iterations}
    write('2', dict(first, step=job.iterations), last, dict(loss=1.0, step=job.iterations))
    result = results.result_of(job)
    # a class without an AP is kept as nothing: JSON knows no NaN
    assert result['metrics'] == dict(mean_3d_ap40_moderate=2.0, Van_ap=None, Tram_ap=None)
    assert result == results.read_json(job.folder / 'result.json') == results.result_of(job)
    (job.folder / 'result.json').write_text('{')
    with pytest.raises(ValueError, match='is damaged'):
        results.result_of(job)


def test_other_settings_are_named_and_overwritten_when_asked(tmp_path):
    old = plan(tmp_path, seeds=(0, 1))
    carry_out(old, 2)
    results.check_folders(old.jobs)
    told = found(resolved=dict(model=dict(type='VoxelNet', lr=0.001)))
    new = plan(tmp_path, told, seeds=(0, 1)).jobs
    for jobs, message in (
        (new, r'model.lr: 0.003 -> 0.001 \(and 11 more folders\)'),
        (plan(tmp_path, finetune_iters=(7,)).jobs, '"max_iters=1600" -> "max_iters=7"'),
        (plan(tmp_path, amp='bf16').jobs, 'amp: nothing -> "bf16"'),
    ):
        with pytest.raises(ValueError, match=message):
            results.check_folders(jobs)
    results.check_folders(new, overwrite=True)
    assert not any(job.folder.exists() for job in old.cells)
    assert all(results.result_of(job) for job in old.jobs if job.stage == 'pretrain')


def test_checkpoints_of_something_else_are_not_gone_on_with(tmp_path):
    job, other = plan(tmp_path).jobs[0], plan(tmp_path, pretrain_iters=7).jobs
    run.commands(plan(tmp_path))
    results.check_folders(other)  # settings alone do not stand in the way
    (job.folder / 'epoch_3.pth').touch()
    with pytest.raises(ValueError, match='"max_iters=3000" -> "max_iters=7"'):
        results.check_folders(other)
    (job.folder / 'settings.json').unlink()
    with pytest.raises(ValueError, match='no settings.json beside epoch_3.pth'):
        results.check_folders([job])


# ---------------------------------------------------------------------------------------------- run


def test_runs_everything_once(tmp_path, reports, capsys):
    a_plan = plan(tmp_path, seeds=(0, 1))
    runs, tools = carry_out(a_plan)
    assert tools == [f'train.py {name_of(job)}' for job in a_plan.jobs]
    assert not runs.failed and len(runs.results) == 14
    assert reports == list(range(15))  # before the start, after every run
    cell = a_plan.cells[0].folder
    assert runs.results[cell]['metrics']['Car_3d_ap40_moderate'] == 41.5
    assert results.read_json(cell / 'run.json')['exit_code'] == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if ' start ' in line]) == 14
    assert any('Car 41.50' in line and 'ETA' in line for line in lines)
    again, tools = carry_out(plan(tmp_path, seeds=(0, 1)))
    assert tools == [] and again.results == runs.results
    assert capsys.readouterr().out.splitlines() == ['14 of 14 runs are finished already']


def test_what_fails_leaves_the_others_and_is_gone_on_with(tmp_path, capsys):
    a_plan = plan(tmp_path, seeds=(0, 1))
    failing, stopped, unvalidated = a_plan.cells[:3]
    todo = {name_of(failing): 'fail', name_of(stopped): 'stop', name_of(unvalidated): 'unvalidated'}
    runs, tools = carry_out(a_plan, 2, **todo, **{'adl_jepa/seed_1': 'fail'})
    assert len(tools) == 11 and len(runs.results) == 7
    why = runs.failed
    assert 'exit code 3' in why[failing.folder] and 'stopped before' in why[stopped.folder]
    assert unvalidated.folder in why
    held_up = [
        job for job in a_plan.jobs if why.get(job.folder) == 'its pre-training has no result'
    ]
    assert [(job.arm, job.seed) for job in held_up] == [('adl_jepa', 1)] * 3
    assert results.read_json(failing.folder / 'run.json')['exit_code'] == 3
    printed = capsys.readouterr().out
    assert f'FAILED {failing.title}: exit code 3' in printed and '    the last line\n' in printed
    before = results.read_json(stopped.folder / 'run.json')['seconds']
    tool, *words = unvalidated.command()
    assert tool.endswith('test.py') and words[:2] == ['second.py', str(unvalidated.last_checkpoint)]

    runs, tools = carry_out(a_plan)
    assert not runs.failed and len(runs.results) == 14 and len(tools) == 7
    assert tools[:3] == [
        f'train.py {name_of(failing)}',
        f'train.py {name_of(stopped)}',
        f'test.py {name_of(unvalidated)}',
    ]
    assert runs.results[stopped.folder]['seconds'] > before  # of both
    assert runs.results[unvalidated.folder]['metrics']['Car_3d_ap40_moderate'] == 41.5


@pytest.mark.parametrize('todo', ['wait', 'deaf'])
def test_ctrl_c_lets_the_running_ones_save_and_a_second_one_does_not(todo, tmp_path, monkeypatch):
    a_plan = plan(tmp_path, seeds=(0,))
    interrupts = [None] if todo == 'wait' else [None, None]

    def sleep(seconds):
        time.sleep(0.01)
        if interrupts and len((tmp_path / 'tools/started').read_text().splitlines()) == 2:
            raise KeyboardInterrupt(interrupts.pop())

    with monkeypatch.context() as patch:
        patch.setattr(run, 'time', SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
        with pytest.raises(KeyboardInterrupt):
            carry_out(a_plan, 2, **{name_of(job): todo for job in a_plan.jobs[:2]})
    for job in a_plan.jobs[:2]:
        assert (job.folder / 'iter_1.pth').is_file() == (todo == 'wait')
        code = results.read_json(job.folder / 'run.json')['exit_code']
        assert code == (0 if todo == 'wait' else -9)
    runs, tools = carry_out(a_plan, 2)
    assert len(tools) == len(runs.results) == 7


def test_printed_commands_and_their_results(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    printed = run.commands(a_plan)
    assert printed == [job.command() for job in a_plan.jobs]
    carry_out(a_plan)
    for job in a_plan.jobs[3:]:  # as if the others had been run by hand
        shutil.rmtree(job.folder)
    for job in a_plan.jobs[:3]:
        (job.folder / 'result.json').unlink()
    assert run.commands(a_plan) == printed[3:]
    runs, tools = carry_out(a_plan)
    assert len(tools) == 4 and len(runs.results) == 7
    # a pre-training that nobody needs any more is not repeated
    shutil.rmtree(a_plan.jobs[0].folder)
    assert carry_out(a_plan)[1] == [] and run.commands(a_plan) == []


def test_process_logs_locks_and_ends(tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    hello = ['-c', "import os; print('threads', os.environ.get('OMP_NUM_THREADS')); exit(5)"]
    assert run.start(hello, tmp_path, 1).wait(20) == 5
    assert run.start(hello, tmp_path).wait(20) == 5
    assert (tmp_path / 'output.log').read_text() == 'threads 1\nthreads None\n'
    sleeping = run.start(SLEEPING, tmp_path)
    assert os.getsid(sleeping.pid) == sleeping.pid  # no Ctrl-C from the terminal
    with pytest.raises(BlockingIOError):
        run.start(hello, tmp_path)
    run.kill(sleeping)
    assert sleeping.poll() == -9
    assert run.start(hello, tmp_path).wait(20) == 5


def test_busy_folder_is_told_and_left_alone(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,), arms=[SCRATCH])
    busy = a_plan.jobs[1].folder
    other = run.start(SLEEPING, busy)
    try:
        runs, _ = carry_out(a_plan)
    finally:
        run.kill(other)
    assert list(runs.failed) == [busy] and 'another process' in runs.failed[busy]
    assert len(runs.results) == 2


def test_eta_comes_from_finished_jobs(tmp_path):
    runs = run.PlanRun(plan(tmp_path, seeds=(0,)), 1)
    pretraining, cells = runs.plan.jobs[0], runs.plan.cells
    runs._waiting = list(runs.plan.jobs)
    assert 'ETA after the first result' in runs._times()
    runs.results = {cells[0].folder: dict(seconds=160.0)}  # 0.1 s an iteration
    runs._running = [(cells[1], None, time.monotonic())]
    runs._waiting = [pretraining, *cells[2:]]
    assert 'ETA at least 0:40:00' in runs._times()  # a pre-training takes nobody knows how long
    runs.parallel, runs._waiting = 2, [cells[-1]]
    runs._running = [(cells[1], None, time.monotonic() - 100)]
    assert 'ETA 0:13:20' in runs._times()
    runs._waiting = runs._running = []
    assert runs._times() == 'elapsed 0:00:00'
