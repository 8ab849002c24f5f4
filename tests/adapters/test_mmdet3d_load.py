"""Files for mmdet3d, loaded by mmdet3d: its patched spconv loader drops kernels silently."""

import collections
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint
from torch import nn

from mmjepa.adapters import FORMATS, read_encoder, write_encoder
from mmjepa.adapters.sparse_encoder import encoder_keys
from mmjepa.engine.checkpoint import load_verified
from mmjepa.engine.hooks import LoadEncoderHook
from mmjepa.engine.hooks.native_spconv import use_native_kernels

SECOND = '.mim/configs/second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py'
GRID = [41, 64, 48]
TOY_SHAPE = [41, 128, 128]  # of toy_lidar.py
RESIDUAL = {
    'block_type': 'basicblock',
    'encoder_channels': ((16, 16, 32), (32, 32, 64), (64, 64, 128), (128, 128)),
    'encoder_paddings': ((0, 0, 1), (0, 0, 1), (0, 0, (0, 1, 1)), (0, 0)),
}


@pytest.fixture(scope='module')
def build():
    """Builds a model config in mmdet3d's scope; skips where mmdet3d isn't installed."""
    pytest.importorskip('spconv', exc_type=ImportError)
    pytest.importorskip('mmdet3d.models', exc_type=ImportError)
    from mmdet3d.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    from mmdet3d.registry import MODELS

    return lambda config: MODELS.build({**config, '_scope_': 'mmdet3d'})


@pytest.fixture(params=['SparseEncoder', 'mmjepa.SparseVoxelEncoder'])
def voxelnet(request, build):
    """SECOND as in mmdet3d's KITTI config, with its encoder or ours in the place of it."""
    import mmdet3d
    from mmengine.config import Config

    import mmjepa.models  # noqa: F401

    config = Config.fromfile(Path(mmdet3d.__file__).parent / SECOND).model
    config.middle_encoder.sparse_shape = TOY_SHAPE
    if request.param != 'SparseEncoder':
        config.middle_encoder = {
            'type': request.param,
            'in_channels': 4,
            'sparse_shape': TOY_SHAPE,
        }
    return build(config)


@pytest.fixture
def exported(tmp_path, mmjepa_file):
    path = tmp_path / 'second_init.pth'
    assert write_encoder(read_encoder(mmjepa_file, 'mmjepa'), path, 'mmdet3d') == (72, 72)
    return path


def _equal(module, state):
    own = module.state_dict()
    assert set(own) == set(state)
    return sum(torch.equal(own[k], v) for k, v in state.items())


def test_keys_and_shapes_are_those_of_sparse_encoder(build, make_state):
    for kind, extra in (('conv_module', {}), ('basicblock', RESIDUAL)):
        encoder = build({'type': 'SparseEncoder', 'in_channels': 4, 'sparse_shape': GRID, **extra})
        state = encoder.state_dict()
        assert set(state) == set(encoder_keys(kind))
        assert {k: v.shape for k, v in state.items()} == {
            k: v.shape for k, v in make_state(kind).items()
        }


def test_the_trap_is_there(voxelnet, make_state, tmp_path):
    """A plain rename loses the 12 kernels of spconv modules, and MMEngine only warns."""
    path = tmp_path / 'naive.pth'
    torch.save({'state_dict': {f'middle_encoder.{k}': v for k, v in make_state().items()}}, path)
    load_checkpoint(voxelnet, str(path), logger='silent')
    theirs = type(voxelnet.middle_encoder).__name__ == 'SparseEncoder'
    assert _equal(voxelnet.middle_encoder, make_state()) == (60 if theirs else 72)


def load_exported(detector, path):
    load_checkpoint(detector, str(path), logger='silent')


def test_load_checkpoint(voxelnet, exported, make_state):
    load_exported(voxelnet, exported)
    assert _equal(voxelnet.middle_encoder, make_state()) == 72


def test_plain_torch_load(voxelnet, exported, make_state):
    state = torch.load(exported, weights_only=True)['state_dict']
    result = voxelnet.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert not [k for k in result.missing_keys if k.startswith('middle_encoder.')]
    assert _equal(voxelnet.middle_encoder, make_state()) == 72


def test_load_from_of_the_runner(voxelnet, exported, make_state, tmp_path):
    from mmengine.runner import Runner

    runner = Runner(
        voxelnet,
        str(tmp_path / 'run'),
        load_from=str(exported),
        log_level='ERROR',
        experiment_name=f'load_from_{id(voxelnet)}',
    )
    runner.load_or_resume()
    assert _equal(runner.model.middle_encoder, make_state()) == 72


def through_the_hook(detector, path):
    logger = logging.getLogger('hook')
    LoadEncoderHook(str(path)).before_train(
        SimpleNamespace(bare_model=detector, distributed=False, iter=0, cfg={}, logger=logger)
    )


@pytest.mark.parametrize('kind', ['checkpoint', 'ddp', 'plain', 'exported'])
def test_hook_fills_the_detector(voxelnet, mmjepa_file, exported, make_state, tmp_path, kind):
    content = torch.load(mmjepa_file, weights_only=True)
    path = tmp_path / 'given.pth'
    if kind == 'ddp':
        content['state_dict'] = {f'module.{k}': v for k, v in content['state_dict'].items()}
    torch.save(content['state_dict'] if kind == 'plain' else content, path)
    through_the_hook(voxelnet, exported if kind == 'exported' else path)
    assert _equal(voxelnet.middle_encoder, make_state()) == 72


@pytest.mark.parametrize('name', ['pts_middle_encoder', ''])
def test_revise_keys_to_another_detector(build, exported, make_state, name):
    encoder = build({'type': 'SparseEncoder', 'in_channels': 4, 'sparse_shape': GRID})
    model = nn.ModuleDict({name: encoder}) if name else encoder
    revise = [(r'^middle_encoder', name)] if name else [(r'^middle_encoder\.', '')]
    load_checkpoint(model, str(exported), revise_keys=revise, logger='silent')
    assert _equal(encoder, make_state()) == 72


def test_from_a_detector_that_mmdet3d_saved(voxelnet, tmp_path):
    from mmengine.runner.checkpoint import get_state_dict, save_checkpoint

    path = tmp_path / 'second.pth'
    save_checkpoint({'meta': {}, 'state_dict': get_state_dict(voxelnet)}, str(path))
    encoder = read_encoder(path, 'auto')
    assert encoder.notes[0] == 'found format mmdet3d'
    assert _equal(voxelnet.middle_encoder, encoder.state) == 72


def test_load_verified_is_not_fooled_by_missing_versions(voxelnet, make_state):
    plain = dict(make_state())
    report = load_verified(voxelnet.middle_encoder, plain, what='encoder', logger='silent')
    assert (report.loaded, report.total) == (72, 72)
    assert _equal(voxelnet.middle_encoder, plain) == 72


def _native(encoder):
    assert use_native_kernels(encoder)
    return encoder.eval()


@pytest.mark.parametrize(('kind', 'extra'), [('conv_module', {}), ('basicblock', RESIDUAL)])
def test_openpcdet_weights_give_openpcdet_outputs(build, make_state, tmp_path, kind, extra):
    """The whole network with the biases added after each convolution, against the folded one."""
    adapter = FORMATS['openpcdet']
    theirs = adapter.encode(make_state(kind))
    theirs = {k: v / 15 if v.ndim == 5 else v for k, v in theirs.items()}  # outputs of order one
    biases = {k: torch.randn_like(theirs[k]) for k in theirs if re.search(r'conv[12]\.bias$', k)}
    pretrained = tmp_path / 'released.pth'
    torch.save(
        {'model_state': {f'backbone_3d.{k}': v for k, v in (theirs | biases).items()}}, pretrained
    )
    out = tmp_path / 'init.pth'
    equal, total = write_encoder(read_encoder(pretrained, 'openpcdet'), out, 'mmdet3d')
    assert equal == total == (126 if biases else 72)

    config = {'type': 'SparseEncoder', 'in_channels': 4, 'sparse_shape': GRID, **extra}
    folded, plain = (_native(build(config)) for _ in range(2))
    load_checkpoint(nn.ModuleDict({'middle_encoder': folded}), str(out), logger='silent')
    common, _ = adapter.decode(theirs)
    load_verified(plain, common, what='unfolded', logger='silent')
    from mmjepa.adapters.openpcdet import to_common

    for key, bias in biases.items():
        conv = plain.get_submodule(to_common(key, True).removesuffix('.bias'))
        conv.register_forward_hook(
            lambda _, __, result, bias=bias: result.replace_feature(result.features + bias)
        )
    rng = torch.Generator().manual_seed(0)
    cells = torch.randperm(GRID[0] * GRID[1] * GRID[2], generator=rng)[:2000]
    zyx = torch.stack(torch.unravel_index(cells, GRID), 1).int()
    coors = torch.cat([torch.zeros(len(zyx), 1, dtype=torch.int32), zyx], 1)
    feats = torch.randn(len(zyx), 4, generator=rng)
    with torch.no_grad():
        wanted, got = plain(feats, coors, 1), folded(feats, coors, 1)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_metadata_is_needed_for_every_convolution(exported):
    state = torch.load(exported, weights_only=True)['state_dict']
    versions = collections.Counter(m['version'] for m in state._metadata.values())
    assert set(versions) == {2}
    for prefix in ('middle_encoder.', 'pts_middle_encoder.', ''):
        assert all(
            prefix + k.removeprefix('middle_encoder.').rsplit('.', 1)[0] in state._metadata
            for k in state
        )


@pytest.mark.parametrize('backend', ['spconv', 'rulebook'])
def test_features_after_one_step_of_pretraining(voxelnet, repo, tmp_path, backend):
    """Pre-train a step, export, load into SECOND: extract_feat and the detector see the same."""
    from toy_lidar import TOY_RANGE, TOY_VOXEL, toy_scene

    from mmjepa.engine.checkpoint import atomic_save
    from mmjepa.engine.config import load_config
    from mmjepa.registry import MODELS

    options = {'point_cloud_range': TOY_RANGE, 'voxel_size': TOY_VOXEL}
    options['model.encoder.backend'] = backend
    model = MODELS.build(load_config(repo / 'configs/adl_jepa/kitti.py', options).model)
    data = {
        'inputs': {'points': [torch.from_numpy(toy_scene(i)) for i in range(2)]},
        'data_samples': [{'sample_seed': i} for i in range(2)],
    }
    inputs = model.data_preprocessor(data, True)['inputs']
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    sum(v for k, v in model.loss(inputs).items() if 'loss' in k).backward()
    optimizer.step()
    state, meta = model.state_dict(), {'method': 'ADLJEPA'}
    source, ddp, out = (tmp_path / f'{name}.pth' for name in ('jepa', 'ddp', 'second'))
    atomic_save({'meta': meta, 'state_dict': state}, source)
    atomic_save({'meta': meta, 'state_dict': {f'module.{k}': state[k] for k in state}}, ddp)
    write_encoder(read_encoder(source, 'mmjepa'), out, 'mmdet3d')
    encoder = voxelnet.middle_encoder.eval()
    use_native_kernels(encoder)  # of mmdet3d's own
    model.eval()
    with torch.no_grad():
        ours = model.extract_feat(inputs)
    assert ours.abs().max() > 0
    for load, path in ((load_exported, out), (through_the_hook, ddp)):
        for value in encoder.state_dict().values():
            value.zero_()
        load(voxelnet, path)
        with torch.no_grad():
            detectors = encoder(inputs['feats'], inputs['coors'].int(), 2)
        if backend == 'spconv':  # the detector's, of either encoder
            assert torch.equal(detectors, ours)
        else:
            atol = 1e-6 * float(ours.abs().max())
            torch.testing.assert_close(detectors, ours, rtol=1e-4, atol=atol)
    if torch.cuda.is_available():  # with the kernels of the device
        with torch.no_grad():
            there = encoder.cuda()(inputs['feats'].cuda(), inputs['coors'].int().cuda(), 2)
        atol = 1e-4 * float(ours.abs().max())
        torch.testing.assert_close(there.cpu(), ours, rtol=1e-4, atol=atol)
