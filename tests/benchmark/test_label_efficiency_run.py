"""Running an experiment: settings, skipping, failures, Ctrl-C, processes; no training."""

import subprocess
import sys
import time

import pytest
from label_efficiency_fakes import (
    SCRATCH,
    TOOLS,
    FakeLaunch,
    carry_out,
    found,
    metrics_of,
    plan,
    write_scalars,
)

from mmjepa.benchmark.label_efficiency import results
from mmjepa.benchmark.label_efficiency.files import PlanError, read_json
from mmjepa.benchmark.label_efficiency.processes import BusyError, PythonProcess, launcher
from mmjepa.benchmark.label_efficiency.progress import Clock, duration
from mmjepa.benchmark.label_efficiency.run import PlanRun, commands, failures

# ------------------------------------------------------------------------------------------ results


def test_validation_is_the_last_one_after_the_last_iteration(tmp_path):
    job = plan(tmp_path).cells[0]
    assert results.validation(job) is None
    first = {'kitti/mean_3d_ap40_moderate': 1.0}
    write_scalars(job.folder, dict(first, step=job.iterations // 2))
    assert results.validation(job) is None  # of an unfinished run
    at_end = [dict(first, step=job.iterations), dict(metrics_of(job), step=job.iterations)]
    path = write_scalars(job.folder, *at_end, stamp='20260102_000000')
    with path.open('a') as file:
        file.write('{"kitti/mean_3d_ap40_moderate": 9')  # killed while writing
    assert results.validation(job)['mean_3d_ap40_moderate'] == 32.0 - 0.5
    assert 'step' not in results.validation(job)


def test_result_without_the_figures_of_the_table_is_an_error(tmp_path):
    job = plan(tmp_path).cells[0]
    write_scalars(job.folder, {'kitti/Car_3d_ap11_moderate': 1.0, 'step': job.iterations})
    with pytest.raises(PlanError, match='no mean_3d_ap40_moderate among the figures'):
        results.finish(job)


def test_missing_class_is_kept_as_nothing(tmp_path):
    job = plan(tmp_path).cells[0]
    row = dict(metrics_of(job), step=job.iterations)
    row['kitti/Cyclist_3d_ap40_moderate'] = float('nan')
    write_scalars(job.folder, row)
    result = results.finish(job)
    assert result == read_json(job.folder / 'result.json')
    assert result['metrics']['Cyclist_3d_ap40_moderate'] is None


def test_other_settings_are_named_and_overwritten_when_asked(tmp_path):
    old = plan(tmp_path)
    carry_out(old)
    told = found(resolved=dict(model=dict(type='VoxelNet', lr=0.001)))
    new = plan(tmp_path, told)
    with pytest.raises(PlanError, match=r'model.lr: 0.003 -> 0.001 \(and 17 more folders\)'):
        results.check_folders(new.jobs)
    with pytest.raises(PlanError, match='"max_iters=1600" -> "max_iters=7"'):
        results.check_folders(plan(tmp_path, finetune_iters=(7,)).jobs)
    results.check_folders(old.jobs)
    results.check_folders(new.jobs, overwrite=True)
    assert not any(job.folder.exists() for job in new.cells)
    assert all(results.finished(job) for job in old.jobs if job.stage == 'pretrain')


def test_settings_without_a_run_do_not_stand_in_the_way(tmp_path):
    commands(plan(tmp_path).jobs, TOOLS)  # leaves settings
    results.check_folders(plan(tmp_path, finetune_iters=(7,)).jobs)


def test_checkpoints_of_something_else_are_not_gone_on_with(tmp_path):
    a_plan = plan(tmp_path)
    job = a_plan.jobs[0]
    job.folder.mkdir(parents=True)
    (job.folder / 'epoch_3.pth').touch()
    with pytest.raises(PlanError, match='no settings.json beside epoch_3.pth'):
        results.check_folders(a_plan.jobs)


def test_damaged_json_says_so(tmp_path):
    (tmp_path / 'a.json').write_text('{')
    with pytest.raises(PlanError, match='is damaged'):
        read_json(tmp_path / 'a.json')


# ---------------------------------------------------------------------------------------------- run


def test_runs_everything_once(tmp_path):
    a_plan = plan(tmp_path)
    seen = []
    outcome, launch, lines = carry_out(a_plan, on_result=lambda o: seen.append(len(o.results)))
    assert launch.started == [job.title for job in a_plan.jobs]
    assert launch.most == 1
    assert not outcome.failed and len(outcome.results) == 21
    assert seen[0] == 0 and len(seen) == 19  # before the start, after every cell
    cell = outcome.results[a_plan.cells[0].folder]
    assert cell['metrics']['Car_3d_ap40_moderate'] == 41.5
    assert read_json(a_plan.cells[0].folder / 'run.json')['exit_code'] == 0
    assert len([line for line in lines if ' start ' in line]) == 21
    assert any('Car 41.50' in line and 'ETA' in line for line in lines)
    again, launch, lines = carry_out(plan(tmp_path))
    assert launch.started == []
    assert again.results == outcome.results
    assert lines == ['21 of 21 runs are finished already']


def test_failure_leaves_the_others_and_is_repeated(tmp_path):
    a_plan = plan(tmp_path)
    bad = 'adl_jepa, 5 %, seed 1'
    outcome, launch, lines = carry_out(a_plan, FakeLaunch(a_plan.jobs, fail=[bad]))
    assert len(launch.started) == 21 and len(outcome.results) == 20
    (folder,) = outcome.failed
    assert read_json(folder / 'run.json')['exit_code'] == 3
    assert 'exit code 3' in failures(a_plan.jobs, outcome)
    assert f'{bad}: the last line' in failures(a_plan.jobs, outcome)
    assert any('FAILED' in line and bad in line for line in lines)
    _, launch, _ = carry_out(plan(tmp_path))
    assert launch.started == [bad]
    assert '--resume' in launch.commands[0]


def test_failed_pretraining_holds_up_its_own_cells_only(tmp_path):
    a_plan = plan(tmp_path)
    outcome, launch, _ = carry_out(
        a_plan, FakeLaunch(a_plan.jobs, fail=['pre-train adl_jepa, seed 0'])
    )
    assert len(outcome.failed) == 4
    assert not any(title.startswith('adl_jepa') and 'seed 0' in title for title in launch.started)
    assert sum('pre-training has no result' in why for why in outcome.failed.values()) == 3


def test_stopped_run_is_gone_on_with(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    title = a_plan.cells[0].title
    outcome, _, _ = carry_out(a_plan, FakeLaunch(a_plan.jobs, stopped=[title]))
    assert 'stopped before its end' in outcome.failed[a_plan.cells[0].folder]
    outcome, launch, _ = carry_out(a_plan)
    assert launch.started == [title] and not outcome.failed
    assert read_json(a_plan.cells[0].folder / 'run.json')['runs'] == 2


def test_run_that_ended_before_its_validation_is_evaluated(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    job = a_plan.cells[0]
    outcome, launch, _ = carry_out(a_plan, FakeLaunch(a_plan.jobs, unvalidated=[job.title]))
    assert not outcome.failed
    words = next(words for words in launch.commands if words[0].endswith('test.py'))
    assert words[1:3] == [str(job.config), str(job.last_checkpoint)]
    assert outcome.results[job.folder]['metrics']['Car_3d_ap40_moderate'] == 41.5


def test_jobs_at_a_time(tmp_path):
    a_plan = plan(tmp_path)
    outcome, launch, _ = carry_out(a_plan, FakeLaunch(a_plan.jobs, polls=3), parallel=4)
    assert launch.most == 4
    assert len(outcome.results) == 21


def test_ctrl_c_lets_the_running_ones_save(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    launch = FakeLaunch(a_plan.jobs, polls=2)
    launch.interrupt_at = a_plan.cells[0].title
    lines = []
    run = PlanRun(a_plan.jobs, TOOLS, launch, 2, say=lines.append, pause=0)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert len(launch.told_to_stop) == 2 and launch.killed == launch.told_to_stop
    assert any('have saved their state' in line for line in lines)
    _, launch, _ = carry_out(a_plan)
    assert len(launch.started) <= 5


def test_printed_commands_and_their_results(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    printed = commands(a_plan.jobs, TOOLS)
    assert printed == [job.command(TOOLS) for job in a_plan.jobs]
    by_hand = FakeLaunch(a_plan.jobs, polls=0)
    for words, job in zip(printed[:3], a_plan.jobs, strict=False):
        assert by_hand(words, job.folder).poll() == 0
    assert commands(a_plan.jobs, TOOLS) == printed[3:]
    outcome, launch, _ = carry_out(a_plan)
    assert launch.started == [job.title for job in a_plan.jobs[3:]]
    assert len(outcome.results) == len(a_plan.jobs)


def test_pretraining_that_nobody_needs_any_more_is_not_repeated(tmp_path):
    import shutil

    a_plan = plan(tmp_path, seeds=(0,))
    carry_out(a_plan)
    shutil.rmtree(a_plan.jobs[0].folder)
    _, launch, _ = carry_out(a_plan)
    assert launch.started == [] and commands(a_plan.jobs, TOOLS) == []


def wait(process, seconds=20.0):
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    return process.poll()


def test_real_process_logs_locks_and_ends(tmp_path, monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS')
    hello = ['-c', "import os; print('threads', os.environ.get('OMP_NUM_THREADS')); exit(5)"]
    assert wait(launcher(2)(hello, tmp_path)) == 5
    assert wait(launcher(1)(hello, tmp_path)) == 5
    assert (tmp_path / 'output.log').read_text() == 'threads 1\nthreads None\n'
    sleeping = PythonProcess(['-c', 'import time; time.sleep(60)'], tmp_path, {})
    with pytest.raises(BusyError, match='another process is at work'):
        PythonProcess(hello, tmp_path, {})
    sleeping.stop()
    assert wait(sleeping) == -15
    sleeping = PythonProcess(['-c', 'import time; time.sleep(60)'], tmp_path, {})
    sleeping.kill()
    assert sleeping.poll() == -9


def test_lock_outlives_the_process_that_started_the_job(tmp_path):
    text = (
        'import sys; from pathlib import Path\n'
        'from mmjepa.benchmark.label_efficiency.processes import PythonProcess\n'
        "job = PythonProcess(['-c', 'import time; time.sleep(3)'], Path(sys.argv[1]), {})\n"
        'import os; os._exit(0)'
    )
    subprocess.run([sys.executable, '-c', text, str(tmp_path)], check=True)
    with pytest.raises(BusyError):
        PythonProcess(['-c', ''], tmp_path, {})


def test_busy_folder_is_told_and_left_alone(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,), arms=(SCRATCH,))
    launch = FakeLaunch(a_plan.jobs)

    def one_is_busy(command, folder):
        if folder == a_plan.jobs[1].folder:
            raise BusyError(f'another process is at work in {folder}')
        return launch(command, folder)

    outcome, _, _ = carry_out(a_plan, one_is_busy)
    assert list(outcome.failed) == [a_plan.jobs[1].folder]
    assert len(outcome.results) == 2


def test_eta_comes_from_finished_jobs(tmp_path):
    a_plan = plan(tmp_path, seeds=(0,))
    pretraining, cells = a_plan.jobs[0], a_plan.cells
    clock = Clock()
    assert 'ETA after the first result' in clock.text(a_plan.jobs, [], 1)
    clock.learn(cells[0], 160.0)  # 0.1 s an iteration
    assert clock.expected(cells[-1]) == pytest.approx(800)
    assert clock.expected(pretraining) is None
    assert 'ETA at least 0:40:00' in clock.text([pretraining, *cells[2:]], [(cells[1], 0)], 1)
    assert 'ETA 0:13:20' in clock.text([cells[-1]], [(cells[1], 100.0)], 2)
    assert clock.text([], [], 1) == 'elapsed 0:00:00'
    assert Clock({'fine-tune': 2.0}).expected(cells[0]) == 3200
    assert duration(3723.4) == '1:02:03'
