import collections
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmjepa.engine import checkpoint as ckpt
from mmjepa.engine.checkpoint import CheckpointError, UnsafeCheckpointError


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.bn = nn.BatchNorm1d(2)

    def forward(self, x=None, mode='loss'):
        return {'loss': self.bn(self.linear(x)).square().sum()}


class Touch:
    """Pickles as a call of os.system that leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def _net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.fixture
def silent():
    return 'silent'


# --- load_file ---


@pytest.fixture(scope='module')
def runner_file(tmp_path_factory):
    """A full checkpoint that MMEngine's own runner and hook wrote."""
    folder = tmp_path_factory.mktemp('run')
    runner = Runner(
        Tiny(),
        str(folder),
        experiment_name='ckpt',
        log_level='ERROR',
        train_dataloader={
            'dataset': [{'x': torch.randn(2)} for _ in range(4)],
            'batch_size': 2,
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'collate_fn': {'type': 'default_collate'},
        },
        train_cfg={'by_epoch': False, 'max_iters': 4},
        optim_wrapper={'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        param_scheduler=[
            {'type': 'CosineAnnealingLR', 'T_max': 4, 'by_epoch': False},
            {'type': 'CosineAnnealingMomentum', 'T_max': 4, 'by_epoch': False},
        ],
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 4, 'by_epoch': False}},
    )
    runner.train()
    return folder / 'iter_4.pth'


def test_full_mmengine_checkpoint_loads(runner_file):
    with pytest.raises(pickle.UnpicklingError):  # else load_file needs no allow-list any more
        torch.load(runner_file, weights_only=True)
    content = ckpt.load_file(runner_file)
    assert content['meta']['iter'] == 4
    scalars = content['message_hub']['log_scalars']
    assert isinstance(scalars['train/loss'], HistoryBuffer)
    history, counts = scalars['train/loss'].data
    assert len(history) == len(counts) == 4
    assert scalars['train/loss'].mean() == pytest.approx(history.mean())
    assert set(content['state_dict']) == set(Tiny().state_dict())
    assert content['optimizer']['state']


def test_numpy_values_and_both_module_paths(tmp_path):
    values = {
        'scalar': np.float64(0.5),
        'state': np.random.RandomState(0).get_state()[1],
        'flags': np.array([True]),
    }
    path = tmp_path / 'a.pth'
    torch.save(values, path)
    back = ckpt.load_file(path)
    assert back['scalar'] == 0.5
    assert np.array_equal(back['state'], values['state'])
    paths = {
        f'{root}.multiarray.{name}'
        for root in ('numpy.core', 'numpy._core')
        for name in ('_reconstruct', 'scalar')
    }
    assert paths <= {entry[1] for entry in ckpt._safe_globals() if isinstance(entry, tuple)}


@pytest.mark.parametrize('zipped', [True, False])
def test_pickled_code_is_refused_and_not_run(tmp_path, zipped):
    touched = tmp_path / 'touched'
    path = tmp_path / 'evil.pth'
    torch.save(
        {'state_dict': {'w': torch.zeros(1)}, 'extra': Touch(touched)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UnsafeCheckpointError, match=r'evil.pth.*posix.system'):
        ckpt.load_file(path)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # the trap is a live one
    assert touched.exists()


class GetAttr:
    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize('target', [(HistoryBuffer, '__init__'), (np.ndarray, 'min')])
def test_getattr_reaches_nothing_but_the_statistics(tmp_path, target):
    path = tmp_path / 'a.pth'
    torch.save({'x': GetAttr(*target)}, path)
    with pytest.raises(UnsafeCheckpointError):
        ckpt.load_file(path)


def test_whole_pickled_module_is_refused(tmp_path):
    torch.save(Tiny(), tmp_path / 'a.pth')
    with pytest.raises(UnsafeCheckpointError, match='Tiny'):
        ckpt.load_file(tmp_path / 'a.pth')


@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_truncated_file(tmp_path, share, suffix):
    from safetensors.torch import save_file

    whole, path = tmp_path / f'whole{suffix}', tmp_path / f'cut{suffix}'
    state = _net().state_dict()
    torch.save(state, whole) if suffix == '.pth' else save_file(state, whole)
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=rf'cut{suffix}.*(empty|truncated)'):
        ckpt.load_file(path)


def test_not_a_checkpoint(tmp_path):
    (tmp_path / 'page.pth').write_text('<html>not found</html>')
    with pytest.raises(CheckpointError, match='not a checkpoint'):
        ckpt.load_file(tmp_path / 'page.pth')
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    with pytest.raises(CheckpointError, match='holds a Tensor'):
        ckpt.load_file(tmp_path / 'tensor.pth')
    with pytest.raises(FileNotFoundError, match=r'folder holds page.pth, tensor.pth'):
        ckpt.load_file(tmp_path / 'epoch_1.pth')


# --- writing ---


def test_atomic_save_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / 'sub' / 'a.pth'
    ckpt.atomic_save({'a': 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        ckpt.atomic_save({'a': torch.zeros(10000), 'b': lambda: 0}, path)
    assert ckpt.load_file(path) == {'a': 1}
    assert [p.name for p in path.parent.iterdir()] == ['a.pth']


def test_atomic_save_makes_one_cycle_state_loadable(tmp_path):
    from mmengine.optim import OneCycleLR

    optimizer = torch.optim.SGD(_net().parameters(), lr=0.1)
    scheduler = OneCycleLR(optimizer, eta_max=0.1, total_steps=10)
    state = scheduler.state_dict()
    assert callable(state['anneal_func'])
    path = tmp_path / 'a.pth'
    ckpt.atomic_save({'param_schedulers': [state]}, path)
    assert 'anneal_func' in state
    back = ckpt.load_file(path)['param_schedulers'][0]
    assert set(state) - set(back) == {'anneal_func'}
    scheduler.load_state_dict(back)
    optimizer.step()
    scheduler.step()


# --- find_state_dict and load_verified ---


@pytest.mark.parametrize('key', [None, *ckpt.NESTED_KEYS])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_state_dict_is_found(key, prefix, silent):
    source, target = _net(), _net()
    state = {prefix + k: v for k, v in source.state_dict().items()}
    content = state if key is None else {key: state, 'epoch': 3}
    report = ckpt.load_verified(target, content, what='net', logger=silent)
    assert (report.loaded, report.total) == (7, 7)
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in source.state_dict().items())


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ({'state_dict': {'a': torch.zeros(1)}, 'model': {'b': torch.zeros(1)}}, 'several keys'),
        ({'epoch': 3, 'w': torch.zeros(1)}, "'epoch' is a int"),
        ({'state_dict': {}}, 'it is empty'),
    ],
)
def test_no_plain_state_dict(content, words):
    with pytest.raises(CheckpointError, match=words):
        ckpt.find_state_dict(content)


def _broken(kind):
    state = collections.OrderedDict(_net().state_dict())
    if kind == 'missing':
        del state['0.bias']
    elif kind == 'unexpected':
        state['2.weight'] = torch.zeros(1)
    elif kind == 'shape':
        state['0.weight'] = torch.zeros(4, 5)
    elif kind == 'dtype':
        state['1.num_batches_tracked'] = torch.tensor(1.5)
    elif kind == 'nan':
        state['1.running_mean'][0] = float('nan')
    elif kind == 'prefix':
        state = {f'encoder.{k}': v for k, v in state.items()}
    return state


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        ('missing', r'6/7 tensors match; 1 missing: 0\.bias'),
        ('unexpected', r'7/7 tensors match; 1 unexpected: 2\.weight'),
        ('shape', r'0\.weight \(file \(4, 5\), model \(4, 3\)\)'),
        ('dtype', r'num_batches_tracked \(file torch.float32, model torch.int64\)'),
        ('nan', r'NaN or Inf in 1 tensors, first 1\.running_mean'),
        ('prefix', r"0/7 .*apart from the prefix 'encoder\.'"),
    ],
)
def test_bad_weights_stop_before_the_module_is_touched(kind, words):
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'cannot load net: .*{words}'):
        ckpt.load_verified(net, _broken(kind), what='net')
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(('method', 'told'), [('DMTJEPA', True), ('Sequential', False)])
def test_another_method_is_named(method, told):
    content = dict(meta=dict(method=method), state_dict=_broken('unexpected'))
    with pytest.raises(CheckpointError, match='1 unexpected') as caught:
        ckpt.load_verified(_net(), content, what='net')
    words = 'The file is of DMTJEPA, the model is Sequential: use the config in its work dir'
    assert (words in str(caught.value)) == told == ('The file is of' in str(caught.value))


@pytest.mark.parametrize('floor', [6, 0.85])
def test_partial_load_is_counted(floor, silent):
    net, state = _net(), _broken('missing')
    bias = net[0].bias.clone()
    report = ckpt.load_verified(net, state, what='net', floor=floor, logger=silent)
    assert (report.loaded, report.total, report.missing) == (6, 7, ('0.bias',))
    assert torch.equal(net[0].weight, state['0.weight'])
    assert torch.equal(net[0].bias, bias)


@pytest.mark.parametrize('floor', [7, 0.9])
def test_partial_load_below_the_floor_is_refused(floor):
    net = _net()
    weight = net[0].weight.clone()
    with pytest.raises(CheckpointError, match='6/7 tensors match, at least'):
        ckpt.load_verified(net, _broken('missing'), what='net', floor=floor)
    assert torch.equal(net[0].weight, weight)


def test_the_log_says_how_many(caplog):
    import logging

    with caplog.at_level(logging.INFO):
        ckpt.load_verified(
            _net(),
            _net().state_dict(),
            what='the encoder',
            logger=logging.getLogger('test_checkpoint'),
        )
    assert 'loaded 7/7 tensors into the encoder' in caplog.text


def test_a_load_hook_that_alters_weights_is_noticed(silent):
    class Halved(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            state_dict[f'{prefix}weight'] = state_dict[f'{prefix}weight'] / 2
            super()._load_from_state_dict(state_dict, prefix, *args)

    with pytest.raises(CheckpointError, match='weight differs from the file after loading'):
        ckpt.load_verified(Halved(2, 2), nn.Linear(2, 2).state_dict(), what='x', logger=silent)


def test_module_versions_come_from_the_module(silent):
    seen = []

    class Patched(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append(local_metadata.get('version'))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    plain = dict(nn.Linear(2, 2).state_dict())
    ckpt.load_verified(Patched(2, 2), plain, what='x', logger=silent)
    assert seen == [2]


def test_prune_checkpoints(tmp_path):
    for name in (
        'iter_1',
        'iter_2',
        'iter_10',
        'iter_30',
        'iter_200',
        'best_knn_iter_1',
        'epoch_x',
    ):
        (tmp_path / f'{name}.pth').touch()
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_2.pth')
    deleted = ckpt.prune_checkpoints(tmp_path, 2, keep=['iter_1.pth'])
    assert [p.name for p in deleted] == ['iter_10.pth']
    assert len(list(tmp_path.glob('*.pth'))) == 6
    with pytest.raises(ValueError, match='at least 1'):
        ckpt.prune_checkpoints(tmp_path, 0)
