"""Detection and segmentation configs: short, the recipes' values, steps, seeds, exact resume."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import check_config, load_config
from mmjepa.engine.runner import build_runner
from mmjepa.registry import DATASETS

pytest.importorskip('mmcv.ops', exc_type=ImportError)
pytest.importorskip('mmdet', exc_type=ImportError)
pytest.importorskip('mmseg', exc_type=ImportError)

from dense_scenes import CONFIGS, SMALL, pretrain, small_config, write_coco

FOLDER = CONFIGS / 'downstream'
FILES = sorted([*FOLDER.glob('mmdet/*.py'), *FOLDER.glob('mmseg/*.py')])
RUNS = {str(path.relative_to(FOLDER).with_suffix('')): path for path in FILES}
VITDET, CASCADE = 'mmdet/mask_rcnn_vitdet_base_coco', 'mmdet/cascade_mask_rcnn_vit_base_coco'
UPERNET, LINEAR = 'mmseg/upernet_vit_base_ade20k', 'mmseg/linear_vit_base_ade20k'


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp('data') / 'coco', images=3)


@pytest.fixture(scope='module')
def checkpoint(coco, tmp_path_factory):
    return pretrain(coco / 'train2017', tmp_path_factory.mktemp('pretrained'))


def values(node, kind):
    """Every value of a type in a config."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        return [v for item in node for v in values(item, kind)]
    return [node] if isinstance(node, kind) else []


def test_every_config_is_run_here():
    assert set(RUNS) == set(SMALL)


@pytest.mark.parametrize('name', RUNS)
def test_config_loads_and_is_short(name, monkeypatch):
    told = []
    monkeypatch.setattr('mmjepa.engine.config.print_log', lambda text, **_: told.append(text))
    cfg = load_config(RUNS[name])
    check_config(cfg)
    assert told == [], 'a variable has no effect'
    assert cfg.custom_hooks[0]['type'] == 'mmjepa.LoadEncoderHook'
    _, docstring, body = RUNS[name].read_text().split('"""')
    for wanted in ('tools/dist_train.sh', 'tools/test.py', 'jepa_checkpoint=', 'batch', 'not meas'):
        assert wanted in docstring.lower(), wanted
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize('name', RUNS)
def test_options_reach_everything(name):
    options = dict(data_root='elsewhere', batch_size=3, num_workers=0, max_iters=7, lr=0.5)
    options |= dict(jepa_checkpoint='x.pth', arch='tiny', channels=99, class_names=['a', 'b'])
    cfg = load_config(RUNS[name], options)
    check_config(cfg)
    default = load_config(RUNS[name])
    roots = [v for v in values(cfg.to_dict(), str) if v.startswith(default.data_root)]
    assert roots == []
    assert cfg.train_dataloader.batch_size == 3
    assert not any(cfg[f'{s}_dataloader'].persistent_workers for s in ('train', 'val', 'test'))
    assert cfg.train_cfg.max_iters == 7
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.custom_hooks[0].checkpoint == 'x.pth'
    assert 768 not in values(cfg.model.to_dict(), int)
    model = cfg.model
    counts = [p['num_classes'] for p in dicts(model.to_dict()) if 'num_classes' in p]
    assert counts and set(counts) == {2}
    wrapped, plain = cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset
    assert wrapped.metainfo == plain.metainfo == dict(classes=['a', 'b'])


def dicts(node):
    if isinstance(node, dict):
        yield node
        node = node.values()
    if not isinstance(node, str) and hasattr(node, '__iter__'):
        for item in node:
            yield from dicts(item)


def schedule(cfg):
    """Factor of the learning rate at shares of the run."""
    from mmjepa.engine.schedules import PhasedScheduler

    options = {k: v for k, v in cfg.param_scheduler.items() if k != 'type'}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 1.0)
    made = PhasedScheduler(optimizer, **options, end=cfg.train_cfg.max_iters or 87_960)
    return made.value_at


def test_vitdets_recipe():
    cfg = load_config(RUNS[VITDET])
    backbone, decay = cfg.model.backbone, cfg.optim_wrapper
    assert (backbone.window_size, backbone.global_blocks) == (14, (2, 5, 8, 11))
    assert (backbone.rel_pos, backbone.drop_path_rate, backbone.final_norm) == (True, 0.1, False)
    assert backbone.img_size == cfg.model.data_preprocessor.pad_size_divisor == 1024
    assert decay.optimizer == dict(type='AdamW', betas=(0.9, 0.999), lr=1e-4, weight_decay=0.1)
    assert decay.paramwise_cfg.layer_decay == 0.7
    assert cfg.train_cfg.max_iters == 184_375 and cfg.auto_scale_lr.base_batch_size == 64
    lr = schedule(cfg)
    found = [lr(i) for i in (0, 250, 163_888, 163_890, 177_545, 177_547)]
    assert np.allclose(found, [0.001, 1, 1, 0.1, 0.1, 0.01])
    resize, crop = cfg.train_pipeline[2:4]
    assert resize.ratio_range == (0.1, 2.0) and crop.crop_size == (1024, 1024)


def test_ibots_recipe_for_detection():
    cfg = load_config(RUNS[CASCADE])
    assert cfg.model.backbone.out_indices == (3, 5, 7, 11)
    assert (cfg.model.backbone.drop_path_rate, cfg.model.backbone.final_norm) == (0.2, False)
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.paramwise_cfg.layer_decay == 0.75
    assert cfg.train_cfg.max_epochs == 12 and cfg.train_cfg.max_iters is None
    assert cfg.auto_scale_lr.base_batch_size == 16
    lr = schedule(cfg)
    epochs = [lr(int(e * 7330)) for e in (1, 7.99, 8.01, 10.99, 11.01)]
    assert np.allclose(epochs, [1, 1, 0.1, 0.1, 0.01])
    whole, cut = cfg.train_pipeline[3].transforms
    assert [s for s, _ in whole[0].scales] == list(range(480, 801, 32))
    assert [s for s, _ in cut[0].scales] == [400, 500, 600] and cut[1].crop_size == (384, 600)
    stages = cfg.model.roi_head.bbox_head
    assert [s.bbox_coder.target_stds[0] for s in stages] == [0.1, 0.05, 0.033]
    assert all(s.loss_bbox == dict(type='GIoULoss', loss_weight=10.0) for s in stages)


def test_segmentation_recipes():
    upernet, linear = load_config(RUNS[UPERNET]), load_config(RUNS[LINEAR])
    for cfg, rate in ((upernet, 8e-5), (linear, 8e-4)):
        assert cfg.optim_wrapper.optimizer.lr == rate
        assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
        assert cfg.model.backbone.out_indices == (3, 5, 7, 11)
        assert cfg.model.backbone.final_norm is True
        assert cfg.model.test_cfg.stride == [341, 341]
        assert cfg.model.decode_head.num_classes == 150
        lr = schedule(cfg)
        assert math.isclose(lr(1500), 1.0) and math.isclose(lr(80_750), 0.5)
        assert lr(0) == 1e-6 and lr(160_000) == 0
    assert upernet.optim_wrapper.paramwise_cfg.layer_decay == 0.65
    assert upernet.model.backbone.drop_path_rate == 0.1
    assert upernet.model.auxiliary_head.in_index == 2
    assert upernet.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert linear.model.backbone.frozen is True


class Seen(Hook):
    """Weights at the first iteration, and the scores of the validation."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.start = {k: v.clone() for k, v in runner.model.state_dict().items()}

    def after_val_epoch(self, runner, metrics=None):
        self.scores = metrics


@pytest.mark.parametrize(
    'name',
    # the others take their steps on real images, in tests/downstream/images
    [pytest.param(n, marks=pytest.mark.slow) if n in (VITDET, UPERNET) else n for n in RUNS],
)
def test_training_and_evaluation_step(name, coco, checkpoint, tmp_path):
    options = dict(jepa_checkpoint=str(checkpoint), val_interval=2, seed=3)
    runner = build_runner(small_config(name, coco, tmp_path, **options))
    runner.register_hook(seen := Seen())
    runner.train()
    pretrained = load_file(checkpoint)['state_dict']
    compared = {k for k in seen.start if k.startswith('backbone.') and 'rel_pos' not in k}
    assert ('backbone.norm.weight' in compared) == name.startswith('mmseg')
    for key in compared - {'backbone.pos_embed'}:
        wanted = pretrained[key.replace('backbone.', 'target.encoder.')]
        assert torch.equal(seen.start[key], wanted), key
    state = runner.model.state_dict()
    moved = {k for k in state if not torch.equal(state[k], seen.start[k])}
    trained = {k for k in moved if k.startswith('backbone.blocks.0')}
    assert bool(trained) == (name != LINEAR)
    assert any('head' in k for k in moved) and any('neck' in k for k in moved)
    wanted = {'coco/bbox_mAP_50', 'coco/segm_mAP_50'} if 'mmdet' in name else {'mIoU'}
    assert wanted <= seen.scores.keys() and not any(math.isnan(seen.scores[k]) for k in wanted)


@pytest.mark.parametrize('name', RUNS)
def test_samples_are_a_function_of_the_seed(name, coco, tmp_path):
    """Whatever was drawn before, by whichever worker of whichever rank or resumed run."""
    cfg = small_config(name, coco, tmp_path)
    init_default_scope(cfg.default_scope)
    wanted = [(0, 5), (1, 2**60), (0, 6), (1, 7)]

    def samples(state, order):
        np.random.seed(state)  # noqa: NPY002 (theirs draw from it)
        dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        return {key: dataset[key] for key in order}

    first, other = samples(1, wanted), samples(2, wanted[::-1])
    for key in wanted:
        assert torch.equal(first[key]['inputs'], other[key]['inputs'])
        ours, theirs = (s[key]['data_samples'] for s in (first, other))
        if 'mmseg' in name:
            assert torch.equal(ours.gt_sem_seg.data, theirs.gt_sem_seg.data)
        else:
            a, b = ours.gt_instances, theirs.gt_instances
            assert torch.equal(a.bboxes.tensor, b.bboxes.tensor)
            assert np.array_equal(a.masks.to_ndarray(), b.masks.to_ndarray())
    drawn = {first[0, seed]['inputs'].float().mean().item() for seed in (5, 6)}
    assert len(drawn) == 2


def test_layer_decay(coco, tmp_path):
    cfg = small_config(VITDET, coco, tmp_path)
    runner = build_runner(cfg)
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    rate_of = {
        id(p): (g['lr'] / cfg.lr, g['weight_decay'])
        for g in wrapper.optimizer.param_groups
        for p in g['params']
    }
    named = dict(runner.model.named_parameters())
    assert rate_of.keys() == {id(p) for p in named.values()}

    def found(key):
        return rate_of[id(named[key])]

    assert found('backbone.patch_embed.proj.weight') == pytest.approx((0.7**5, 0.1))
    assert found('backbone.blocks.0.attn.rel_pos_h') == pytest.approx((0.7**4, 0.1))
    assert found('backbone.blocks.3.mlp.fc1.bias') == pytest.approx((0.7, 0.0))
    assert found('backbone.blocks.3.norm1.weight') == pytest.approx((0.7, 0.0))
    assert found('neck.levels.0.0.weight') == pytest.approx((1.0, 0.1))
    assert found('neck.levels.0.1.weight') == pytest.approx((1.0, 0.0))
    assert found('rpn_head.rpn_cls.weight') == pytest.approx((1.0, 0.1))


def test_readmes_name_every_config():
    for folder in ('mmdet', 'mmseg'):
        text = Path(FOLDER / folder / 'README.md').read_text()
        for path in FOLDER.glob(f'{folder}/*.py'):
            assert f'({path.name})' in text
