"""tools/salt.py: both stages, and the comparison with V-JEPA, from the command line."""

import csv
import importlib.util
import json
import os
import signal
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from mmjepa.benchmark.salt.plan import (
    SALT,
    UNTRAINED,
    VJEPA,
    VPIXEL,
    matched_steps,
    split_steps,
)
from mmjepa.benchmark.salt.report import rows_of, write_report
from mmjepa.benchmark.salt.run import Runs
from mmjepa.benchmark.salt.stages import Job, check_teacher
from mmjepa.datasets.video_sim import ClipSettings, write_clips
from mmjepa.engine.checkpoint import CheckpointError, atomic_save, load_file

TINY = [
    'arch=[16,2,2,32]',
    'predictor_depth=1',
    'predictor_width=16',
    'img_size=32',
    'num_frames=4',
    'batch_size=2',
    'num_workers=0',
    'log_interval=1',
]
TEACHER = ['--student-options', 'teacher_arch=[16,2,2,32]']
SPLIT = ['--steps', '6', '--teacher-fraction', '1/3']


def load_tool(repo, name='salt'):
    spec = importlib.util.spec_from_file_location(f'tools_{name}', repo / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool(repo):
    before = signal.getsignal(signal.SIGTERM)
    yield load_tool(repo)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('sim_video')
    write_clips(root, ClipSettings(clips=20, classes=('left', 'right'), frames=4, size=32))
    return root


def words(data, *more):
    return [*more, '--cfg-options', f'data_root={data}', *TINY]


def train(tool, data, *more):
    return tool.main(['train', *words(data, *more)])


@pytest.fixture(scope='module')
def made(repo, data, tmp_path_factory):
    """The folder of a finished chain: 2 steps of the teacher, 4 of the student."""
    before, folder = signal.getsignal(signal.SIGTERM), tmp_path_factory.mktemp('chain')
    assert train(load_tool(repo), data, *SPLIT, *TEACHER, '--work-dir', str(folder)) == 0
    signal.signal(signal.SIGTERM, before)
    return folder


def test_both_stages_and_what_they_cost(made):
    teacher = load_file(made / 'teacher/iter_2.pth')
    student = load_file(made / 'student/iter_4.pth')
    assert teacher['meta']['iter'] == 2 and student['meta']['iter'] == 4
    for key, value in teacher['state_dict'].items():
        if key.startswith('encoder.'):
            assert torch.equal(student['state_dict'][f'target.{key}'], value)
            if value.ndim > 1:  # the student starts anew
                assert not torch.equal(student['state_dict'][key], value)
    first, second, total = json.loads((made / 'flops.json').read_text())
    assert (first['stage'], first['steps']) == ('teacher', 2)
    assert (second['stage'], second['steps']) == ('student', 4)
    for row in (first, second):
        assert row['run'] == pytest.approx(row['steps'] * sum(row['slots'].values()))
    assert total['run'] == first['run'] + second['run'] and total['steps'] == 6
    assert not first['slots'].get('target') and second['slots']['target'] > 0


def test_an_interrupted_stage_goes_on_and_a_finished_one_is_left_alone(tool, data, made, capsys):
    last, teacher = made / 'student/iter_4.pth', made / 'teacher/iter_2.pth'
    whole, before = load_file(last)['state_dict'], teacher.stat().st_mtime_ns
    last.unlink()
    (made / 'student/last_checkpoint').write_text(str(made / 'student/iter_3.pth'))
    assert train(tool, data, *SPLIT, *TEACHER, '--work-dir', str(made)) == 0
    out = capsys.readouterr().out
    assert '1 of 2 runs are finished already' in out and 'start  student' in out
    assert 'start  teacher' not in out and teacher.stat().st_mtime_ns == before
    again = load_file(last)['state_dict']
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    table = [line.split() for line in out.splitlines()]
    shares = {line[0]: line[-1] for line in table if line and line[0] in ('teacher', 'student')}
    assert sum(float(share.rstrip('%')) for share in shares.values()) == pytest.approx(100, abs=0.2)
    with pytest.raises(SystemExit, match='holds a run of other settings.*--overwrite'):
        train(tool, data, '--steps', '9', *TEACHER, '--work-dir', str(made))


def test_teachers_checkpoint_is_checked(tool, data, made, tmp_path):
    args = tool.parse_args(['train', *words(data, *TEACHER)])
    _, student = tool.stages_of(args, ('teacher', 'student'))
    path = made / 'teacher/iter_2.pth'
    check_teacher(path, 2, student)
    with pytest.raises(CheckpointError, match='is of SALT, a teacher is of VPixel'):
        check_teacher(made / 'student/iter_3.pth', 3, student)
    with pytest.raises(CheckpointError, match='says iteration 2, not 3'):
        check_teacher(path, 3, student)
    other = replace(student, options=('teacher_arch=[16,3,2,32]',))
    with pytest.raises(CheckpointError, match=r'does not fit: .*missing: blocks\.2'):
        check_teacher(path, 2, other)
    broken = load_file(path)
    broken['state_dict']['encoder.norm.weight'][0] = float('nan')
    atomic_save(broken, tmp_path / 'nan.pth')
    with pytest.raises(CheckpointError, match='NaN or Inf'):
        check_teacher(tmp_path / 'nan.pth', 2, student)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ('--teacher-fraction 0', '--teacher-fraction 0 of 4000 steps'),
        ('--teacher-fraction 1', 'a step each'),
        ('--steps 2 --teacher-fraction 1/9', '--teacher-fraction 1/9 of 2 steps'),
        ('--student-options teacher_arch=tiny', 'target.encoder is not the encoder of .*num_heads'),
        ('--student-options teacher_arch=[16,3,2,32]', r'blocks\.2\..* is \(16,\) there and None'),
        ('--teacher CONFIG', 'trains SALT, not VPixel'),
        ('--teacher-options max_iters=3', '--steps or --budgets says it already'),
        ('--student-options teacher_checkpoint=x.pth', 'the teacher that is trained first'),
        ('--teacher-options archh=tiny', 'option archh: .*nearest: arch'),
        ('--teacher-options data_root=nowhere', 'nowhere'),
        ('--student-options patch_size=7', 'patch'),
        ('--teacher no.py', 'no config file .*no.py'),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(
    more, message, tool, repo, data, monkeypatch
):
    monkeypatch.setattr(Runs, 'run', lambda self: pytest.fail('started'))
    given = more.replace('CONFIG', str(repo / 'configs/salt/student_sim.py')).split()
    fits = [] if '--student-options' in given else TEACHER
    with pytest.raises(SystemExit, match=f'^error: .*{message}[^\n]*$'):
        train(tool, data, *fits, *given)


def test_fractions_of_steps():
    assert split_steps(240_000, Fraction(1, 6)) == (40_000, 200_000)
    assert split_steps(2, Fraction('0.5')) == (1, 1)


def test_matched_steps_cost_as_much():
    for share in (Fraction(1, 6), Fraction(1, 2)):
        for flops in ((3.0, 5.9), (11.0, 7.0), (0.4, 3.2)):
            teacher, student = matched_steps(5.9 * 4000, *flops, share)
            assert teacher / (teacher + student) == pytest.approx(float(share), abs=2e-3)
            assert abs(teacher * flops[0] + student * flops[1] - 5.9 * 4000) <= flops[1] / 2
    with pytest.raises(ValueError, match='0 of the student'):
        matched_steps(10.0, 9.0, 9.0, Fraction(9, 10))


def test_dry_run_prints_plan_and_commands(tool, data, made, monkeypatch, capsys):
    monkeypatch.setattr(Runs, 'run', lambda self: pytest.fail('started'))
    gpus = ['--gpus', '8', '--amp', '--dry-run', '--work-dir', 'here']
    assert train(tool, data, *SPLIT, *TEACHER, *gpus) == 0
    out = capsys.readouterr().out
    assert 'torch.distributed.run --standalone --nproc-per-node=8' in out
    assert '--amp bf16 --launcher pytorch' in out and 'max_iters=2' in out and 'max_iters=4' in out
    assert 'teacher_checkpoint=' in out and not os.path.exists('here')
    (line,) = (line.split() for line in out.splitlines() if line.startswith('total'))
    total = json.loads((made / 'flops.json').read_text())[-1]['run']
    assert float(line[2]) == pytest.approx(8 * total / 1e15, rel=1e-3)


def job(folder, name, code, needs=None, check=None):
    product = folder / name / 'product'
    words = ('-c', code or f'open({str(product)!r}, "w")')
    return Job(name, name, folder / name, words, product, {}, 1, needs and needs.folder, check)


def test_what_fails_holds_up_only_what_needs_it(tmp_path):
    def refuse():
        raise CheckpointError('wrong teacher')

    teacher, broken = job(tmp_path, 'teacher', ''), job(tmp_path, 'broken', 'raise SystemExit(3)')
    student, refused = (
        job(tmp_path, name, '', teacher, check)
        for name, check in (('student', None), ('refused', refuse))
    )
    runs = Runs([broken, job(tmp_path, 'of_broken', '', broken), teacher, refused, student])
    runs.run()
    assert set(runs.results) == {teacher.folder, student.folder}
    assert 'exit code 3' in runs.failed[broken.folder]
    assert runs.failed[refused.folder] == 'wrong teacher' and not refused.product.exists()
    assert 'has no result' in runs.failed[tmp_path / 'of_broken']
    teacher.product.unlink()  # who has the student needs it no more
    Runs([teacher, student]).run()
    assert not teacher.product.exists()


COMPARE = ['--teachers', 'half=[8,1,1,16]', 'same=[16,2,2,32]', '--budgets', '12', '--seeds', '2']


@pytest.fixture(scope='module')
def planned(repo, data, tmp_path_factory):
    """What tools/salt.py compare makes of its arguments, none of it started."""
    seen, folder, before = {}, tmp_path_factory.mktemp('out'), signal.getsignal(signal.SIGTERM)
    tool = load_tool(repo)
    (folder / 'table').touch()
    argv = words(data, *COMPARE, '--measurements', '2', '--work-dir', str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runs, 'run', lambda self: seen.update(jobs=self.plan.jobs))
        report = lambda asked, cells, failed: seen.update(asked=asked, cells=cells)  # noqa: E731
        patch.setattr(tool, 'write_report', lambda *a: report(*a) or [folder / 'table'])
        assert tool.main(['compare', *argv]) == 0
    signal.signal(signal.SIGTERM, before)
    return seen['asked'], seen['cells'], seen['jobs']


def test_arms_of_the_comparison_cost_the_same(planned):
    _, cells, jobs = planned
    assert [cell.name for cell in cells[:6]] == [
        UNTRAINED,
        VJEPA,
        f'{VPIXEL}, teacher half',
        f'{SALT}, teacher half',
        f'{VPIXEL}, teacher same',
        f'{SALT}, teacher same',
    ]
    budget = cells[1].total
    for cell in (cells[3], cells[5]):
        step = cell.flops[1] / cell.steps[1]
        assert abs(cell.total - budget) <= step / 2 and cell.flops[0] > 0
    assert cells[3].steps[1] > cells[5].steps[1]  # a smaller teacher leaves more to the student
    assert len(jobs) == len({job.folder for job in jobs}) == 2 * (6 + 5)
    places = {job.folder: number for number, job in enumerate(jobs)}
    assert all(places[job.needs] < places[job.folder] for job in jobs if job.needs)
    students = [job for job in jobs if job.folder.name == 'student']
    assert all(any('probe_interval=' in word for word in job.words) for job in students)


def fake_result(cell, accuracy):
    """What a probe and the probes during the training would leave."""
    probe = dict(protocols=dict(attentive=dict(some=dict(mean=accuracy))))
    cell.probe.folder.mkdir(parents=True)
    cell.probe.product.write_text(json.dumps(probe))
    if cell.arm in (VJEPA, SALT):
        log = cell.training.folder / '1/vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        rows = [
            {'step': step, 'probe/attentive': a, 'probe/train_loss': 1 - a}
            for step, a in ((4, accuracy / 2), (8, accuracy))
        ]
        log.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def test_report_of_the_comparison(planned):
    asked, cells, _ = planned
    accuracies = dict(zip([UNTRAINED, VJEPA, VPIXEL, SALT], (0.5, 0.6, 0.55, 0.7), strict=True))
    for cell in cells[:-1]:
        fake_result(cell, accuracies[cell.arm] + 0.02 * cell.seed)
    paths = write_report(asked, cells, {cells[-1].probe.folder: 'exit code 1'})
    table = paths[0].read_text()
    salt = next(line for line in table.splitlines() if line.startswith('| SALT, teacher half'))
    assert '| 2 | 71.00 +- 1.41 | +10.00 (+7.1) | -1.00 |' in salt
    assert '11 of 12 probes are finished' in table and 'exit code 1' in table
    assert 'Last loss against top-1 over 3 students, all: -' in table
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 11 and rows[3]['arm'] == SALT and float(rows[3]['top1']) == 70.0
    assert float(rows[3]['teacher_flops']) + float(rows[3]['flops']) == pytest.approx(
        float(rows[3]['total_flops'])
    )
    assert json.loads(paths[2].read_text())[3]['measured'][1]['step'] == 8
    assert [path.name for path in paths[3:]] == ['accuracy_flops.png', 'loss_accuracy.png']
    assert all(path.stat().st_size > 10_000 for path in paths[3:])
    assert rows_of([cells[-1]]) == []


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ('--vjepa-options positions=sincos', 'different encoders: positions is sincos and rotary'),
        ('--vjepa-options batch_size=4', 'batch_size is 4 in'),
        ('--teacher-options arch=tiny', '--teachers says it already'),
        ('--student-options probe_interval=3', '--measurements says it already'),
        ('--budgets 0', '--budgets: different numbers'),
        ('--teachers tiny tiny', '--teachers tiny: each needs a name of its own'),
        ('--teachers [16,2,2,32]', 'letters, digits'),
        ('--seeds 0', '--seeds is at least 1'),
        ('--teachers none', "arch must be one of .*'none'"),
    ],
)
def test_comparisons_that_cannot_be(more, message, tool, data, monkeypatch):
    monkeypatch.setattr(Runs, 'run', lambda self: pytest.fail('started'))
    with pytest.raises(SystemExit, match=f'^error: .*{message}[^\n]*$'):
        tool.main(['compare', *words(data, *COMPARE, *more.split())])


@pytest.mark.slow
def test_comparison_from_clips_to_pictures(tool, data, tmp_path, capsys):
    out = tmp_path / 'out'
    more = ['--seeds', '1', '--measurements', '2', '--jobs', '2', '--work-dir', str(out)]
    argv = ['compare', *words(data, *COMPARE, *more, '--probe', '--epochs 1 --attentive-lrs 1e-3')]
    assert tool.main(argv) == 0
    rows = json.loads((out / 'results.json').read_text())
    assert [row['arm'] for row in rows] == [UNTRAINED, VJEPA, VPIXEL, SALT, VPIXEL, SALT]
    assert all(0 <= row['top1'] <= 100 for row in rows)
    assert all(len(row['measured']) == 2 for row in rows if row['arm'] in (VJEPA, SALT))
    assert {path.name for path in out.glob('*.png')} == {'accuracy_flops.png', 'loss_accuracy.png'}
    capsys.readouterr()
    before = (out / 'results.csv').read_text()
    assert tool.main(argv) == 0  # nothing is left to do
    told = capsys.readouterr().out
    assert '11 of 11 runs are finished already' in told and 'start' not in told
    assert (out / 'results.csv').read_text() == before
