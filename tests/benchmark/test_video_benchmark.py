"""The benchmark of the video backends."""

import runpy
import sys

import pytest
from video_scenes import INSTALLED, write_lossless

from mmjepa.benchmark.video import BackendTiming, VideoReport, benchmark_video


@pytest.fixture
def folder(tmp_path):
    for i in range(2):
        write_lossless(tmp_path / f'v/{i}.avi', seed=i)
    (tmp_path / 'v/bad.mp4').write_bytes(b'no video' * 300)
    return tmp_path / 'v'


def test_command_prints_backends_and_bad_files(folder, repo, capsys):
    main = runpy.run_path(str(repo / 'tools' / 'benchmark.py'))['main']
    names = INSTALLED[:2]
    main(['video', '--data', str(folder), '--frames', '4', '--frame-step', '2', '--size', '32',
          '--repeats', '1', '--backends', *names])  # fmt: skip
    out = capsys.readouterr().out
    assert '3 files, clips of 4 frames, step 2, to 32x32, median of 1' in out
    assert 'with 8 workers' in out and '150 ms on 24 clips' in out
    for name in names:
        row = next(line.split() for line in out.splitlines() if line.startswith(f'{name} '))
        assert float(row[2]) > 0 and row[4] == '1'
        assert f'{name}: {folder}/bad.mp4: ' in out


def test_absent_backends_are_listed(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'decord', None)
    report = benchmark_video(folder, ['decord'], 4, 2, 32, 1)
    assert not report.timings[0].seconds
    assert "decord                   not used: the video backend 'decord' needs" in report.text()


def test_data_wait():
    """160 clips a second are needed; eight workers of 10 a second give half of them."""
    timing = BackendTiming('pyav', '', '1', [0.2, 0.4, 0.3], [0.1, 0.1, 0.3])
    report = VideoReport('v', 7, 'clips', 8, 24, 150.0, [timing])
    assert report.need == 160
    assert timing.core_rate == 10 and timing.wait(report.need, 8) == 0.5
    assert timing.wait(report.need, 20) == 0
    assert ' 50.0 %' in report.text() and ' 16.0' in report.text()
