"""tools/label_efficiency.py from its command line."""

import csv
import functools
import importlib.util
import json
import subprocess
import sys

import pytest

GRID = ['point_cloud_range=[0,-25.6,-3,51.2,25.6,1]', 'voxel_size=[0.2,0.2,0.1]']


@pytest.fixture
def tool(repo):
    path = repo / 'tools/label_efficiency.py'
    spec = importlib.util.spec_from_file_location('tools_label_efficiency', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    for name in ('kitti_infos_train.pkl', 'kitti_infos_val.pkl', 'kitti_dbinfos_train.pkl'):
        (folder / name).touch()
    return folder


def told(choices):
    """What the examination of configs and data would say."""
    entry = dict(resolved={}, data={}, batch_size=4)
    pretraining = {a.name: dict(entry, iterations=30, frames=40) for a in choices.arms if a.config}
    count = len(choices.fractions)
    finetuning = dict(
        entry, train_frames=40, val_frames=20, frames=[4] * count, iterations=[8] * count
    )
    return dict(pretraining=pretraining, finetuning=finetuning, notes=['Car: only 7 objects'])


def test_the_planning_process_needs_no_torch(repo):
    text = (
        'import sys, importlib.util as u\n'
        "spec = u.spec_from_file_location('tool', sys.argv[1])\n"
        'module = u.module_from_spec(spec); spec.loader.exec_module(module)\n'
        "print(sorted({'torch', 'mmdet3d', 'matplotlib'} & set(sys.modules)))"
    )
    words = [sys.executable, '-c', text, str(repo / 'tools/label_efficiency.py')]
    done = subprocess.run(words, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == '[]'


def test_arguments_become_choices(tool, repo):
    words = '--data data/sim --fractions 1.0 0.05 --finetune-iters 400 100 --seeds 2'
    words += ' --first-seed 3 --arms scratch bev_mae --no-long --grid voxel_size=[0.1,0.1,0.1]'
    choices = tool.choices_of(tool.parse_args(words.split()))
    assert choices.fractions == (0.05, 1.0) and choices.finetune_iters == (100, 400)
    assert choices.seeds == (3, 4) and choices.long is None
    assert choices.data.is_absolute() and choices.grid == ('voxel_size=[0.1,0.1,0.1]',)
    assert choices.config == repo / 'configs/downstream/mmdet3d/second_kitti_paper.py'
    assert tool.choices_of(tool.parse_args(['--data', 'd'])).long == 2.0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--data', 'nowhere'], 'no folder .*nowhere; simulate one: python tools/create_data.py'),
        (['--data', '.'], 'no kitti_infos_train.pkl, .*python tools/create_data.py kitti --root'),
        (['--data', '.', '--arms', 'adljepa'], 'nearest: adl_jepa'),
        (['--data', '.', '--fractions', '2'], '--fractions: each must lie in .*; got 2'),
        (['--data', '.', '--jobs', '0'], '--jobs is at least 1'),
        (['--data', 'data', '--config', 'no.py'], 'no file no.py'),
        (['--data', 'data', '--work-dir', 'data/kitti_infos_val.pkl/x'], 'cannot write into'),
    ],
)
def test_what_cannot_be_is_said_in_a_line(words, message, tool, data):
    with pytest.raises(SystemExit, match=f'^error: .*{message}'):
        tool.main(words)


def test_prints_commands_in_order(tool, data, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'ask', told)
    words = ['--data', str(data), '--seeds', '1', '--fractions', '0.1', '--print-commands']
    assert tool.main(words) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5 and all(line.startswith('python ') for line in lines)
    assert 'configs/adl_jepa/kitti.py' in lines[0] and 'max_iters=30' in lines[0]
    assert 'jepa_checkpoint=None' in lines[1] and 'max_iters=16' in lines[-1]
    assert 'warning: Car: only 7 objects' in err


def test_a_failed_run_makes_the_exit_code(tool, data, monkeypatch, capsys):
    monkeypatch.setattr(tool, 'ask', told)
    monkeypatch.setattr(tool, 'ROOT', data)  # where no tools/train.py is
    monkeypatch.setattr(tool, 'CONFIG', 'kitti_infos_train.pkl')
    monkeypatch.setattr(tool.signal, 'signal', lambda *args: None)
    words = ['--data', str(data), '--seeds', '1', '--fractions', '1', '--arms', 'scratch']
    assert tool.main([*words, '--no-long', '--work-dir', 'out']) == 1
    out = capsys.readouterr().out
    assert '1 runs have no result' in out and "can't open file" in out
    assert '0 of 1 cells are finished' in (data.parent / 'out/table.md').read_text()


def test_examination_errors_reach_the_user(tool, data):
    words = ['--data', str(data), '--pretrain-options', 'mask_ratios=0.5', '--print-commands']
    with pytest.raises(SystemExit, match=r'^error: option mask_ratios: .*nearest: mask_ratio'):
        tool.main(words)


@pytest.mark.slow
def test_from_sweeps_to_the_table(tool, tmp_path, monkeypatch, capsys):
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
    monkeypatch.setattr(tool, 'ask', functools.cache(tool.ask))  # it takes a while
    monkeypatch.setattr(tool.signal, 'signal', lambda *args: None)
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
    assert '4 of 5 runs are finished already' in printed
    assert printed.count('evaluate') == 1 and ' start ' not in printed
    result = json.loads((cell / 'result.json').read_text())
    assert 'mean_3d_ap40_moderate' in result['metrics']
