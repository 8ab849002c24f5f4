"""Runs of detectors and segmentors on images: an exact resume."""

import logging

import pytest

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmdet', exc_type=ImportError)
pytest.importorskip('mmseg', exc_type=ImportError)

from dense_scenes import pretrain, small_config, write_coco
from toy_engine import Log, StopAt, assert_same, everything

from mmjepa.engine.runner import build_runner


@pytest.mark.parametrize(
    'name',
    [
        'mmseg/upernet_vit_base_ade20k',
        pytest.param('mmdet/mask_rcnn_vitdet_base_coco', marks=pytest.mark.slow),
        pytest.param('mmdet/cascade_mask_rcnn_vit_base_coco', marks=pytest.mark.slow),
    ],
)
def test_resume_is_exact_with_any_number_of_workers(name, tmp_path):
    """Weights, optimizer, schedules, logged losses; the second part with a worker."""
    root = write_coco(tmp_path / 'coco', images=3)
    checkpoint = pretrain(root / 'train2017', tmp_path / 'pretrained')

    def run(folder, stop=None, resume=False, workers=0):
        options = dict(num_workers=workers, jepa_checkpoint=str(checkpoint), max_iters=3)
        cfg = small_config(name, root, tmp_path / folder, **options)
        cfg.default_hooks.checkpoint.interval = 1
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.resume = resume
        runner = build_runner(cfg)
        log = Log(runner, logging.INFO)
        if stop:
            runner.register_hook(StopAt(stop))
        runner.train()
        assert any('tensors into backbone' in text for text in log.texts) != resume
        return everything(runner)

    whole = run('whole')
    assert run('parts', stop=2)['iter'] == 2
    assert_same(whole, run('parts', resume=True, workers=1))
