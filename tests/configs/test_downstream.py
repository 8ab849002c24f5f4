"""Fine-tuning configs: small enough, and each takes training and evaluation steps."""

import ast
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmjepa.datasets.info_files import InfoFileError, load_plain, write_plain
from mmjepa.engine.checkpoint import CheckpointError
from mmjepa.engine.config import ConfigError, check_config, load_config
from mmjepa.engine.finetune import (
    apply_label_fraction,
    check_info_files,
    check_jepa_checkpoint,
)
from mmjepa.engine.runner import build_runner
from mmjepa.registry import DATASETS, METRICS, MODELS

pytest.importorskip('mmdet3d.models', exc_type=ImportError)

FOLDER = Path(__file__).resolve().parents[2] / 'configs/downstream/mmdet3d'
FILES = sorted(p for p in FOLDER.glob('*.py'))
SMALL = [p for p in FILES if '_la' not in p.stem]
KITTI_BOX = [0, -25.6, -3, 51.2, 25.6, 1]
# config: writer of a tiny data set in tests/mm3d_scenes.py, and what makes the grid small
RUNS = {
    'second_kitti': (
        'write_kitti',
        # numba compiles mmdet3d's noise for 20 s
        dict(voxel_size=[0.2, 0.2, 0.1], point_cloud_range=KITTI_BOX, object_noise=False),
    ),
    'second_kitti_paper': (
        'write_kitti',
        dict(voxel_size=[0.2, 0.2, 0.1], point_cloud_range=KITTI_BOX),
    ),
    'centerpoint_nuscenes': (
        'write_nuscenes',
        dict(voxel_size=[0.4, 0.4, 0.2]),
    ),
    'centerpoint_waymo': (
        'write_waymo',
        dict(
            voxel_size=[0.4, 0.4, 0.15],
            point_cloud_range=[-51.2, -51.2, -2, 51.2, 51.2, 4],
            load_interval=1,
        ),
    ),
    'second_once': (
        'write_once',
        dict(voxel_size=[0.4, 0.4, 0.2], point_cloud_range=[-51.2, -51.2, -5, 51.2, 51.2, 3]),
    ),
    'pv_rcnn_kitti': ('write_kitti', dict()),  # CUDA only
}


@METRICS.register_module()
class FrameCount(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {'frames': len(results)}


def name(path):
    return path.stem


def downstream(stem, tmp_path, **changes):
    """A config on a data set of its own, and the runner's arguments of a short run."""
    import mm3d_scenes

    writer, grid = RUNS[stem.partition('_la')[0]]
    root = tmp_path / 'data'
    if not root.exists():
        getattr(mm3d_scenes, writer)(root, frames=4)
    run = dict(batch_size=2, num_workers=0, max_iters=2, log_interval=1, val_interval=1)
    options = {**grid, **run, 'data_root': str(root), **changes}
    cfg = load_config(FOLDER / f'{stem}.py', options)
    cfg.optim_wrapper.optimizer.lr = 1e-4  # theirs is for larger batches and longer warm-up
    cfg.work_dir = str(tmp_path / 'work')
    apply_label_fraction(cfg)
    check_config(cfg)
    return cfg


def test_every_config_has_its_label_fractions():
    expected = {f'{p.stem}_la{n}' for p in SMALL for n in ('05', '20', '50')}
    assert {p.stem for p in FILES if '_la' in p.stem} == expected
    assert set(RUNS) == {p.stem for p in SMALL}


@pytest.mark.parametrize('path', FILES, ids=name)
def test_config_loads_and_is_short(path, monkeypatch):
    told = []
    monkeypatch.setattr('mmjepa.engine.config.print_log', lambda text, **_: told.append(text))
    cfg = load_config(path)
    check_config(cfg)
    assert told == [], 'a variable has no effect'
    fraction = {'05': 0.05, '20': 0.2, '50': 0.5}.get(path.stem.rpartition('_la')[2], 1.0)
    assert cfg.label_fraction == fraction
    assert cfg.custom_hooks[1]['type'] == 'mmjepa.LoadEncoderHook'
    body = path.read_text().split('"""')[2]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize('path', FILES, ids=name)
def test_bases_are_not_deep(path):
    """A label fraction of its own config; that one of mmdet3d and ``_base_`` files alone."""
    first = next(n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Assign))
    bases = ast.literal_eval(first.value)
    if '_la' in path.stem:
        assert bases == [f'./{path.stem.rpartition("_la")[0]}.py']
    else:
        assert all(base.startswith(('mmdet3d::', './_base_/')) for base in bases)


@pytest.mark.parametrize(
    'stem',
    [pytest.param(s, marks=[pytest.mark.cuda] if s == 'pv_rcnn_kitti' else []) for s in RUNS],
)
def test_training_and_evaluation_step(stem, tmp_path, monkeypatch):
    ours = dict(encoder_type='mmjepa.SparseVoxelEncoder') if stem == 'second_kitti_paper' else {}
    cfg = downstream(stem, tmp_path, **ours)
    if stem == 'centerpoint_waymo':  # its metric is Waymo's own program
        assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
        cfg.val_cfg, cfg.val_dataloader = dict(), cfg.test_dataloader
        cfg.val_evaluator = dict(type='mmjepa.FrameCount')
    runner = build_runner(cfg)
    seen = []
    step = runner.model.val_step
    monkeypatch.setattr(runner.model, 'val_step', lambda data: seen.append(step(data)) or seen[-1])
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.train()
    if stem == 'centerpoint_nuscenes':  # through the devkit
        assert any(name.endswith('/NDS') for name in runner.message_hub.log_scalars)
    moved = [k for k, v in runner.model.state_dict().items() if not torch.equal(v, before[k])]
    assert any('middle_encoder' in k and k.endswith('weight') for k in moved)
    assert any('_head' in k for k in moved)
    assert len(seen) == 4
    assert all('pred_instances_3d' in sample for batch in seen for sample in batch)


@pytest.mark.parametrize(
    ('stem', 'options'),
    [
        *((stem, {}) for stem in RUNS if stem != 'second_kitti'),
        # numba compiles mmdet3d's noise for 20 s
        pytest.param('second_kitti', {'object_noise': True}, marks=pytest.mark.slow),
    ],
)
def test_samples_are_a_function_of_the_seed(stem, options, tmp_path):
    """Whatever was drawn before, by whichever worker of whichever rank or resumed run."""
    cfg = downstream(stem, tmp_path, **options)
    init_default_scope(cfg.default_scope)
    wanted = [(0, 5), (1, 2**60), (0, 6), (1, 7)]

    def samples(state, order):
        np.random.seed(state)  # noqa: NPY002 (mmdet3d's data sets draw from it)
        dataset = DATASETS.build(copy.deepcopy(cfg.train_dataloader.dataset))
        assert type(dataset).__name__ == 'SeededDataset'
        return {key: dataset[key] for key in order}

    first, other = samples(1, wanted), samples(2, wanted[::-1])
    for key in wanted:
        points, boxes = first[key]['inputs']['points'], first[key]['data_samples'].gt_instances_3d
        assert torch.equal(points, other[key]['inputs']['points'])
        theirs = other[key]['data_samples'].gt_instances_3d
        assert torch.equal(boxes.bboxes_3d.tensor, theirs.bboxes_3d.tensor)
        assert torch.equal(boxes.labels_3d, theirs.labels_3d)
    pair = [first[0, seed]['inputs']['points'] for seed in (5, 6)]
    assert not torch.equal(*pair)


def test_resolved_config_is_not_divided_again(tmp_path):
    cfg = downstream('second_kitti_la50', tmp_path)
    cfg.train_cfg.max_iters = None
    before = cfg.to_dict()
    apply_label_fraction(cfg)
    assert cfg.to_dict() == before
    cfg.label_fraction = 0.75
    with pytest.raises(ConfigError, match='means 3 frames, the data set has indices=2'):
        apply_label_fraction(cfg)


def test_classes_without_objects_to_paste_are_left_out(tmp_path):
    import mm3d_scenes

    mm3d_scenes.write_kitti(tmp_path / 'data', frames=2)
    path = tmp_path / 'data/kitti_dbinfos_train.pkl'
    objects = load_plain(path)
    objects['Cyclist'] = [dict(o, num_points_in_gt=2) for o in objects['Cyclist']]
    del objects['Pedestrian']
    write_plain(objects, path)
    cfg = downstream('second_kitti', tmp_path)
    assert list(cfg.train_dataloader.dataset.dataset.pipeline[2].db_sampler.sample_groups) == [
        'Car'
    ]
    assert len(build_runner(cfg).train_dataloader.dataset[0, 1]['inputs']['points'])


@pytest.mark.parametrize('stem', ['second_once_la50', 'centerpoint_nuscenes_la50'])
def test_label_fraction_reaches_wrapped_data_sets(stem, tmp_path):
    cfg = downstream(stem, tmp_path)
    frames = cfg.train_dataloader.dataset
    while 'dataset' in frames:
        frames = frames.dataset
    assert frames.indices == 2
    data = build_runner(cfg).train_dataloader.dataset
    assert len(data[0, 1]['inputs']['points'])


@pytest.mark.parametrize('factor', [1.0, 0.1])
@pytest.mark.parametrize('stem', ['second_kitti', 'centerpoint_nuscenes', 'centerpoint_waymo'])
def test_learning_rate_of_the_encoder(stem, factor):
    cfg = load_config(FOLDER / f'{stem}.py', dict(encoder_lr_mult=factor))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = [(p, group['lr']) for group in groups for p in group['params']]
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert len(rates) == len({p for p, _ in rates}) == len(names)  # each in one group
    of_encoder = ('middle_encoder.', 'pts_middle_encoder.')
    assert sum(names[parameter].startswith(of_encoder) for parameter, _ in rates) == 36
    for parameter, rate in rates:
        wanted = factor if names[parameter].startswith(of_encoder) else 1.0
        assert rate == pytest.approx(wanted * cfg.optim_wrapper.optimizer.lr), names[parameter]


def test_options_of_the_encoder_reach_the_hook():
    options = dict(jepa_checkpoint='epoch_30.pth', frozen_epochs=2)
    for stem in RUNS:
        cfg = load_config(FOLDER / f'{stem}.py', options)
        hook = cfg.custom_hooks[1]
        assert (hook.checkpoint, hook.frozen_epochs) == ('epoch_30.pth', 2)
        assert cfg.find_unused_parameters


@pytest.mark.parametrize('stem', ['second_kitti', 'second_kitti_paper', 'pv_rcnn_kitti'])
def test_grid_options_reach_the_whole_model(stem):
    box = [0, -25.6, -3, 51.2, 25.6, 1]
    cfg = load_config(
        FOLDER / f'{stem}.py', dict(point_cloud_range=box, voxel_size=[0.1, 0.1, 0.1])
    )
    head = cfg.model.get('bbox_head') or cfg.model.rpn_head
    assert cfg.model.middle_encoder.sparse_shape == [41, 512, 512]
    assert cfg.model.data_preprocessor.voxel_layer.point_cloud_range == box
    assert all(r[3] == 51.2 and r[4] == 25.6 for r in head.anchor_generator.ranges)


def test_the_papers_recipe():
    """Values of the reference: class order, anchors' IoUs, objects pasted, cycle."""
    cfg = load_config(FOLDER / 'second_kitti_paper.py')
    classes = ['Car', 'Pedestrian', 'Cyclist']
    pipeline = cfg.train_dataloader.dataset.dataset.pipeline
    kinds = [t['type'] for t in pipeline]
    assert 'ObjectNoise' not in kinds
    assert 'RandomFlip3D' in kinds
    sampler = pipeline[kinds.index('ObjectSample')].db_sampler
    assert sampler.sample_groups == dict(Car=20, Pedestrian=15, Cyclist=15)
    assert set(sampler.prepare.filter_by_min_points.values()) == {5}
    assert sampler.classes == classes
    for loader in (cfg.train_dataloader.dataset, cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.dataset.get('dataset') or loader.dataset).metainfo.classes == classes
    assert [(a.pos_iou_thr, a.neg_iou_thr) for a in cfg.model.train_cfg.assigner] == [
        (0.6, 0.45),
        (0.5, 0.35),
        (0.5, 0.35),
    ]
    assert [s[0] for s in cfg.model.bbox_head.anchor_generator.sizes] == [3.9, 0.8, 1.76]
    lr, beta = cfg.param_scheduler
    assert cfg.optim_wrapper.optimizer.lr == 3e-3
    assert [(p.start, p.stop) for p in lr.phases] == [(0.1, 1.0), (1.0, 1e-5)]
    assert [(p.start, p.stop) for p in beta.phases] == [(0.95, 0.85), (0.85, 0.95)]
    assert cfg.train_cfg.max_epochs == 80


def test_label_fraction_takes_the_first_frames_and_their_objects(tmp_path):
    import pickle

    cfg = downstream('second_kitti_la50', tmp_path)
    dataset = cfg.train_dataloader.dataset.dataset
    assert dataset.indices == 2
    assert cfg.train_cfg.max_iters == 2
    objects = pickle.loads(Path(dataset.pipeline[2].db_sampler.info_path).read_bytes())
    assert {entry['image_idx'] for entries in objects.values() for entry in entries} == {0, 1}
    runner = build_runner(cfg)
    assert len(runner.train_dataloader.dataset) == 2


@pytest.mark.parametrize(
    ('fraction', 'epochs', 'frames'),
    [(1.0, 80, None), (0.5, 160, 2), (0.3, 267, 1), (0.25, 320, 1)],
)
def test_epochs_of_a_fraction(fraction, epochs, frames, tmp_path):
    cfg = downstream('second_kitti', tmp_path, label_fraction=fraction)
    assert cfg.train_dataloader.dataset.dataset.get('indices') == frames
    cfg = load_config(FOLDER / 'second_kitti.py', dict(cfg_options(cfg), label_fraction=fraction))
    cfg.work_dir = str(tmp_path)
    apply_label_fraction(cfg)
    assert cfg.train_cfg.max_epochs == epochs


def cfg_options(cfg):
    return dict(data_root=cfg.data_root)


def test_unreadable_checkpoints_are_told_before_anything_is_built(tmp_path):
    def config(path):
        return load_config(FOLDER / 'second_kitti.py', dict(jepa_checkpoint=path))

    check_jepa_checkpoint(config(None))
    with pytest.raises(FileNotFoundError, match='jepa_checkpoint: .*gone.pth'):
        check_jepa_checkpoint(config(str(tmp_path / 'gone.pth')))
    torch.save(dict(state_dict=dict(a=torch.ones(1000))), tmp_path / 'cut.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'cut.pth').read_bytes()[:700])
    with pytest.raises(CheckpointError, match='cut.pth'):
        check_jepa_checkpoint(config(str(tmp_path / 'cut.pth')))


def test_unfit_info_files_are_told_before_anything_is_built(tmp_path):
    cfg = load_config(FOLDER / 'second_kitti.py', dict(data_root=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r'kitti_infos_train.pkl.*create_data'):
        check_info_files(cfg)
    whole = dict(metainfo=dict(), data_list=[dict(sample_idx=0)])
    write_plain(whole, tmp_path / 'kitti_infos_train.pkl')
    write_plain(dict(whole, data_list=[]), tmp_path / 'kitti_infos_val.pkl')
    with pytest.raises(ConfigError, match=r'kitti_infos_val.pkl lists no frame'):
        check_info_files(cfg)
    write_plain([dict(image=dict())], tmp_path / 'kitti_infos_val.pkl')
    with pytest.raises(InfoFileError, match=r'mmdet3d 0.x'):
        check_info_files(cfg)
    for change, message in [
        (dict(dataset='once'), "is of data set 'once', but KittiDataset reads 'kitti'"),
        (dict(categories=dict(Car=0, Van=1)), "labels Car, Van, not the config's Pedestrian"),
        (dict(categories=dict(Pedestrian=0, Cyclist=1, Car=2)), 'label 11 is none of its 3'),
    ]:
        frames = [dict(instances=[dict(bbox_label_3d=11)])]
        write_plain(dict(metainfo=change, data_list=frames), tmp_path / 'kitti_infos_val.pkl')
        with pytest.raises(ConfigError, match=message):
            check_info_files(cfg)


@pytest.mark.parametrize('fraction', [0, -0.1, 1.5, 'half', 0.1])
def test_impossible_fractions(fraction, tmp_path):
    with pytest.raises(ConfigError, match='label_fraction'):
        downstream('second_kitti', tmp_path, label_fraction=fraction)
