"""Command line of tools/benchmark.py."""

import json
import runpy

import numpy as np
import pytest


@pytest.fixture
def main(repo):
    return runpy.run_path(str(repo / 'tools' / 'benchmark.py'))['main']


def test_sparse_prints_the_ratio(main, tmp_path, capsys):
    points = np.random.default_rng(0).uniform((0, -5, -2, 0), (20, 5, 0, 1), (2000, 4))
    path = tmp_path / 'sweep.bin'
    points.astype(np.float32).tofile(path)
    main(['sparse', '--points', str(path), '--threads', '1', '--repeats', '1'])
    out = capsys.readouterr().out
    assert str(path) in out
    assert 'median of 1' in out
    assert 'rulebook / spconv:' in out or 'no ratio' in out


def test_train_on_random_images(main, repo, tmp_path, capsys):
    config = str(repo / 'configs' / 'dmt_jepa' / 'vit_tiny4_cifar10.py')
    options = ['arch=[64,2,2,128]', 'predictor_depth=1', 'batch_size=2']
    command = ['train', config, '--synthetic', '--device', 'cpu', '--steps', '1', '--warmup', '1']
    main([*command, '--json', str(tmp_path / 'out.json'), '--cfg-options', *options])
    out = capsys.readouterr().out
    assert 'batch 2 synthetic' in out
    assert 'TFLOP/s' in out
    assert json.loads((tmp_path / 'out.json').read_text())['flops'] > 1e6


def test_flops_of_a_larger_batch(main, repo, capsys):
    config = str(repo / 'configs' / 'ijepa' / 'vit_tiny4_cifar10.py')
    options = ['arch=[32,1,2,64]', 'predictor_depth=1', 'max_iters=3']
    main(['flops', config, '--batch-size', '5', '--cfg-options', *options])
    out = capsys.readouterr().out
    assert 'batch 5' in out
    assert 'run of 3 steps' in out
    assert [line.split()[0] for line in out.splitlines()[2:]] == [
        'encoder',
        'predictor',
        'target',
        'total',
    ]


def test_errors_are_one_line(main, repo):
    config = str(repo / 'configs' / 'ijepa' / 'vit_tiny4_cifar10.py')
    with pytest.raises(SystemExit, match='error: .*convention'):
        main(['flops', config, '--convention', 'paper'])
