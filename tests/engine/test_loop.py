"""The training loop itself; its resume is in test_resume.py."""

from toy_engine import StopAt, assert_same, everything, toy_runner

from mmjepa.engine import loop


def test_histories_are_cut_and_the_run_stays_the_same(repo, tmp_path, monkeypatch):
    """MMEngine would copy the whole history at each of a million updates."""

    def run(name, stop=None, **options):
        runner = toy_runner(repo, tmp_path / name, max_iters=14, **options)
        if stop:
            runner.register_hook(StopAt(stop))
        runner.train()
        return everything(runner)

    whole = run('whole')
    monkeypatch.setattr(loop, 'HISTORY', 4)  # cut at 4, 8 and 12, to as many as the log's window
    cut = run('cut')
    assert {len(values) for values in cut['scalars'].values()} == {6}
    assert all(values == whole['scalars'][name][-6:] for name, values in cut['scalars'].items())
    assert_same(whole['weights'], cut['weights'])
    assert len(run('wide', **{'log_processor.window_size': 9})['scalars']['train/loss']) == 11
    run('stopped', stop=8)
    assert_same(cut, run('stopped', resume=True))
