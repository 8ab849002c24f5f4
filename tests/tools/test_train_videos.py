"""Trainings on real clips, by each video backend."""

import json

import pytest
from test_salt import load_tool
from video_scenes import INSTALLED

from mmjepa.visualization.curves import read_scalars

STEPS, LARGEST = 50, 700_000  # bytes


@pytest.mark.slow
@pytest.mark.parametrize('backend', INSTALLED)
def test_real_clips_train_and_the_corrupted_one_is_named(backend, repo, shared_dir, tmp_path):
    root = shared_dir / 'data/video'
    steps = 'train_dataloader.dataset.pipeline.0'
    options = [
        *(f'data_root={root}', 'sources=None', 'on_error=skip', f'max_iters={STEPS}'),
        *('arch=[16,2,2,32]', 'predictor_depth=1', 'predictor_width=16', 'img_size=32'),
        *('num_frames=4', 'frame_step=4', 'batch_size=2', 'num_workers=0', 'log_interval=1'),
        *(f'{steps}.backend={backend}', f'{steps}.max_bytes={LARGEST}'),
    ]
    config = repo / 'configs/vjepa/vit_tiny_sim.py'
    load_tool(repo, 'train').main(
        [str(config), '--work-dir', str(tmp_path), '--cfg-options', *options]
    )
    losses = [value for _, value in read_scalars(tmp_path)['loss']]
    assert len(losses) == STEPS and all(0 < loss < 2 for loss in losses)
    assert (tmp_path / f'iter_{STEPS}.pth').is_file()
    skipped = set(json.loads((tmp_path / 'skipped_samples.json').read_text()))
    large = {str(path) for path in root.iterdir() if path.stat().st_size > LARGEST}
    assert skipped == large | {str(root / 'corrupted.mp4')}
    (log,) = tmp_path.glob('*/*.log')
    assert 'skipped for the first time' in log.read_text() and 'corrupted.mp4' in log.read_text()
