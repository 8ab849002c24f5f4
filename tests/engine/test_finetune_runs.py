"""Fine-tuning runs: an exact resume with objects pasted, and two processes."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mm3d_scenes import write_kitti
from mmengine.hooks import Hook
from mmengine.structures import InstanceData
from test_distributed import _processes
from toy_engine import Log, StopAt, assert_same, everything

from mmjepa.engine.checkpoint import load_file
from mmjepa.engine.config import load_config
from mmjepa.engine.finetune import apply_label_fraction
from mmjepa.engine.runner import build_runner, rng_state

pytest.importorskip('spconv', exc_type=ImportError)
pytest.importorskip('mmdet3d.models', exc_type=ImportError)
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='a rule on CPU; hide the GPUs with CUDA_VISIBLE_DEVICES='
)

GRID = dict(voxel_size=[0.4, 0.4, 0.1], point_cloud_range=[0, -12.8, -3, 38.4, 12.8, 1])
FRAMES = 6


def configured(repo, path, root, work_dir, **options):
    """A config on the tiny data; nothing is written but checkpoints and the log."""
    options = {'num_workers': 0, 'batch_size': 2, 'log_interval': 1, **options}
    cfg = load_config(repo / 'configs' / path, {**GRID, 'data_root': str(root), **options})
    cfg.work_dir = str(work_dir)
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.log_level = 'WARNING'
    cfg.experiment_name = f'{work_dir.name}_{id(cfg)}'  # MMEngine keeps instances by name
    return cfg


def finetuning(repo, root, work_dir, launcher='none', **options):
    """The paper's SECOND, narrower behind its encoder, with fewer objects pasted than there are."""
    options = {'val_interval': 100, 'default_hooks.checkpoint.interval': 100, **options}
    cfg = configured(repo, 'downstream/mmdet3d/second_kitti_paper.py', root, work_dir, **options)
    cfg.launcher = launcher
    cfg.model.backbone.out_channels = [16, 32]
    cfg.model.neck.update(in_channels=[16, 32], out_channels=[32, 32])
    cfg.model.bbox_head.update(in_channels=64, feat_channels=64)
    cfg.optim_wrapper.optimizer.lr = 1e-3
    sampler = cfg.train_dataloader.dataset.dataset.pipeline[2].db_sampler
    sampler.sample_groups = dict(Car=6, Pedestrian=4, Cyclist=4)  # of 12 each
    apply_label_fraction(cfg)
    return cfg


@pytest.fixture(scope='module')
def tiny(tmp_path_factory, repo):
    """Data, and the checkpoint of one step of pre-training on it."""
    folder = tmp_path_factory.mktemp('tiny')
    root = folder / 'kitti'
    write_kitti(root, frames=FRAMES)
    cfg = configured(
        repo, 'adl_jepa/kitti.py', root, folder / 'pretrained', max_iters=1, batch_size=1
    )
    build_runner(cfg).train()
    return SimpleNamespace(root=root, checkpoint=folder / 'pretrained/iter_1.pth')


def encoder_of(state):
    prefix = 'middle_encoder.'
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


@pytest.fixture(scope='module')
def pretrained(tiny):
    state = load_file(tiny.checkpoint)['state_dict']
    return {k[8:]: v for k, v in state.items() if k.startswith('encoder.')}


# ---- resume


STOP, STEPS = 2, 4  # an epoch holds 3 iterations: in the middle of one, and over its end


def resumable(repo, tiny, work_dir, resume=False, **options):
    options = {'max_iters': STEPS, 'default_hooks.checkpoint.interval': STOP, **options}
    options['jepa_checkpoint'] = str(tiny.checkpoint)
    cfg = finetuning(repo, tiny.root, work_dir, **options)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.resume = resume
    return build_runner(cfg)


def test_resume_is_exact_with_any_number_of_workers(repo, tiny, tmp_path, monkeypatch):
    """Weights, optimizer, schedules, logged losses; with objects pasted into the frames."""
    from mmjepa.downstream.lidar.object_database import SeededDataBaseSampler

    pasted, sample = [], SeededDataBaseSampler.sample_all

    def counted(self, *args, **kwargs):
        objects = sample(self, *args, **kwargs)
        pasted.append(0 if objects is None else len(objects['gt_bboxes_3d']))
        return objects

    monkeypatch.setattr(SeededDataBaseSampler, 'sample_all', counted)
    whole = resumable(repo, tiny, tmp_path / 'whole')
    whole.train()
    assert len(pasted) == 2 * STEPS and min(pasted) > 0, pasted
    expected = everything(whole)
    assert len(expected['scalars']['train/loss']) == STEPS
    for workers in (0, 2):
        folder = tmp_path / f'workers_{workers}'
        first = resumable(repo, tiny, folder, num_workers=workers)
        first.register_hook(StopAt(STOP))
        first.train()
        assert first.iter == STOP
        with pytest.raises(AssertionError):
            assert_same(expected['weights'], everything(first)['weights'])
        torch.manual_seed(99)
        resumed = resumable(repo, tiny, folder, resume=True, num_workers=workers)
        log = Log(resumed, logging.INFO)
        resumed.train()
        assert f'resumed epoch: 0, iter: {STOP}' in log.texts
        assert_same(expected, everything(resumed), f'{workers} workers')


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_resume_within_a_frozen_epoch(repo, tiny, tmp_path, workers):
    """Three epochs, the first two frozen, a label fraction, validation between."""
    options = dict(
        max_iters=3, frozen_epochs=2, val_interval=1, num_workers=workers, label_fraction=0.5
    )
    options |= {'default_hooks.checkpoint.interval': 1, 'jepa_checkpoint': str(tiny.checkpoint)}

    def run(name, resume=False, stop=None):
        cfg = finetuning(repo, tiny.root, tmp_path / name, **options)
        cfg.resume = resume
        runner = build_runner(cfg)
        log = Log(runner, logging.INFO)
        if stop:
            runner.register_hook(StopAt(stop))
        runner.train()
        assert any('resumed epoch: 1, iter: 1' in text for text in log.texts) == resume
        return everything(runner)

    whole = run('whole')
    run('w', stop=1)
    assert_same(whole, run('w', resume=True))


# ---- arms


class Enough(Exception):
    pass


class First(Hook):
    """What the first iteration would start from."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.weights = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}
        self.random = rng_state()
        self.rates = [group['lr'] for group in runner.optim_wrapper.optimizer.param_groups]
        objects = [sample.gt_instances_3d for sample in data_batch['data_samples']]
        self.batch = dict(
            points=data_batch['inputs']['points'],
            boxes=[each.bboxes_3d.tensor for each in objects],
            labels=[each.labels_3d for each in objects],
        )
        raise Enough


def test_the_arms_differ_by_the_encoder_alone(repo, tiny, pretrained, tmp_path):
    """Weights of everything else, generators, first batch; and the encoder's learning rate."""
    seen = {}
    for arm, checkpoint in (('scratch', None), ('jepa', str(tiny.checkpoint))):
        options = dict(max_iters=1, encoder_lr_mult=0.1, jepa_checkpoint=checkpoint)
        cfg = finetuning(repo, tiny.root, tmp_path / arm, **options)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        runner = build_runner(cfg)
        seen[arm] = First()
        runner.register_hook(seen[arm])
        with pytest.raises(Enough):
            runner.train()
    scratch, jepa = seen['scratch'], seen['jepa']
    assert min(map(len, scratch.batch['boxes'])) > 0
    assert_same(scratch.batch, jepa.batch)
    assert_same(scratch.random, jepa.random)
    encoders = [encoder_of(arm.weights) for arm in (scratch, jepa)]
    assert_same(encoders[1], pretrained)
    kernels = [key for key in pretrained if pretrained[key].ndim == 5]
    assert len(kernels) == 12
    assert not any(torch.equal(encoders[0][key], encoders[1][key]) for key in kernels)
    for weights in (scratch.weights, jepa.weights):
        for key in pretrained:
            del weights[f'middle_encoder.{key}']
    assert len(scratch.weights) > 30
    assert_same(scratch.weights, jepa.weights)
    assert scratch.rates == jepa.rates
    assert sorted(scratch.rates) == pytest.approx([1e-5, 1e-4])  # schedules start at a tenth


# ---- two processes


class Keep(Hook):
    """Weights at the last start of an epoch, and those that were evaluated."""

    priority = 'LOWEST'

    def before_train_epoch(self, runner):
        self.start = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}

    def before_val(self, runner):
        self.evaluated = {k: v.clone() for k, v in runner.bare_model.state_dict().items()}


def _train(rank, world, out, repo, tiny, name, options):
    options = {'jepa_checkpoint': str(tiny.checkpoint), 'batch_size': 1, **options}
    runner = build_runner(finetuning(repo, tiny.root, out / name, launcher='pytorch', **options))
    seen = Keep()
    runner.register_hook(seen)
    runner.train()
    torch.save(vars(seen) | dict(end=runner.bare_model.state_dict()), out / f'{name}_{rank}.pth')


def _both(repo, tiny, out, name, **options):
    codes, errors = _processes(_train, 2, out, repo, tiny, name, options)
    assert codes == [0, 0], errors
    ranks = [torch.load(out / f'{name}_{rank}.pth') for rank in (0, 1)]
    for key, value in ranks[0]['end'].items():
        if 'running' not in key:  # BatchNorm's, of each rank's own samples
            assert torch.equal(value, ranks[1]['end'][key]), f'the ranks went apart: {key}'
    return ranks


@pytest.mark.slow
def test_both_ranks_load_the_encoder_and_stay_together(repo, tiny, pretrained, tmp_path):
    ranks = _both(repo, tiny, tmp_path, 'run', max_iters=3)
    for rank in ranks:
        assert_same(encoder_of(rank['start']), pretrained)
        assert rank['end']['middle_encoder.conv_out.1.num_batches_tracked'] == 4
    name = 'middle_encoder.encoder_layers.encoder_layer2.0.0.weight'
    assert not torch.equal(ranks[0]['end'][name], ranks[0]['start'][name])


def test_two_ranks_from_a_checkpoint(repo, tiny, pretrained, tmp_path):
    """Three iterations with a frozen encoder, one in which it is trained, too; an evaluation."""
    assert len(pretrained) == 72
    options = {'default_hooks.checkpoint.interval': 4, 'val_interval': 2}
    ranks = _both(repo, tiny, tmp_path, 'run', max_iters=4, frozen_epochs=1, **options)
    for rank in ranks:
        assert_same(encoder_of(rank['start']), pretrained, 'changed while it was frozen')
        moved = encoder_of(rank['end'])
        assert moved['conv_out.1.num_batches_tracked'] == 2
        for key in ('conv_out.0.weight', 'conv_input.0.weight', 'conv_out.1.running_var'):
            assert not torch.equal(moved[key], pretrained[key]), key
    norm = 'backbone.blocks.0.1.running_mean'
    assert not torch.equal(*(rank['start'][norm] for rank in ranks)), 'each of its own samples'
    saved = load_file(tmp_path / 'run/iter_4.pth')['state_dict']
    for rank in ranks:
        assert_same(dict(rank['evaluated']), dict(saved), 'another model than the saved one')


def _validate(rank, world, out, repo, tiny, name):
    """Ground truth, moved and mixed with wrong boxes, goes through loader, model and metric."""
    launcher = 'pytorch' if world > 1 else 'none'
    cfg = finetuning(repo, tiny.root, out / name, launcher=launcher)
    cfg.test_dataloader.dataset.indices = FRAMES - 1  # an odd number: one rank gets one twice
    runner = build_runner(cfg)
    data = runner.test_dataloader.dataset
    truth = {i['sample_idx']: i['eval_ann_info'] for i in map(data.get_data_info, range(len(data)))}
    seen = []

    def predict(inputs, samples, **_):
        for sample in samples:
            number = sample.sample_idx
            seen.append(number)
            rng = np.random.default_rng(number)
            boxes, labels = truth[number]['gt_bboxes_3d'].clone(), truth[number]['gt_labels_3d']
            spread = rng.choice([0.02, 0.1, 2.0], (len(labels), 1)) * [1, 1, 0.1]
            boxes.tensor[:, :3] += torch.from_numpy(rng.normal(0, spread)).float()
            scores = torch.from_numpy(rng.uniform(0.2, 1, len(labels))).float()
            found = dict(bboxes_3d=boxes, scores_3d=scores, labels_3d=torch.from_numpy(labels))
            sample.pred_instances_3d = InstanceData(**found)
        return samples

    runner.bare_model.predict = predict
    (out / f'{name}_{rank}.json').write_text(json.dumps(dict(scores=runner.test(), seen=seen)))


def test_two_ranks_evaluate_as_one(repo, tiny, tmp_path):
    found = {}
    for name, world in (('one', 1), ('two', 2)):
        codes, errors = _processes(_validate, world, tmp_path, repo, tiny, name)
        assert codes == [0] * world, errors
        found[name] = [
            json.loads((tmp_path / f'{name}_{r}.json').read_text()) for r in range(world)
        ]
    one, two = found['one'][0], found['two']
    assert len(one['seen']) == FRAMES - 1 and [len(rank['seen']) for rank in two] == [3, 3]
    figures = [v for k, v in one['scores'].items() if '_ap40_' in k]
    assert len({round(v, 3) for v in figures if 0 < v < 100}) > 5, figures
    assert one['scores'] == two[0]['scores'] == two[1]['scores']
