"""Command line of tools/benchmark.py."""

import runpy

import numpy as np


def test_sparse_prints_the_ratio(repo, tmp_path, capsys):
    points = np.random.default_rng(0).uniform((0, -5, -2, 0), (20, 5, 0, 1), (2000, 4))
    path = tmp_path / 'sweep.bin'
    points.astype(np.float32).tofile(path)
    main = runpy.run_path(str(repo / 'tools' / 'benchmark.py'))['main']
    main(['sparse', '--points', str(path), '--threads', '1', '--repeats', '1'])
    out = capsys.readouterr().out
    assert str(path) in out
    assert 'median of 1' in out
    assert 'rulebook / spconv:' in out or 'no ratio' in out
