"""Options reach every computed value; what isn't there is an error with the nearest match."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmjepa.engine.config import (
    RESOLVED_MARK,
    ConfigError,
    check_config,
    default_work_dir,
    load_config,
)

BASE = """
data_root = 'data/base'
batch_size = 4
shape: list = [1, 2]
first, second = 1, 2
third = fourth = 5
steps = 10
steps *= 2
settings = dict(inner=dict(value=1), steps=steps)
loader = dict(batch_size=batch_size, files=[data_root + '/a', data_root + '/b'])
total = batch_size * 10
lists = dict(items=[dict(a=1), dict(a=2)], pair=(1, 2))
if batch_size > 6:
    large = True
else:
    large = False
def _double(batch_size=1):
    data_root = 'own'
    return data_root
named = _double()
sums = dict(a=first + second, b=third + fourth, s=shape)
"""
CHILD = """
_base_ = ['base.py']
epochs = 3
mine = _base_.batch_size * epochs
also = dict(root=_base_.data_root, text={{_base_.data_root}}, size={{_base_.batch_size}})
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'child.py').write_text(CHILD)
    return tmp_path / 'base.py', tmp_path / 'child.py'


def test_options_reach_computed_values(files):
    cfg = load_config(
        files[0], dict(data_root='/x', batch_size=8, steps=7, shape=[3], second=20, fourth=50)
    )
    assert cfg.loader == dict(batch_size=8, files=['/x/a', '/x/b'])
    assert cfg.total == 80 and cfg.large is True
    assert cfg.settings.steps == 7 and cfg.steps == 7, 'the option wins over *= 2'
    assert cfg.sums == dict(a=21, b=55, s=[3])
    assert cfg.named == 'own', "a function's variables are its own"
    plain = load_config(files[0])
    assert plain.settings.steps == 20 and plain.sums == dict(a=3, b=10, s=[1, 2])
    assert plain._cfg_dict == Config.fromfile(files[0])._cfg_dict


def test_options_reach_through_base_files(files):
    cfg = load_config(files[1], dict(data_root='/x', batch_size=8, epochs=5))
    assert cfg.loader.files == ['/x/a', '/x/b'] and cfg.total == 80
    assert cfg.mine == 40
    assert cfg.also == dict(root='/x', text='/x', size=8)
    assert load_config(files[1]).also == dict(root='data/base', text='data/base', size=4)


@pytest.mark.parametrize(
    'value', ['it\'s "quoted"', '/a b', None, 0.5, [1, [2, 'x']], (1, 2), True, -3]
)
def test_values_of_any_kind(tmp_path, value):
    path = tmp_path / 'c.py'
    path.write_text("x = 'text'\ny = [x]\n")
    cfg = load_config(path, dict(x=value))
    assert cfg.x == value and cfg.y == [value] and type(cfg.y[0]) is type(value)


def test_the_replaced_value_is_not_computed(tmp_path):
    path = tmp_path / 'c.py'
    path.write_text("root = {}['not there']\nx = root + '/a'\n")
    with pytest.raises(KeyError):
        load_config(path)
    assert load_config(path, dict(root='/r')).x == '/r/a'


def test_variables_that_a_child_sets_too_late(files, monkeypatch):
    """A base has computed its values before; a child that says so in full isn't warned."""
    told = []
    monkeypatch.setattr('mmjepa.engine.config.print_log', lambda text, **_: told.append(text))
    child = files[0].with_name('late.py')
    child.write_text("_base_ = ['base.py']\nbatch_size = 8\ndata_root = '/x'\nother = 3\n")
    assert load_config(child).loader.batch_size == 4
    assert len(told) == 1
    for words in (
        'loader.batch_size stays 4, not 8',
        "loader.files.0 stays 'data/base/a'",
        'large stays False',
        'total stays 40',
        '--cfg-options',
    ):
        assert words in told[0], told[0]
    cfg = load_config(child, dict(batch_size=8, data_root='/x'))
    assert cfg.loader.batch_size == 8 and len(told) == 1
    child.write_text(
        "_base_ = ['base.py']\nbatch_size = 8\nlarge = True\ntotal = 80\n"
        'loader = dict(batch_size=batch_size)\n'
    )
    load_config(child)
    load_config(files[1])
    assert len(told) == 1


def test_dotted_options_come_after(files):
    cfg = load_config(
        files[0], {'settings.inner.value': 3, 'lists.items.1.a': 9, 'loader.batch_size': 1}
    )
    assert cfg.settings.inner.value == 3 and cfg.lists['items'] == [dict(a=1), dict(a=9)]
    assert cfg.loader.batch_size == 1 and cfg.batch_size == 4
    merged = load_config(files[0], dict(settings=dict(inner=dict(value=5))))
    assert merged.settings == dict(inner=dict(value=5), steps=20), 'dicts are merged'


@pytest.mark.parametrize('options', [{'groups.Car': 3}, {'groups': {'Car': 3}}])
def test_an_entry_of_a_dict_reaches_computed_values(tmp_path, options):
    base, child = tmp_path / 'base.py', tmp_path / 'child.py'
    base.write_text('groups = dict(Car=1, Van=2)\nloader = dict(groups=groups)\nsize = 1\n')
    child.write_text("_base_ = ['base.py']\nmine = [_base_.groups, _base_.size]\n")
    cfg = load_config(child, {**options, 'size': 7})
    wanted = dict(Car=3, Van=2)
    assert (cfg.groups, cfg.loader.groups, cfg.mine) == (wanted, wanted, [wanted, 7])
    child.write_text("_base_ = ['base.py']\ngroups = dict(Van=5)\nmine = groups\n")
    cfg = load_config(child, options)
    assert (cfg.groups, cfg.mine, cfg.loader.groups) == (dict(Car=3, Van=5),) * 3
    base.write_text(f'{RESOLVED_MARK}\n{base.read_text()}')
    with pytest.raises(ConfigError, match='no value follows from groups'):
        load_config(base, options)


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(batch_sizes=2), ["variable 'batch_sizes'", 'batch_size']),
        (dict(dataroot='x'), ["variable 'dataroot'", 'data_root']),
        (dict(zzz=1), ["variable 'zzz'", 'known: ']),
        ({'settings.iner.value': 1}, ["'iner' in settings", 'inner']),
        ({'settings.inner.valu': 1}, ["'valu' in settings.inner", 'value']),
        ({'settings.inner.value.x': 1}, ['settings.inner.value is 1']),
        ({'nothere.x': 1}, ["variable 'nothere'"]),
        ({'lists.items.2.a': 1}, ['lists.items is a list of 2', "'2' is no position"]),
        ({'lists.items.x': 1}, ["'x' is no position"]),
        ({'lists.items.-1.a': 1}, ["'-1' is no position"]),
        ({'lists.pair.0': 5}, ['lists.pair is (1, 2)', 'as a whole']),
    ],
)
def test_unknown_options_name_the_nearest(files, options, words):
    with pytest.raises(ConfigError) as error:
        load_config(files[0], options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_no_such_config(files):
    with pytest.raises(ConfigError, match=r'no config file .*childe\.py; nearest: .*child\.py'):
        load_config(files[1].with_name('childe.py'))


def test_import_style_configs_say_that_options_do_not_reach(tmp_path):
    (tmp_path / '__init__.py').write_text('')
    (tmp_path / 'lazy_base.py').write_text('batch_size = 4\nloader = dict(batch_size=batch_size)\n')
    path = tmp_path / 'lazy.py'
    path.write_text(
        'from mmengine.config import read_base\nwith read_base():\n    from .lazy_base import *\n'
    )
    assert load_config(path).loader.batch_size == 4
    with pytest.raises(ConfigError, match='read_base'):
        load_config(path, dict(batch_size=2))


# ---- the real config


@pytest.fixture(scope='module')
def kitti(request):
    return Path(__file__).resolve().parents[2] / 'configs' / 'adl_jepa' / 'kitti.py'


def test_real_options_reach_everything(kitti):
    cfg = load_config(
        kitti,
        dict(
            data_root='/d',
            batch_size=2,
            max_iters=300,
            num_workers=0,
            seed=5,
            log_interval=7,
            voxel_size=[0.2, 0.2, 0.1],
            point_cloud_range=[0, -12.8, -3, 25.6, 12.8, 1],
            variance_weight=3.0,
            log_level='ERROR',
            accumulate=4,
        ),
    )
    loader = cfg.train_dataloader
    assert (loader.batch_size, loader.num_workers, loader.persistent_workers) == (2, 0, False)
    assert loader.dataset.data_root == '/d'
    assert cfg.train_cfg.max_iters == 300
    assert cfg.default_hooks.checkpoint.by_epoch is False
    assert cfg.default_hooks.checkpoint.interval == 100  # three in all
    assert cfg.log_processor.by_epoch is False
    assert cfg.default_hooks.logger.interval == cfg.default_hooks.runtime_info.interval == 7
    assert cfg.randomness.seed == 5
    assert cfg.model.encoder.sparse_shape == [41, 128, 128]
    assert cfg.model.data_preprocessor.voxel_size == [0.2, 0.2, 0.1]
    assert all(
        step.point_cloud_range == cfg.point_cloud_range
        for step in loader.dataset.pipeline
        if step.type == 'PointsRangeFilter'
    )
    assert cfg.model.loss.variance_weight == 3.0
    assert cfg.optim_wrapper.accumulative_counts == 4
    assert cfg.log_level == 'ERROR'  # a variable of a base file
    by_epoch = load_config(kitti)
    assert by_epoch.train_cfg.max_epochs == 30 and by_epoch.default_hooks.checkpoint.by_epoch


@pytest.mark.parametrize(
    'option',
    [
        'model.encoder.backend',
        'model.encoder.norm_eps',
        'optim_wrapper.amp',
        'optim_wrapper.optimizer.amsgrad',
        'default_hooks.checkpoint.save_best',
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
        'randomness.deterministic',
        'train_dataloader.prefetch_factor',
        'optim_wrapper.clip_grad.norm_type',
        'env_cfg.dist_cfg.backend',
        'log_processor.num_digits',
        'custom_hooks.1.rank_floor',
    ],
)
def test_options_that_a_component_takes(kitti, option):
    load_config(kitti, {option: 1})


@pytest.mark.parametrize(
    ('option', 'nearest'),
    [
        ('model.encoder.bakend', 'backend'),
        ('model.mask_generator.mask_rato', 'mask_ratio'),
        ('model.encodr.backend', 'encoder'),
        ('optim_wrapper.optimizer.learning_rate', None),
        ('default_hooks.checkpoint.intervall', 'interval'),
        ('train_dataloader.num_worker', 'num_workers'),
        ('randomness.sede', 'seed'),
        ('optim_wrapper.clip_grad.max_nrm', 'max_norm'),
        ('default_hooks.chekpoint.interval', 'checkpoint'),
        ('custom_hooks.9.interval', None),
        ('env_cfg.cudnn_benchmarks', 'cudnn_benchmark'),
        ('param_scheduler.0.phase', 'phases'),
        ('train_cfg.max_iter', 'max_iters'),
        ('log_processor.window', 'window_size'),
    ],
)
def test_misspelt_paths(kitti, option, nearest):
    with pytest.raises(
        ConfigError,
        match=option.split('.')[-1 if nearest != 'encoder' else 1]
        if nearest != 'checkpoint'
        else 'chekpoint',
    ) as error:
        load_config(kitti, {option: 1})
    assert nearest is None or nearest in str(error.value)


@pytest.mark.parametrize(
    ('place', 'key', 'nearest'),
    [
        ('model', 'train_token', 'train_tokens'),
        ('model.encoder', 'base_channel', 'base_channels'),
        ('model.data_preprocessor', 'max_point', 'max_points'),
        ('train_dataloader', 'batchsize', 'batch_size'),
        ('train_dataloader.dataset', 'spilt', 'split'),
        ('train_dataloader.sampler', 'shufle', 'shuffle'),
        ('train_dataloader.dataset.pipeline.0', 'loaddim', 'load_dim'),
        ('optim_wrapper', 'acumulative_counts', 'accumulative_counts'),
        ('optim_wrapper.optimizer', 'wieght_decay', 'weight_decay'),
        ('default_hooks.logger', 'intervall', 'interval'),
        ('default_hooks.timer', 'interval', ''),
        ('default_hooks.checkpoint', 'max_keep_ckpt', 'max_keep_ckpts'),
        ('custom_hooks.0', 'momentun', 'momentum'),
        ('param_scheduler.0', 'phase', 'phases'),
        ('train_cfg', 'max_epoch', 'max_epochs'),
        ('visualizer', 'backends', 'vis_backends'),
        ('randomness', 'sede', 'seed'),
        ('auto_scale_lr', 'base_batchsize', 'base_batch_size'),
    ],
)
def test_a_key_that_nothing_takes(kitti, place, key, nearest):
    """In the file itself: the run must not start with a setting that does nothing."""
    cfg = load_config(kitti)
    check_config(cfg)
    node = cfg._cfg_dict
    for part in place.split('.'):
        node = node[int(part) if part.isdigit() else part]
    node[key] = 1
    with pytest.raises(ConfigError, match=key) as error:
        check_config(cfg)
    assert place in str(error.value) and nearest in str(error.value)


def test_other_scopes_are_left_to_themselves(kitti):
    """mmdet3d has components of the same names with other arguments."""
    cfg = load_config(kitti)
    cfg.train_dataloader.dataset.pipeline[2]['elsewhere'] = 1
    with pytest.raises(ConfigError, match='elsewhere'):
        check_config(cfg)
    cfg.train_dataloader.dataset.pipeline[2]['_scope_'] = 'mmdet3d'
    check_config(cfg)
    cfg.default_scope = 'mmdet3d'
    cfg.model['swallowed'] = 1
    check_config(cfg)


def test_default_work_dir():
    assert default_work_dir('configs/adl_jepa/kitti.py') == 'work_dirs/adl_jepa/kitti'
    assert default_work_dir('/a/configs/b/configs/x/y.py') == 'work_dirs/x/y'
    assert default_work_dir('/home/me/mine.py') == 'work_dirs/mine'


def test_words_where_a_number_stands(repo):
    with pytest.raises(ConfigError, match=r"batch_size: 'two' is not a number"):
        load_config(repo / 'configs/adl_jepa/kitti.py', {'batch_size': 'two'})
