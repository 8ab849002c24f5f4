"""tools/label_efficiency.py from its command line."""

import csv
import importlib.util
import json
import os
import signal

import pytest

from mmjepa.benchmark.label_efficiency.examine import Found, Stage

GRID = ['point_cloud_range=[0,-25.6,-3,51.2,25.6,1]', 'voxel_size=[0.2,0.2,0.1]']


@pytest.fixture
def tool(repo):
    path = repo / 'tools/label_efficiency.py'
    spec = importlib.util.spec_from_file_location('tools_label_efficiency', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    for name in ('kitti_infos_train.pkl', 'kitti_infos_val.pkl', 'kitti_dbinfos_train.pkl'):
        (folder / name).touch()
    return folder


def told(choices):
    """What the examination of configs and data would say."""
    print('INFO: 40 sweeps')  # as MMEngine's loggers do
    pretraining = {arm.name: Stage({}, {}, 4, [40], [30]) for arm in choices.arms if arm.config}
    cells = Stage({}, {}, 4, [4] * len(choices.fractions), [8] * len(choices.fractions), 20)
    return Found(pretraining, cells, ['Car: only 7 objects'])


def test_arguments_become_choices(tool, repo, data):
    words = ['--data', str(data), '--fractions', '1.0', '0.05', '--finetune-iters', '400', '100']
    words += ['--seeds', '2', '--first-seed', '3', '--arms', 'scratch', 'bev_mae', '--no-long']
    choices = tool.choices_of(tool.parse_args([*words, '--amp', '--grid', *GRID]))
    assert choices.fractions == [0.05, 1.0] and choices.finetune_iters == [100, 400]
    assert list(choices.seeds) == [3, 4] and choices.long is None and choices.amp == 'bf16'
    assert choices.work_dir.is_absolute() and choices.grid == GRID
    assert choices.config == repo / 'configs/downstream/mmdet3d/second_kitti_paper.py'
    assert tool.choices_of(tool.parse_args(['--data', str(data)])).long == 2.0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('--data nowhere', 'no folder .*nowhere; simulate one: python tools/create_data.py'),
        ('--data .', 'no kitti_infos_train.pkl, .*python tools/create_data.py kitti --root'),
        ('--work-dir data/kitti_infos_val.pkl/x', 'cannot write into .*--work-dir'),
        ('--config no.py --arms scratch', 'no config file .*no.py'),
        ('--pretrain-options mask_ratios=0.5', 'option mask_ratios: .*nearest: mask_ratio'),
        ('--arms adljepa', "unknown arm 'adljepa'; nearest: adl_jepa"),
        ('--arms scratch scratch', 'scratch given twice'),
        ('--arms scratch=a.pth', 'not scratch'),
        ('--arms a/b=c.pth', 'letters, digits'),
        ('--arms mine=', 'NAME=config.py or'),
        ('--fractions 0 1', r'--fractions: different ones in \(0, 1\].*got'),
        ('--fractions 0.5 0.5', '--fractions: different ones'),
        ('--seeds 0', '--seeds, .* are at least 1'),
        ('--long 1', '--long is above 1'),
        ('--pretrain-iters 0', 'iterations are at least 1'),
        ('--finetune-iters 1 2 3', 'one number, or 2 for'),
        ('--finetune-options max_iters=4', '--finetune-iters says it already'),
        ('--pretrain-options seed=4', '--seeds says it already'),
        ('--grid voxel_size=1 --pretrain-options voxel_size=2', '--grid says it already'),
        ('--batch-size 2 --finetune-options batch_size=4', '--batch-size says it already'),
        ('--grid voxel_size', 'give KEY=VALUE'),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, message, tool, data):
    with pytest.raises(SystemExit, match=f'^error: .*{message}[^\n]*$'):
        tool.main(['--data', str(data), *words.split()])


def test_prints_commands_in_order(tool, data, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'examine', told)
    words = ['--data', str(data), '--seeds', '1', '--fractions', '0.1', '--print-commands']
    assert tool.main(words) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5 and all(line.startswith('python ') for line in lines)
    assert 'configs/adl_jepa/kitti.py' in lines[0] and 'max_iters=30' in lines[0]
    assert 'jepa_checkpoint=None' in lines[1] and 'max_iters=16' in lines[-1]
    assert 'warning: Car: only 7 objects' in err


def test_a_failed_run_makes_the_exit_code(tool, data, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'examine', told)
    monkeypatch.setattr(tool, 'ROOT', data)  # where no tools/train.py is
    words = ['--data', str(data), '--seeds', '1', '--fractions', '1', '--arms', 'scratch']
    assert tool.main([*words, '--no-long', '--work-dir', 'out']) == 1
    out = capsys.readouterr().out
    assert '1 runs have no result' in out and "can't open file" in out
    assert '0 of 1 cells are finished' in (data.parent / 'out/table.md').read_text()


def test_sigterm_is_like_ctrl_c(tool, data, monkeypatch):
    monkeypatch.setattr(tool, 'carry_out', lambda args: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit, match='^stopped; the same command goes on$'):
        tool.main(['--data', str(data)])


@pytest.mark.slow
def test_from_sweeps_to_the_table(tool, tmp_path, capsys):
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    from mm3d_scenes import write_kitti

    root, out = tmp_path / 'sim', tmp_path / 'out'
    write_kitti(root, frames=4)
    words = [
        *('--data', str(root), '--work-dir', str(out), '--fractions', '0.5', '1.0'),
        *('--seeds', '1', '--arms', 'scratch', 'adl_jepa', '--no-long', '--grid', *GRID),
        *('--pretrain-iters', '2', '--finetune-iters', '2', '--batch-size', '2'),
        *('--num-workers', '0', '--jobs', '2'),
    ]
    assert tool.main(words) == 0
    with (out / 'results.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['arm'], row['fraction'], row['frames']) for row in rows] == [
        ('scratch', '0.5', '2'),
        ('adl_jepa', '0.5', '2'),
        ('scratch', '1.0', '4'),
        ('adl_jepa', '1.0', '4'),
    ]
    assert all(0 <= float(row['mean_3d_ap40_moderate']) <= 100 for row in rows)
    logs = {
        arm: (out / f'finetune/{arm}/fraction_0.5_seed_0/output.log').read_text()
        for arm in ('scratch', 'adl_jepa')
    }
    assert 'loaded 72/72 tensors into middle_encoder' in logs['adl_jepa']
    assert 'middle_encoder starts from scratch' in logs['scratch']
    assert 'Iter(test)' not in ''.join(logs.values())  # the training's own validation served
    assert '| 50 % | adl_jepa - scratch |' in (out / 'table.md').read_text()
    assert (out / 'curve.png').stat().st_size > 10_000

    # a run that was ended in its validation: evaluated, not trained again; the rest is skipped
    cell = out / 'finetune/adl_jepa/fraction_1_seed_0'
    (cell / 'result.json').unlink()
    (scalars,) = cell.glob('*/vis_data/scalars.json')
    scalars.unlink()
    capsys.readouterr()
    assert tool.main(words) == 0
    printed = capsys.readouterr().out
    assert '4 of 5 runs are finished already' in printed and printed.count(' start ') == 1
    assert 'Iter(test)' in (cell / 'output.log').read_text()
    assert 'mean_3d_ap40_moderate' in json.loads((cell / 'result.json').read_text())['metrics']
