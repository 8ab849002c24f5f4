"""docs/lidar.md: its code for labels of one's own is extracted, run, converted and trained with."""

import os
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('mmdet3d.models', exc_type=ImportError)


def run(repo, *command: str) -> str:
    env = {**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, *command], cwd=repo, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_simulated_drives_stand_in_for_own_ones(repo, tmp_path, monkeypatch):
    text = (repo / 'docs/lidar.md').read_text()
    for name in ('own_labels', 'simulated_drives'):
        (code,) = re.findall(rf'```python title="{name}.py"\n(.*?)```', text, re.DOTALL)
        for long, short in (("'000001', 40,", "'000001', 2,"), ("'000002', 10,", "'000002', 1,")):
            assert name == 'own_labels' or long in code
            code = code.replace(long, short)
        (tmp_path / f'{name}.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path('simulated_drives.py')
    out = run(repo, 'tools/create_data.py', 'once', '--root', str(tmp_path / 'data/mine'))
    assert re.search(r'train\D+2\b', out), out


def test_own_labels_train_a_detector(repo, tmp_path):
    import mm3d_scenes

    text = (repo / 'docs/lidar.md').read_text()
    blocks = re.findall(r'```python title="own_labels.py"\n(.*?)```', text, re.DOTALL)
    assert len(blocks) == 1
    names: dict = {}
    exec(blocks[0], names)
    rng, data = np.random.default_rng(0), tmp_path / 'mine'
    classes = {name: mm3d_scenes.ONCE[name] for name in ('Car', 'Pedestrian')}  # a sensor's own
    for drive, split in (('000001', 'train'), ('000002', 'train'), ('000003', 'val')):
        sweeps = [mm3d_scenes.make_sweep(rng, classes, mm3d_scenes._around(), -1.7)] * 2
        names['write_drive'](data, drive, [(s.points, s.names, s.boxes) for s in sweeps], split)
    out = run(repo, 'tools/create_data.py', 'once', '--root', str(data))
    assert re.search(r'train\D+4\b', out), out
    log = run(
        repo, 'tools/train.py', 'configs/downstream/mmdet3d/second_once.py',
        '--work-dir', str(tmp_path / 'work'), '--cfg-options', f'data_root={data}',
        'point_cloud_range=[-51.2,-51.2,-5,51.2,51.2,3]', 'voxel_size=[0.4,0.4,0.2]',
        'batch_size=2', 'num_workers=0', 'max_iters=1', 'val_interval=1', 'log_interval=1',
    )  # fmt: skip
    assert 'no Bus, Truck, Cyclist to paste' in log
    assert re.search(r'Iter\(val\).*Vehicle', log), log[-2000:]
