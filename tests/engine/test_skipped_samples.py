"""Skipped samples are summed over workers, ranks and a resumed run."""

import json
import logging

import pytest
from cases import CASES
from toy_engine import Log

from mmjepa.engine.hooks import SkippedSamplesHook, skipped_samples

OPTIONS = {
    'model.encoder.backend': 'rulebook',
    'model.encoder.base_channels': 4,
    'model.encoder.output_channels': 8,
    'model.encoder.encoder_channels': [[4], [8, 8, 8], [8, 8, 8], [8, 8, 8]],
    'on_error': 'skip',
}


@pytest.fixture
def data(tmp_path):
    """Six sweeps: three batches of two."""
    root = CASES['ADLJEPA'].make_data(tmp_path / 'toy')
    (root / 'training/velodyne/000006.bin').unlink()
    return root


def damage(root, number):
    path = root / f'training/velodyne/{number:06d}.bin'
    path.write_bytes(path.read_bytes()[:-3])
    return str(path)


def run(data, work_dir, **options):
    runner = CASES['ADLJEPA'].runner(data, work_dir, **{**OPTIONS, **options})
    log = Log(runner, logging.INFO)
    runner.train()
    return runner, log.texts


def recorded(runner):
    return runner.message_hub.get_scalar('train/skipped_samples').data[0].tolist()


@pytest.mark.parametrize('workers', [0, 2])
def test_the_run_counts_what_every_worker_left_out(data, tmp_path, workers):
    bad = [damage(data, 3), damage(data, 4)]  # 3 is replaced by 5, past 4
    runner, texts = run(data, tmp_path / 'w', max_iters=6, num_workers=workers)
    assert json.loads((tmp_path / 'w/skipped_samples.json').read_text()) == {bad[1]: 4, bad[0]: 2}
    assert recorded(runner)[-1] == 6
    told = [text for text in texts if 'for the first time' in text]
    assert sum(text.count('.bin') for text in told) == 2
    assert all(any(path in text for text in told) for path in bad)
    assert any('6 samples of this run were skipped, 2 bad files' in text for text in texts)


def test_a_resumed_run_goes_on_counting(data, tmp_path):
    bad = damage(data, 3)
    run(data, tmp_path / 'w', max_iters=3)
    first = tmp_path / 'w/iter_3.pth'
    runner, texts = run(data, tmp_path / 'v', load_from=str(first), max_iters=6)
    assert runner.iter == 6
    assert json.loads((tmp_path / 'v/skipped_samples.json').read_text()) == {bad: 2}
    assert recorded(runner) == [1, 2]
    assert not any('for the first time' in text for text in texts)


def test_a_clean_run_says_so_and_writes_nothing(data, tmp_path):
    runner, texts = run(data, tmp_path / 'w', max_iters=1)
    assert any('no sample of this run was skipped' in text for text in texts)
    assert not (tmp_path / 'w/skipped_samples.json').exists()
    assert 'train/skipped_samples' not in runner.message_hub.log_scalars


def test_ranks_add_up(data, tmp_path, monkeypatch):
    """At a checkpoint and at the end, each count once."""
    others = iter([{'x.bin': 2}, {'x.bin': 1, 'y.bin': 1}])
    monkeypatch.setattr(skipped_samples, 'all_gather_object', lambda counts: [counts, next(others)])
    runner = CASES['ADLJEPA'].runner(data, tmp_path / 'w', **OPTIONS)
    hook = SkippedSamplesHook()
    hook.before_train(runner)
    batch = {'data_samples': [{'skipped': ['x.bin', 'z.bin']}, {'skipped': []}]}
    hook.after_train_iter(runner, 0, batch)
    hook.before_save_on_all_ranks(runner)
    assert runner.message_hub.get_info('skipped_samples') == {'x.bin': 3, 'z.bin': 1}
    hook.after_train_iter(runner, 1, batch)
    hook.after_train(runner)
    found = json.loads((tmp_path / 'w/skipped_samples.json').read_text())
    assert found == {'x.bin': 5, 'z.bin': 2, 'y.bin': 1}


@pytest.mark.parametrize('batch', [None, {}, [1], {'data_samples': None}])
def test_batches_of_other_kinds(batch):
    hook = SkippedSamplesHook()
    hook.after_train_iter(None, 0, batch)
    assert not hook.own
